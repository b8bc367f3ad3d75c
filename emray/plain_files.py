"""Files that people name, read whole: ordinary ones, of a size that memory holds, packed or not.

Not for what is in them. The invariant: no more than MOST_BYTES is ever in memory, and nothing is waited for: a FIFO, a
device or a bomb is an OSError that says so, as one that is missing.
"""

import errno
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 512 * 2**20  # of a file and of what it unpacks to; the paper's largest has 10 MB
_MIB = 2**20


def read_plain(path: Path) -> bytes:
    """The file's bytes. Raises OSError."""
    if _plain_size(path) > MOST_BYTES:
        raise _too_large(path)
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)  # a file under /proc has no size, and some have no end
    if len(content) > MOST_BYTES:
        raise _too_large(path)
    return content


def read_plain_text(path: Path) -> str:
    """The same as UTF-8. Raises OSError or UnicodeDecodeError."""
    return read_plain(path).decode()


def plain_lines(path: Path) -> Iterator[str]:
    """The lines of a file of any length, with their ends. Raises OSError or UnicodeDecodeError."""
    _plain_size(path)
    with path.open(encoding="utf-8-sig") as file:
        while line := file.readline(MOST_BYTES):
            if len(line) == MOST_BYTES:
                raise _too_large(path)
            yield line


def unpacked(content: bytes, *, path: Path) -> bytes:
    """What was gzipped, every member. Raises OSError, zlib.error, EOFError."""
    found = bytearray()
    while content:
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        found += unpacker.decompress(content, MOST_BYTES + 1 - len(found))
        if len(found) > MOST_BYTES:
            raise _too_large(path)
        if not unpacker.eof:
            raise EOFError("the gzip file is cut short")
        content = unpacker.unused_data.lstrip(b"\0")
    return bytes(found)


def read_member(archive: zipfile.ZipFile, name: str, *, path: Path) -> bytes:
    """A member of an archive. Raises OSError, KeyError, and what zipfile raises."""
    with archive.open(name) as member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _too_large(path)
    return content


def _plain_size(path: Path) -> int:
    """Bytes of an ordinary file. Raises OSError for any other."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = (
            "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe, not a file: copy what it gives to one"
        )
        raise OSError(errno.EINVAL, f"it is {kind}", str(path))
    return found.st_size


def _too_large(path: Path) -> OSError:
    return OSError(errno.EFBIG, f"it holds more than {MOST_BYTES // _MIB} MiB, more than is read at once", str(path))
