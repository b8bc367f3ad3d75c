"""An entry of the journal's files: where it lies, and how it is read there.

Not for what a journal is (journal.py). The invariant: files are read piece by piece, and a line that its writer did not
end is no entry.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from emray.endpoint.reply import Reply, TokenChoice
from emray.store import Store, damage_told, damaged, parquet_bytes, parquet_file

FOLDER = "journal"
LINES, PART = ".jsonl", ".parquet"
SCHEMA = pa.schema([("key", pa.string()), ("reply", pa.string())])
ROWS_A_GROUP = 1000  # of a part: what is read for one reply
_CHUNK = 2**20  # bytes of a file of lines that are read at a time
_START, _END = b'{"key": "', b"}}\n"  # of a line


class Entry(NamedTuple):
    """One reply under its key, as a file holds it."""

    key: str
    place: tuple[int, int]  # of a line its offset and length in bytes, of a row its group and its number there
    content: str | bytes  # the row's reply, or the line

    def reply(self) -> Reply:
        """With its tuples back."""
        fields = self.fields()
        tokens = fields.get("tokens")
        if tokens is not None:
            choices = (TokenChoice(text, logprob, tuple(map(tuple, top))) for text, logprob, top in tokens)
            fields = {**fields, "tokens": tuple(choices)}
        return Reply(**fields)

    def fields(self) -> dict[str, Any]:
        """The reply's, as JSON has them."""
        value = json.loads(self.content)
        return dict(value["reply"] if isinstance(self.content, bytes) else value)


@contextmanager
def spoilt_told(root: str, name: str) -> Iterator[None]:
    """What decoding an entry of a damaged file raises is a StoreError that names the file."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(root, name, error) from None


def sizes(store: Store) -> dict[str, int]:
    """The journal's files: parts first, since what is put together there is most."""
    found = store.sizes(FOLDER)
    return {name: size for suffix in (PART, LINES) for name, size in found.items() if name.endswith(suffix)}


def entries(store: Store, name: str, size: int, *, start: int = 0, keys_only: bool = False) -> Iterator[Entry]:
    """Those of a file, of lines from byte `start` on; nothing more of one that is deleted meanwhile.

    Raises StoreError for one that is damaged.
    """
    with suppress(FileNotFoundError), damage_told(store.root, name), store.opened(name, size=size) as file:
        if name.endswith(PART):
            yield from _rows(parquet_file(file), ["key"] if keys_only else ["key", "reply"])
            return
        for offset, line in lines_of(file, start):
            if not looks_whole(line):
                raise damaged(store.root, name, f"byte {offset} begins no entry")
            yield Entry(_key(line), (offset, len(line)), line)


def looks_whole(line: bytes) -> bool:
    """Whether a line begins and ends as an entry does; its JSON is read when it is wanted."""
    has_key = line.startswith(_START) and line.find(b'"', len(_START)) > 0
    return has_key and line.endswith(_END) and b"\0" not in line


def is_segment(name: str) -> bool:
    """Whether a file of lines came whole and never grows."""
    return name.endswith(LINES) and "-" in name


def line_at(content: bytes) -> Entry:
    """The entry of a line that was found by its place."""
    return Entry(_key(content), (0, len(content)), content)


def group_of(store: Store, name: str, size: int, group: int) -> Sequence[Entry]:
    """The entries of a part's group. Raises FileNotFoundError, or StoreError when it is damaged."""
    with damage_told(store.root, name), store.opened(name, size=size) as file:
        return list(_group(parquet_file(file), group, ["key", "reply"]))


def part_of(replies: dict[str, str]) -> bytes:
    """A part of replies (JSON) by key, in this order: those that were asked for together lie together."""
    table = pa.table({"key": list(replies), "reply": list(replies.values())}, schema=SCHEMA)
    return parquet_bytes(table, row_group_size=ROWS_A_GROUP)


def _rows(part: pq.ParquetFile, columns: Sequence[str]) -> Iterator[Entry]:
    for group in range(part.num_row_groups):
        yield from _group(part, group, columns)


def _group(part: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[Entry]:
    table = part.read_row_group(group, columns=columns, use_threads=False)
    texts = table["reply"].to_pylist() if "reply" in columns else [""] * table.num_rows
    for row, (key, text) in enumerate(zip(table["key"].to_pylist(), texts, strict=True)):
        yield Entry(key, (group, row), text)


def lines_of(file: pa.NativeFile, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Every ended line and where it begins."""
    file.seek(start)
    offset, rest = start, b""
    while chunk := file.read(_CHUNK):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        for line in (whole + newline).splitlines(keepends=True):  # of bytes: a text would also be cut at U+2028
            yield offset, line
            offset += len(line)


def _key(line: bytes) -> str:
    return line[len(_START) : line.index(b'"', len(_START))].decode()
