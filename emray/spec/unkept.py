"""What must not stand in a sweep file, because plans and reports carry its words on: keys, in whatever guise.

Not for reading keys (endpoint/client.py). The invariant: what is refused here is not repeated in the refusal.
"""

import re
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

SECRET = "secret"  # the type of these refusals: the given value is not shown
_KEY_NAME = re.compile(
    r"(?i)(^|[-_])(key|apikey|token|secrets?|password|passphrase|passwd|pwd|authorization|auth|code|sig|signature|credentials?)$"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def names_of_keys(names: Iterable[str]) -> list[str]:
    """Those among the names of fields or query parameters whose values are credentials."""
    return [name for name in names if _KEY_NAME.search(name)]


def key_in_url(url: str) -> str | None:
    """Where a base URL holds credentials, in words; None where it holds none."""
    try:
        parts = urlsplit(url.strip())
        found = names_of_keys(name for name, _ in parse_qsl(parts.query))
    except ValueError:
        return None  # not a URL; whoever asks there says so
    if parts.password or parts.username:
        return "credentials before its host"
    return f"a credential in its query ({', '.join(found)})" if found else None


def _keeps_no_key(url: str) -> str:
    if where := key_in_url(url):
        raise PydanticCustomError(
            SECRET, f"the URL holds {where}, which would reach plans and reports; put the key into an environment "
            "variable and name it in api_key_env"
        )  # fmt: skip
    return url


def _is_a_name(variable: str) -> str:
    if not _VARIABLE.fullmatch(variable):
        raise PydanticCustomError(SECRET, "is the name of an environment variable (letters, digits, _), not the key")
    return variable


EndpointUrl = Annotated[str, AfterValidator(_keeps_no_key)]
VariableName = Annotated[str, AfterValidator(_is_a_name)]
