"""JSON files: equal values give equal bytes.

Not for tables of rows (tables.py). The invariant: what was written is read back as the same value, or the file is told
to be damaged.
"""

import json
from typing import Any

from emray.errors import StoreError
from emray.store.files import Files


def read_json(files: Files, name: str) -> Any:
    """Raises FileNotFoundError, or StoreError when the file is not JSON."""
    content = files.read_bytes(name)
    try:
        return json.loads(content)
    except ValueError:
        raise StoreError(f"{files.root}/{name} is not JSON; delete it and run again") from None


def write_json(files: Files, name: str, value: Any) -> None:
    """Sorted keys, two spaces, NaN refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    files.write_bytes(name, (text + "\n").encode())
