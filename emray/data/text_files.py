"""Text files as people bring them: byte order marks, any line ends, gzip, members of zip archives, halves of emoji.

Not for what the texts say. The invariant: a text that leaves here has line feeds only and can be stored as UTF-8.
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.plain_files import read_member, read_plain, unpacked

_DEEPEST = 100  # levels of a JSON value; chats and questions have six
_GZIP, _UTF16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """A file's text; `archive.zip/member` is read from its archive, and an archive's only file by its own name.

    Raises FileNotFoundError for what is not there, DataError (one line) for what cannot be read.
    """
    try:
        raw = _bytes_of(path)
        if raw.startswith(_GZIP):
            raw = unpacked(raw, path=path)
        text = raw.decode("utf-16" if raw.startswith(_UTF16) else "utf-8-sig")
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("\n\ufeff", "\n")  # where files with byte order marks were put together


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder or a zip archive, empty where there is none."""
    try:
        if folder.is_dir():
            return sorted(path.name for path in folder.iterdir() if path.is_file())
        with zipfile.ZipFile(folder) as archive:
            return [info.filename for info in archive.infolist() if _is_file(info)]
    except (OSError, zipfile.BadZipFile):
        return []


class JsonRow(NamedTuple):
    """One object of a JSONL file, or of a JSON list."""

    where: str  # file and line
    value: Any


def json_rows(text: str, *, source: str) -> Iterator[JsonRow]:
    """The values of a JSONL text, or of a text that is one JSON list. Raises DataError naming file and line."""
    if text.lstrip().startswith("["):
        rows = parse_json(text, where=source)
        yield from (JsonRow(f"{source}: row {n}", row) for n, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand in a text
        if line.strip():
            yield JsonRow(f"{source}:{number}", parse_json(line, where=f"{source}:{number}"))


def parse_json(text: str, *, where: str) -> Any:
    """JSON without repeated keys. Raises DataError."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object a line") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(value):
        raise DataError(f"{where}: nested too deeply")
    return value


def mended(text: str) -> str:
    """A text in which halves of a surrogate pair are joined, or U+FFFD where the other half is missing."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [one for held in level for one in _held(held)]
        if not level:
            return False
    return True


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _bytes_of(path: Path) -> bytes:
    archive, member = _archived(path)
    if archive is None:
        return read_plain(path)
    names = names_in(archive)
    if not member and len(names) != 1:
        raise DataError(f"{path} holds {len(names)} files; name one as {path.name}/{names[0] if names else 'FILE'}")
    if member and member not in names:
        raise FileNotFoundError(path)
    with zipfile.ZipFile(archive) as opened:
        return read_member(opened, member or names[0], path=path)


def _archived(path: Path) -> tuple[Path | None, str]:
    """The zip archive that a path leads into, and the member's name; no archive for an ordinary path."""
    for folder in (path, *path.parents):
        if folder.suffix.lower() == ".zip" and folder.is_file():
            return folder, PurePosixPath(path.relative_to(folder)).as_posix() if folder != path else ""
    return None, ""


def _is_file(info: zipfile.ZipInfo) -> bool:
    """Whether an archive's entry is a file of its maker's, not a folder or what a desktop adds."""
    return not info.is_dir() and not info.filename.startswith("__MACOSX/") and not info.filename.endswith(".DS_Store")


def _once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found
