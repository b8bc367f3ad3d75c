"""One request to one OpenAI-compatible endpoint, once: a reply, or the kind of failure it was.

Not for retrying or pacing (asker.py), nor for what a failure means (refusals.py) or a body holds (completion.py). The
invariant: whatever the endpoint does, the caller gets a `Reply` or a `CallFailed` whose kind says what may be done.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import openai

from emray.endpoint.access import Access
from emray.endpoint.bodies import MOST_REPLY_BYTES, PLAIN, TooLong, limiting_async
from emray.endpoint.completion import read_completion
from emray.endpoint.refusals import CallFailed, Failure, body_of, refusal
from emray.endpoint.reply import Reply
from emray.spec import EndpointSpec

OPENAI = "https://api.openai.com/v1"  # said here, so that a worker's own environment does not decide
CONNECT_TIMEOUT_S = 10.0
AZURE = ".azure.com"  # how the hosts end that want a key in a header of its own
_API_VERSION = "api-version"  # asked for by Azure's bases alone


class Address(NamedTuple):
    """A base URL as the SDK wants it: without its query, and with what Azure wants beside a bearer token."""

    base_url: str | None  # None: OpenAI's own
    query: Mapping[str, str]
    headers: Mapping[str, str]
    direct: bool  # past any proxy

    @classmethod
    def of(cls, access: Access) -> "Address":
        url = urlsplit(access.base_url or "")
        query = dict(parse_qsl(url.query))
        host = url.hostname or ""
        azure = _API_VERSION in query or host.endswith(AZURE)
        plain = urlunsplit(url._replace(query="", fragment="")) or None
        return cls(plain, query, {"api-key": access.key} if azure else {}, is_near(host))


def is_near(host: str) -> bool:
    """Whether a host is this machine or, by its bare address, in this network: no proxy serves it."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host is whatever machine one asks from."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sdk_arguments(access: Access) -> dict[str, Any]:
    """What a client of the SDK is made with. It never retries: our limiter has to see every attempt."""
    address = Address.of(access)
    return {
        "api_key": access.key,
        "organization": access.organization,
        "project": access.project,
        "base_url": address.base_url or OPENAI,
        "default_query": address.query,
        "default_headers": {**PLAIN, **address.headers},
        "max_retries": 0,
    }


class ChatClient:
    """The endpoint. Made on the event loop that uses it."""

    def __init__(self, spec: EndpointSpec, access: Access) -> None:
        address = Address.of(access)
        self._client = openai.AsyncOpenAI(
            **sdk_arguments(access),
            timeout=httpx2.Timeout(spec.timeout_s, connect=CONNECT_TIMEOUT_S),
            http_client=openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                trust_env=not address.direct,
                event_hooks=limiting_async(MOST_REPLY_BYTES),
            ),
        )
        self.base_url = str(self._client.base_url)

    async def send(self, request: Mapping[str, Any]) -> tuple[Reply, Mapping[str, str]]:
        """The reply and its headers. Raises CallFailed."""
        try:
            response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=dict(request))
            content = response.content
        except openai.APIStatusError as error:
            raise status_failure(error) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise connection_failure(error) from None
        return read_completion(content, headers=response.headers), response.headers

    async def close(self) -> None:
        await self._client.close()


def status_failure(error: openai.APIStatusError) -> CallFailed:
    """What a status other than 2xx means."""
    body = body_of(error.response.content)
    return refusal(error.status_code, body, headers=error.response.headers)


def connection_failure(error: BaseException) -> CallFailed:
    """By the cause at the bottom, which names host and reason: layers above call a refused connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, TooLong):
        return CallFailed(Failure.BROKEN, str(error))
    kind = Failure.TIMEOUT if isinstance(error, TimeoutError) else Failure.CONNECTION
    return CallFailed(kind, f"{type(error).__name__}: {error}")
