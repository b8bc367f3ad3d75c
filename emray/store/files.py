"""Whole files under one root: a local folder or any other place pyarrow knows (`s3://bucket/prefix`).

Not for what is in them. The invariant: a file appears under its name complete or not at all (temporary name, then
rename), and listings leave out names that start with a dot.
"""

import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs

from emray.errors import StoreError


class Files:
    """Files by their names below the root, as `folder/name`. Cheap to make."""

    def __init__(self, root: str) -> None:
        self._fs, self._path = _open(root)
        self.root = root if "://" in root else self._path  # absolute: workers have other working directories

    def exists(self, name: str) -> bool:
        return self._fs.get_file_info(self._at(name)).type != fs.FileType.NotFound

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        with self._fs.open_input_file(self._at(name)) as file:
            return file.read()

    def write_bytes(self, name: str, content: bytes) -> None:
        """Atomic: readers see the old file or the new one."""
        parent, _, last = self._at(name).rpartition("/")
        self._fs.create_dir(parent, recursive=True)
        temporary = f"{parent}/.{last}.{uuid.uuid4().hex}"
        with self._fs.open_output_stream(temporary) as file:
            file.write(content)
        self._fs.move(temporary, f"{parent}/{last}")

    def open_append(self, name: str) -> BinaryIO | None:
        """A file that grows by what is written to it; None where files only come whole (object stores)."""
        if "://" in self.root:
            return None
        path = Path(self._at(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")

    def open_input(self, name: str) -> pa.NativeFile:
        """For reading parts of a file. Raises FileNotFoundError."""
        return self._fs.open_input_file(self._at(name))

    def local_path(self, name: str) -> Path | None:
        """Where the file lies on this machine; None when the root is elsewhere."""
        return Path(self._at(name)) if isinstance(self._fs, fs.LocalFileSystem) else None

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """Sorted names of the files in a folder (not in those below it), as `folder/name`."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        found = (PurePosixPath(info.path).name for info in self._fs.get_file_info(selector) if info.is_file)
        return sorted(f"{folder}/{name}" for name in found if not name.startswith(".") and name.endswith(suffix))

    def sizes(self, names: list[str]) -> dict[str, int]:
        """Bytes of files by name."""
        infos = self._fs.get_file_info([self._at(name) for name in names])
        return {name: info.size for name, info in zip(names, infos, strict=True)}

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder, without their parent."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        return sorted(PurePosixPath(i.path).name for i in infos if i.type == fs.FileType.Directory)

    def delete(self, name: str) -> None:
        """Remove a file or a folder that may not be there."""
        kind = self._fs.get_file_info(self._at(name)).type
        if kind == fs.FileType.Directory:
            self._fs.delete_dir(self._at(name))
        elif kind == fs.FileType.File:
            self._fs.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


def _open(root: str) -> tuple[fs.FileSystem, str]:
    if "://" not in root:
        return fs.LocalFileSystem(), str(Path(root).expanduser().resolve())
    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"cannot open {root}: {error}") from None
    return filesystem, path.rstrip("/")
