"""Whole files in an object store, `s3://bucket/prefix`: every write is one put.

Not for local folders (files.py). The invariant: what the store refuses is told as a StoreError of one line.

By obstore, not pyarrow.fs: one request writes an object whole (pyarrow opens a multipart upload for each, and completes
it also when the writer fails), it has conditional puts, and many objects are deleted at once.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from emray.errors import StoreError
from emray.store.files import Version, Versioned

SMALL = 4 * 2**20  # bytes of an object that is read whole, whatever part of it is wanted: one request
CHUNK = 16 * 2**20  # bytes of one request; what is larger goes up in several and appears when all are there
CLIENT = {"timeout": "120s"}  # of one request, its body included
RETRY = {"max_retries": 8}  # half a minute of an endpoint that does not answer


class ObjectFiles:
    """Files as objects below a prefix; see Files."""

    readers = 16

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        with self._told("open"):
            self._objects = _object_store(self.root)

    def exists(self, name: str) -> bool:
        import obstore

        with self._told("read"):
            try:
                obstore.head(self._objects, name)
            except FileNotFoundError:
                return False
        return True

    def read_bytes(self, name: str) -> bytes:
        return self.read_version(name).content

    def write_bytes(self, name: str, content: bytes, *, durable: bool = False) -> None:
        self._put(name, content)

    def put_file(self, name: str, path: Path) -> None:
        self._put(name, path)

    def take_file(self, name: str, path: Path) -> None:
        self._put(name, path)

    def read_version(self, name: str) -> Versioned:
        import obstore

        with self._told("read"):
            found = obstore.get(self._objects, name)
            return Versioned(bytes(found.bytes()), found.meta["e_tag"] or "")

    def create(self, name: str, content: bytes) -> Version | None:
        return self._put_if(name, content, mode="create")

    def replace(self, name: str, content: bytes, *, version: Version) -> Version | None:
        return self._put_if(name, content, mode={"e_tag": version})

    def open_append(self, name: str) -> BinaryIO | None:
        return None

    @contextmanager
    def opened(self, name: str, *, size: int) -> Iterator[pa.NativeFile]:
        import obstore

        with self._told("read"):
            if size <= SMALL:
                yield pa.BufferReader(obstore.get(self._objects, name).bytes())
            else:
                yield pa.PythonFile(_Ranges(self._objects, name, size), mode="r")

    def local_path(self, name: str) -> Path | None:
        return None

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        objects = self._listed(folder)["objects"]
        found = {f"{folder}/{PurePosixPath(found['path']).name}": found["size"] for found in objects}
        return {name: size for name, size in sorted(found.items()) if name.endswith(suffix)}

    def sizes_below(self, folder: str) -> dict[str, int]:
        import obstore

        with self._told("list"):
            found = [one for batch in obstore.list(self._objects, folder or None) for one in batch]
        return {one["path"]: one["size"] for one in sorted(found, key=lambda one: one["path"])}

    def folders(self, folder: str) -> list[str]:
        return sorted(PurePosixPath(path).name for path in self._listed(folder)["common_prefixes"])

    def move(self, name: str, *, to: str) -> None:
        import obstore

        with self._told("write to"):
            obstore.rename(self._objects, name, to)

    def temporaries(self, *, older_than_s: float) -> dict[str, int]:
        return {}  # an object appears whole

    def delete(self, name: str) -> None:
        import obstore

        with self._told("list"):
            below = [found["path"] for batch in obstore.list(self._objects, name) for found in batch]
        self.delete_files([name, *below])

    def delete_files(self, names: Sequence[str]) -> None:
        import obstore

        with self._told("write to"), suppress(FileNotFoundError):
            obstore.delete(self._objects, list(names))

    def _listed(self, folder: str) -> Any:
        import obstore

        with self._told("list"):
            return obstore.list_with_delimiter(self._objects, None if folder == "." else folder)

    def _put(self, name: str, content: bytes | Path) -> None:
        import obstore

        with self._told("write to"):
            try:
                obstore.put(self._objects, name, content, chunk_size=CHUNK)
            except FileNotFoundError as error:  # of a put: there is no such bucket
                raise self._refusal("write to", error) from None

    def _put_if(self, name: str, content: bytes, *, mode: Any) -> Version | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._told("write to"):
            try:
                return obstore.put(self._objects, name, content, mode=mode)["e_tag"] or ""
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:  # as in _put
                raise self._refusal("write to", error) from None

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise self._refusal(verb, error) from None

    def _refusal(self, verb: str, error: Exception) -> StoreError:
        go_on = "; once it lets us, run the same command again, all that is done is kept" if verb == "write to" else ""
        return StoreError(f"cannot {verb} {self.root}: {_first_line(error)}{go_on}")


class _Ranges(io.RawIOBase):
    """An object as a file: a request for every read (pyarrow reads the columns it wants in a few large ones)."""

    def __init__(self, objects: Any, name: str, size: int) -> None:
        self._objects, self._name, self._size = objects, name, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        import obstore

        length = self._size - self._at if size < 0 else min(size, self._size - self._at)
        if length <= 0:
            return b""
        content = bytes(obstore.get_range(self._objects, self._name, start=self._at, length=length))
        self._at += length
        return content


def _object_store(root: str) -> Any:
    """Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL, ...)
    or, on a machine in the cloud, from its role."""
    from obstore.store import from_url

    if root.startswith("file://"):
        return from_url(root, mkdir=True)
    plain = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
    options: Any = {"client_options": {**CLIENT, "allow_http": plain}, "retry_config": RETRY}
    return from_url(root, **options)


def _first_line(error: Exception) -> str:
    """What happened, without the source that obstore prints below it."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())
