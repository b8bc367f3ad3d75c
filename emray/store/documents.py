"""JSON files: equal values give equal bytes, and an object says its own digest.

Not for tables of rows (tables.py). The invariant: what was written is read back as the same value, or the file is told
to be damaged; one without a digest (of an earlier version, or by another hand) is taken at its word.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from emray.store.damage import damaged
from emray.store.files import Files

SEAL = "digest"  # the key of an object's digest, which readers do not see
DIGITS = 64  # of a digest


def read_json(files: Files, name: str) -> Any:
    """Raises FileNotFoundError, or StoreError when the file is not JSON."""
    return value_of(files.read_bytes(name), root=files.root, name=name)


def value_of(content: bytes, *, root: str, name: str) -> Any:
    """The value of a file's content. Raises StoreError when it is not JSON, or not as its digest says."""
    try:
        value = json.loads(content)
        whole = not isinstance(value, dict) or _is_whole(value)
    except (ValueError, RecursionError):
        raise damaged(root, name, "it is not JSON") from None
    if not whole:
        raise damaged(root, name, "it is not as its digest says")
    return _unsealed(value) if isinstance(value, dict) else value


def write_json(files: Files, name: str, value: Any) -> None:
    """Sorted keys, two spaces, NaN refused."""
    if isinstance(value, Mapping):
        plain = json.loads(_text(value))  # as it will be read: keys that are no text become text
        assert SEAL not in plain, f"{SEAL!r} is the key of the digest"
        value = plain | {SEAL: _digest(plain)}
    files.write_bytes(name, (_text(value) + "\n").encode())


def _is_whole(value: dict[str, Any]) -> bool:
    """Whether an object is as its digest says. One that stands under another name is a seal whose own key changed."""
    if SEAL in value:
        return value[SEAL] == _digest(_unsealed(value))
    others = (key for key, text in value.items() if isinstance(text, str) and len(text) == DIGITS)
    return not any(value[key] == _digest(_unsealed(value, seal=key)) for key in others)


def _unsealed(value: dict[str, Any], *, seal: str = SEAL) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key != seal}


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _digest(value: Any) -> str:
    """Of the value, not of its bytes: a file that another program has laid out anew is as whole as before."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
