"""Where an endpoint is and what it is asked with: read from the environment once, by the command that starts it all.

Not for what the sweep file says of it (spec/endpoint.py, which holds no key). The invariant: a key travels to workers
as an argument that shows itself masked, never as a setting of theirs, which Ray writes into its logs.
"""

import os
from dataclasses import dataclass, field

from emray.errors import UserError
from emray.spec import EndpointSpec
from emray.spec.unkept import key_in_url

NO_KEY = "none"  # sent to endpoints that ask for no key

_own: dict[str, str] = {}  # keys of the servers that this process has started, by their base URL


@dataclass(frozen=True)
class Access:
    """An endpoint's address and credentials. `base_url` None is OpenAI."""

    base_url: str | None
    key: str = field(repr=False)
    organization: str | None = field(default=None, repr=False)
    project: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, spec: EndpointSpec, *, base_url: str | None) -> "Access":
        """As openai users set it; `base_url` None: $OPENAI_BASE_URL, or OpenAI. Raises UserError."""
        if own := _own.get(base_url or ""):
            return cls(base_url, own)
        url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip() or None
        if url and (where := key_in_url(url)):
            raise UserError(f"OPENAI_BASE_URL holds {where}, which error texts repeat; put it into {spec.api_key_env}")
        return cls(url, _key(spec, url), os.environ.get("OPENAI_ORG_ID"), os.environ.get("OPENAI_PROJECT_ID"))


def introduce(base_url: str, *, key: str) -> None:
    """Make a server of this process's own known to it."""
    _own[base_url] = key


def _key(spec: EndpointSpec, base_url: str | None) -> str:
    """From the environment; endpoints other than OpenAI's may do without."""
    key = os.environ.get(spec.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{spec.api_key_env} holds something other than a key: a line break or a letter beyond ASCII")
    if not key and base_url is None:
        raise UserError(f"no API key: set {spec.api_key_env}, or base_url to an endpoint that needs none")
    return key or NO_KEY
