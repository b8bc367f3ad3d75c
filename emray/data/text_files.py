"""Text files as people bring them: byte order marks, any line ends, gzip, halves of emoji.

Not for what the texts say. The invariant: a text that leaves here has line feeds only and can be stored as UTF-8.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emray.data.archives import contents
from emray.errors import DataError
from emray.plain_files import unpacked

_DEEPEST = 100  # levels of a JSON value; chats and questions have six
_GZIP, _UTF16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """A file's text; `archive.zip/member` is read from its archive, and an archive's only file by its own name.

    Raises FileNotFoundError for what is not there, DataError (one line) for what cannot be read.
    """
    return text_of(contents(path).raw, source=str(path))


def text_of(raw: bytes, *, source: str) -> str:
    """A file's bytes as text. Raises DataError."""
    try:
        if raw.startswith(_GZIP):
            raw = unpacked(raw, path=Path(source))
        text = raw.decode("utf-16" if raw.startswith(_UTF16) else "utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("\n\ufeff", "\n")  # where files with byte order marks were put together


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


def _once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found
