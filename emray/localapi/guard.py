"""Who may ask the local server: those on this machine who name it as such, with its key where it has one.

Not for limits or faults. The invariant: no path, known or unknown, answers without the key; and no page in a browser
gets here under a name of its own (DNS rebinding), since the Host header has to be one of loopback's.
"""

import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from emray.localapi.completions import BadRequest

_AZURE_HEADER = "api-key"


def guard(api_key: str | None, *, refused: Callable[[web.Request, int], None]) -> Middleware:
    """`api_key` None: any key, or none. `refused` hears of every refusal, with its status."""

    def refuse(request: web.Request, refusal: BadRequest) -> web.Response:
        refused(request, refusal.status)
        return web.json_response(refusal.json(), status=refusal.status)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_loopback(request.host):
            return refuse(request, BadRequest("This server answers under loopback's names alone.", status=403))
        keys = (key_of_request(request), request.headers.get(_AZURE_HEADER, ""))
        if api_key is not None and not any(hmac.compare_digest(key.encode(), api_key.encode()) for key in keys):
            return refuse(request, BadRequest("Incorrect API key provided.", status=401, code="invalid_api_key"))
        return await handler(request)

    return guarded


def key_of_request(request: web.Request) -> str:
    """The bearer token; empty without one."""
    return request.headers.get("Authorization", "").removeprefix("Bearer ").strip()


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
