"""JSON files: equal values give equal bytes.

Not for tables of rows (tables.py). The invariant: what was written is read back as the same value, or the file is told
to be damaged.
"""

import json
from typing import Any

from emray.store.damage import damaged
from emray.store.files import Files


def read_json(files: Files, name: str) -> Any:
    """Raises FileNotFoundError, or StoreError when the file is not JSON."""
    return value_of(files.read_bytes(name), root=files.root, name=name)


def value_of(content: bytes, *, root: str, name: str) -> Any:
    """The value of a file's content. Raises StoreError when it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise damaged(root, name, "it is not JSON") from None


def write_json(files: Files, name: str, value: Any) -> None:
    """Sorted keys, two spaces, NaN refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    files.write_bytes(name, (text + "\n").encode())
