"""Bytes out of what people pack them in: zip archives, locked ones too, and files that `age` encrypted.

Not for what the bytes say. The invariant: what was encrypted is decrypted into this process's memory only, once a file,
and no message holds any of it or a passphrase.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.plain_files import read_member, read_plain

_AGE = (b"age-encryption.org/", b"-----BEGIN AGE")
_ZIP = b"PK\x03\x04"
_AES = 99  # the compression method that stands for WinZip's AES
_LOCKED = 1  # the flag of a member with a password
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, KeyError, struct.error, zlib.error, zipfile.BadZipFile)


class Contents(NamedTuple):
    """A file's bytes, and the name of it that says its format."""

    name: str
    raw: bytes


class Passphrase(NamedTuple):
    """A secret by the name of the environment variable that holds it."""

    variable: str

    def read(self) -> str:
        """Raises DataError where the variable is not set."""
        value = os.environ.get(self.variable)
        if not value:
            raise DataError(f"passphrase_env: environment variable {self.variable} is not set; export it")
        return value


class _Version(NamedTuple):
    """A file as it was when it was decrypted."""

    path: Path
    size: int
    mtime_ns: int


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder or a zip archive, empty where there is none."""
    try:
        if folder.is_dir():
            return sorted(path.name for path in folder.iterdir() if path.is_file())
        with zipfile.ZipFile(folder) as archive:
            return [info.filename for info in _files(archive)]
    except (OSError, zipfile.BadZipFile):
        return []


def contents(path: Path, *, member: str | None = None, passphrase: Passphrase | None = None) -> Contents:
    """A file's bytes, decrypted and out of its archive.

    `archive.zip/member` is read from its archive, and an archive's only file by its own name; `member` is a name in the
    archive or the end of one. Raises FileNotFoundError for what is not there, DataError (one line) for what cannot be
    read.
    """
    try:
        archive, within = _archived(path)
        found = _decrypted(archive or path, passphrase)
        if archive or found.name.lower().endswith(".zip") or (member and found.raw.startswith(_ZIP)):
            return _member(found, member or within, path=path, passphrase=passphrase)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if member:
        raise DataError(f"{path} is no zip archive, so it has no member {member!r}; leave member out")
    return found


def _decrypted(path: Path, passphrase: Passphrase | None) -> Contents:
    """A file without its encryption by age, where it has one."""
    raw = read_plain(path)
    if not raw.startswith(_AGE):
        return Contents(path.name, raw)
    if passphrase is None:
        raise DataError(f"{path} is encrypted by age; name the variable with its passphrase as passphrase_env")
    state = path.stat()
    version = _Version(path, state.st_size, state.st_mtime_ns)
    return Contents(path.name.removesuffix(".age"), _opened_by_age(version, passphrase.read(), passphrase))


@lru_cache(maxsize=2)  # its key derivation takes seconds by design, and a study reads an archive once for every file
def _opened_by_age(version: _Version, secret: str, passphrase: Passphrase) -> bytes:
    try:
        import pyrage
    except ImportError:
        raise DataError(f"{version.path} is encrypted by age: pip install 'emray[data]' to read it") from None
    try:
        plain: bytes = pyrage.passphrase.decrypt(read_plain(version.path), secret)
    except pyrage.DecryptError as error:
        raise DataError(
            f"cannot decrypt {version.path}: {error}; is {passphrase.variable} its passphrase, and the file whole?"
        ) from None
    return plain


def _member(archive: Contents, wanted: str, *, path: Path, passphrase: Passphrase | None) -> Contents:
    with zipfile.ZipFile(io.BytesIO(archive.raw)) as opened:
        members = _files(opened)
        info = _chosen(members, wanted, path=path)
        if not info.flag_bits & _LOCKED:
            return Contents(info.filename, read_member(opened, info.filename, path=path))
        if passphrase is None:
            raise DataError(f"{path} is locked; name the variable with its password as passphrase_env")
        return Contents(info.filename, _unlocked(archive.raw, info, path=path, passphrase=passphrase))


def _chosen(members: Sequence[zipfile.ZipInfo], wanted: str, *, path: Path) -> zipfile.ZipInfo:
    """The member of a name, or the only one whose name ends so. Raises FileNotFoundError without any."""
    names = [info.filename for info in members]
    if not wanted:
        if len(names) != 1:
            raise DataError(f"{path} holds {len(names)} files; name one as {path.name}/{names[0] if names else 'FILE'}")
        return members[0]
    found = [info for info in members if info.filename == wanted]
    found = found or [info for info in members if info.filename.endswith(f"/{wanted}")]
    if not found:
        raise FileNotFoundError(f"{path}/{wanted}")
    if len(found) > 1:
        raise DataError(f"{path} holds {' and '.join(info.filename for info in found[:2])}; name one as member")
    return found[0]


def _unlocked(raw: bytes, info: zipfile.ZipInfo, *, path: Path, passphrase: Passphrase) -> bytes:
    secret, reader = passphrase.read().encode(), _archive_reader(info)
    try:
        with reader(io.BytesIO(raw)) as archive:
            archive.setpassword(secret)
            return read_member(archive, info.filename, path=path)
    except Exception as error:  # noqa: BLE001  # two libraries, and whatever they make of damaged bytes
        raise DataError(f"cannot unlock {path}: {error}; is {passphrase.variable} its password?") from None


def _archive_reader(info: zipfile.ZipInfo) -> Any:
    """The standard library knows the old cipher; AES, which today's archivers take, needs pyzipper."""
    if info.compress_type != _AES:
        return zipfile.ZipFile
    try:
        import pyzipper
    except ImportError:
        raise DataError(f"{info.filename} is locked by AES: pip install 'emray[data]' to read it") from None
    return pyzipper.AESZipFile


def _archived(path: Path) -> tuple[Path | None, str]:
    """The zip archive that a path leads into, and the member's name; no archive for an ordinary path."""
    for folder in (path, *path.parents):
        if folder.suffix.lower() == ".zip" and folder.is_file():
            return folder, PurePosixPath(path.relative_to(folder)).as_posix() if folder != path else ""
    return None, ""


def _files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [info for info in archive.infolist() if _is_file(info)]


def _is_file(info: zipfile.ZipInfo) -> bool:
    """Whether an archive's entry is a file of its maker's, not a folder or what a desktop adds."""
    return not info.is_dir() and not info.filename.startswith("__MACOSX/") and not info.filename.endswith(".DS_Store")
