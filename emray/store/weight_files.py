"""Whether the files that training left are whole: from their first bytes, or from all of them.

Not for loading them. The invariant: a safetensors file that is shorter or longer than its own header says is found, for
the price of reading that header; a flipped bit in any file is, for the price of reading it.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Protocol

WEIGHTS = ".safetensors"
CHUNK = 16 * 2**20  # bytes read at once
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it


class Readable(Protocol):
    """A file that is open."""

    def read(self, size: int, /) -> bytes: ...


def digest_of(file: Readable) -> str:
    """Of its bytes, as sha256sum prints it."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def fault_of(name: str, size: int, start: Callable[[int], bytes]) -> str | None:
    """What is wrong with one file of an adapter; `start(n)` gives its first n bytes."""
    if name.endswith(WEIGHTS):
        return _weights_fault(size, start)
    if name.endswith(".json"):
        try:
            json.loads(start(size))
        except (ValueError, RecursionError):
            return "it is not JSON"
    return None


def _weights_fault(size: int, start: Callable[[int], bytes]) -> str | None:
    """The format: 8 bytes with the header's length, the header (JSON), the numbers."""
    if size < 8:
        return f"it has {size} bytes, less than a header"
    (length,) = struct.unpack("<Q", start(8))
    if length > min(LONGEST_HEADER, size - 8):
        return f"its header should have {length:,} bytes, the file has {size:,}"
    try:
        header = json.loads(start(8 + length)[8:])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return "its header cannot be read"
    wanted = 8 + length + max(ends, default=0)
    return None if size == wanted else f"it has {size:,} bytes, its header says {wanted:,}"
