"""Whole files under one root, behind one small interface, and a local folder as one; objects.py has the other.

Not for what is in them. The invariant: a file appears under its name complete or not at all, and a file that was made
for the first time (`create`) or in place of one version (`replace`) was so for one writer alone.
"""

import errno
import fcntl
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa

from emray.errors import StoreError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")

_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

Version = str  # of a file's content; only ever compared


class Versioned(NamedTuple):
    """A file's content, and what to name it by when replacing it."""

    content: bytes
    version: Version


class Files(Protocol):
    """Files by their names below the root, as `folder/name`. Names that start with a dot are not listed."""

    root: str  # absolute: workers have other working directories
    readers: int  # how many files are worth reading at once

    def exists(self, name: str) -> bool: ...

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def write_bytes(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Readers see the old file or the new one; a `durable` one also outlives a loss of power."""

    def put_file(self, name: str, path: Path) -> None:
        """The same from a local file of any size."""

    def take_file(self, name: str, path: Path) -> None:
        """The same from a local file that nobody will write to: without a copy where the disk can name it twice."""

    def read_version(self, name: str) -> Versioned:
        """Raises FileNotFoundError."""

    def create(self, name: str, content: bytes) -> Version | None:
        """Write a file that is not there yet; None when it is."""

    def replace(self, name: str, content: bytes, *, version: Version) -> Version | None:
        """Write over one version of a file; None when it is not that version any more."""

    def open_append(self, name: str) -> BinaryIO | None:
        """A file that grows by what is written to it; None where files only come whole (object stores)."""

    def opened(self, name: str, *, size: int) -> AbstractContextManager[pa.NativeFile]:
        """For reading pieces of a file whose size is known. Raises FileNotFoundError."""

    def local_path(self, name: str) -> Path | None:
        """Where the file lies on this machine; None when the root is elsewhere."""

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        """Bytes of the files in a folder (not of those below it) by `folder/name`, in the order of their names."""

    def sizes_below(self, folder: str) -> dict[str, int]:
        """The same of the files in the folders below it too ("": of all)."""

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder, without their parent."""

    def move(self, name: str, *, to: str) -> None:
        """Give a file another name, over what is there. Raises FileNotFoundError."""

    def temporaries(self, *, older_than_s: float) -> dict[str, int]:
        """Bytes, by name, of what writers that died left of files that never appeared."""

    def delete(self, name: str) -> None:
        """Remove a file or a folder that may not be there."""

    def delete_files(self, names: Sequence[str]) -> None:
        """Remove many files, any of which may not be there."""


class LocalFiles:
    """A folder: a temporary name that starts with a dot, then a rename.

    One that is `known` to be there is not made again: where it is missing, this node does not share it.
    """

    readers = 4

    def __init__(self, root: str, *, known: bool = False) -> None:
        self._path = Path(root).expanduser().resolve()
        self.root = str(self._path)
        self._known = known

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def read_bytes(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write_bytes(self, name: str, content: bytes, *, durable: bool = False) -> None:
        with self._temporary(name) as path:
            _write(path, content, durable=durable)
            path.replace(self._path / name)

    def put_file(self, name: str, path: Path) -> None:
        with self._temporary(name) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("rb") as file:  # a record follows, which a loss of power must not leave alone
                os.fsync(file.fileno())
            temporary.replace(self._path / name)

    def take_file(self, name: str, path: Path) -> None:
        with self._temporary(name) as temporary, suppress(OSError):  # another disk, or one without hard links
            os.link(path, temporary)
            temporary.replace(self._path / name)
            return
        self.put_file(name, path)

    def read_version(self, name: str) -> Versioned:
        content = self.read_bytes(name)
        return Versioned(content, content.hex())

    def create(self, name: str, content: bytes) -> Version | None:
        with self._temporary(name) as path:
            _write(path, content, durable=True)
            try:
                os.link(path, self._path / name)  # refuses what is there, as a rename does not
            except FileExistsError:
                return None
            except OSError:  # a filesystem without hard links
                return self._create_in_place(name, content)
        return content.hex()

    def _create_in_place(self, name: str, content: bytes) -> Version | None:
        try:
            with (self._path / name).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return None
        return content.hex()

    def replace(self, name: str, content: bytes, *, version: Version) -> Version | None:
        with self._alone_with(name):
            try:
                if self.read_version(name).version != version:
                    return None
            except FileNotFoundError:
                return None
            self.write_bytes(name, content, durable=True)
        return content.hex()

    def open_append(self, name: str) -> BinaryIO | None:
        with full_disk_told(self.root):
            return self._made_room(name).open("ab")

    def opened(self, name: str, *, size: int) -> AbstractContextManager[pa.NativeFile]:
        return pa.OSFile(str(self._path / name))

    def local_path(self, name: str) -> Path | None:
        return self._path / name

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        found = {}
        for entry in self._entries(folder):
            if entry.name.endswith(suffix) and not entry.name.startswith("."):
                with suppress(FileNotFoundError):  # deleted since it was listed
                    if entry.is_file():
                        found[f"{folder}/{entry.name}"] = entry.stat().st_size
        return dict(sorted(found.items()))

    def sizes_below(self, folder: str) -> dict[str, int]:
        found, left = {}, [folder]
        while left:
            for entry in self._entries(here := left.pop()):
                name = f"{here}/{entry.name}" if here else entry.name
                with suppress(FileNotFoundError):  # deleted since it was listed
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        left.append(name)
                    elif entry.is_file():
                        found[name] = entry.stat().st_size
        return dict(sorted(found.items()))

    def folders(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(folder) if entry.is_dir())

    def move(self, name: str, *, to: str) -> None:
        (self._path / name).replace(self._made_room(to))

    def temporaries(self, *, older_than_s: float) -> dict[str, int]:
        found = {}
        for path in self._path.rglob(".*"):
            with suppress(FileNotFoundError):
                if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > older_than_s:
                    found[path.relative_to(self._path).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        path = self._path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def delete_files(self, names: Sequence[str]) -> None:
        for name in names:
            (self._path / name).unlink(missing_ok=True)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._path / folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _made_room(self, name: str) -> Path:
        """Where the file goes, in a folder that is there."""
        if self._known and not self._path.is_dir():
            raise StoreError(
                f"{self.root} is not on {socket.gethostname()}: the nodes of the cluster do not share it; "
                "give --out a shared folder or s3://bucket/prefix"
            )
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        with full_disk_told(self.root):
            path = self._made_room(name)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _alone_with(self, name: str) -> Iterator[None]:
        """One process at a time, where the filesystem has locks; where it has none, between two moments apart."""
        path = self._path / name
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            with suppress(OSError):  # a network filesystem without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def full_disk_told(root: str) -> Iterator[None]:
    """That a disk takes no more is a StoreError, which crosses processes as what it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TAKES_NO_MORE:
            raise
        raise StoreError(
            f"cannot write to {root}: {error.strerror}; make room and run the same command again, "
            "all that is done is kept"
        ) from None


def _write(path: Path, content: bytes, *, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
