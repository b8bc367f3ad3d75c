"""Reading a table part by part, several at once, whatever is written and compacted meanwhile.

Not for what makes a row (tables.py). The invariant: parts come one at a time in the order of their names, each whole,
and every row that was there when reading began comes at least once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import pyarrow as pa

from emray.errors import StoreError
from emray.store.damage import damage_told, parquet_file
from emray.store.files import Files

SUFFIX = ".parquet"
AHEAD = 16 * 2**20  # bytes of files, as they are stored, that are read before they are asked for
Read = TypeVar("Read")


class StoredPart(NamedTuple):
    """One part as it was read."""

    name: str
    table: pa.Table


def scan(files: Files, folder: str, *, columns: Sequence[str] | None = None) -> Iterator[StoredPart]:
    """The parts of a folder, also those that compaction makes of others while they are read."""
    given: set[str] = set()
    while left := {name: size for name, size in files.sizes(folder, suffix=SUFFIX).items() if name not in given}:
        try:
            for part in read_parts(files, left, columns=columns):
                given.add(part.name)
                yield part
        except FileNotFoundError:  # compacted since it was listed: its rows are in a part that is new
            continue
        return


def read_parts(files: Files, sizes: Mapping[str, int], *, columns: Sequence[str] | None = None) -> Iterator[StoredPart]:
    """These parts, in this order. Raises FileNotFoundError."""
    return (
        StoredPart(name, table)
        for name, table in ahead(files, sizes, lambda name, size: read_part(files, name, size, columns))
    )


def ahead(files: Files, sizes: Mapping[str, int], read: Callable[[str, int], Read]) -> Iterator[tuple[str, Read]]:
    """What `read(name, size)` makes of each file, in this order, several at once. Raises what it raised."""
    waiting = deque(sizes.items())
    reading = deque[tuple[str, int, Future[Read]]]()
    with ThreadPoolExecutor(files.readers, thread_name_prefix="store") as pool:
        while waiting or reading:
            while waiting and _may_begin([size for _, size, _ in reading], waiting[0][1], at_once=files.readers):
                name, size = waiting.popleft()
                reading.append((name, size, pool.submit(read, name, size)))
            name, _, made = reading.popleft()
            yield name, made.result()


def read_part(files: Files, name: str, size: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises FileNotFoundError, or StoreError when it is damaged or of an earlier version."""
    with damage_told(files.root, name), files.opened(name, size=size) as file:
        table = parquet_file(file).read(columns=list(columns) if columns else None, use_threads=False)
    for column in columns or ():
        if column not in table.column_names:
            raise StoreError(
                f"{files.root}/{name} has no column {column!r}: an earlier version of emray wrote it; delete "
                f"{name.partition('/')[0]}/ and run again (replies in journal/ are not asked for again)"
            )
    return table.select(list(columns)) if columns else table


def _may_begin(reading: Sequence[int], size: int, *, at_once: int) -> bool:
    return not reading or (len(reading) < at_once and sum(reading) + size <= AHEAD)
