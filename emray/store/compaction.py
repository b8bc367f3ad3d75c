"""Many small parts become few: at most one for every ROWS rows.

Not for a table that others are writing to what it already holds. The invariant: killed at any moment, no row is lost
and none counts twice: new parts are whole before the old ones go, and readers count an identity once.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emray.store.files import Files
from emray.store.parts import SUFFIX, StoredPart, read_parts
from emray.store.tables import IDENTITY, ROWS, SCHEMAS, Kind, identities, write_part

PREFIX = "compact"

Rows = npt.NDArray[np.bool_]  # of one part, whether each is chosen


def compact(files: Files, kind: Kind) -> None:
    """Rewrite the small parts of a table, if there are any to put together."""
    sizes = files.sizes(str(kind), suffix=SUFFIX)
    moving = [name for name in sizes if _num_rows(name) < ROWS]
    if not moving or len(sizes) == 1:
        return
    chosen = _choose(files, kind, sizes, moving)
    if _total(chosen) < ROWS and len(moving) < len(sizes):  # too few for a part of their own: the smallest takes them
        smallest = min(sizes.keys() - set(moving), key=lambda name: (_num_rows(name), name))
        chosen = _choose(files, kind, sizes, [smallest, *moving])
    parts = read_parts(files, {name: sizes[name] for name in chosen}, columns=SCHEMAS[kind].names)
    written = [
        write_part(files, kind, table, prefix=f"{PREFIX}-{table.num_rows:08d}", durable=True)
        for table in _new_parts(parts, chosen)
    ]
    files.delete_files([name for name in chosen if name not in written])


def _num_rows(name: str) -> int:
    """Rows of a compact part, as its name says; 0 for others."""
    prefix, rows, *_ = name.rpartition("/")[2].split("-")
    return int(rows) if prefix == PREFIX else 0


def _choose(files: Files, kind: Kind, sizes: Mapping[str, int], moving: Sequence[str]) -> dict[str, Rows]:
    """Which rows of the moving parts go into new ones: the first of an identity, unless a part that stays has it."""
    staying = [name for name in sizes if name not in set(moving)]
    order = {name: sizes[name] for name in [*staying, *moving]}
    found = [identities(part.table, kind) for part in read_parts(files, order, columns=IDENTITY[kind])]
    first = np.zeros(sum(map(len, found)), bool)
    first[np.unique(np.concatenate(found), return_index=True)[1]] = True
    by_part = np.split(first, np.cumsum([len(one) for one in found])[:-1])
    return dict(list(zip(order, by_part, strict=True))[len(staying) :])


def _total(chosen: Mapping[str, Rows]) -> int:
    return sum(int(rows.sum()) for rows in chosen.values())


def _new_parts(parts: Iterator[StoredPart], chosen: Mapping[str, Rows]) -> Iterator[pa.Table]:
    """The chosen rows in parts of one size, ROWS or more each where there are so many."""
    total, given = _total(chosen), 0
    number = max(1, total // ROWS) if total else 0
    held = []
    for part in parts:
        held.append(part.table.filter(pa.array(chosen[part.name])))
        while number and sum(table.num_rows for table in held) >= (total - given) // number:
            size = (total - given) // number
            whole = pa.concat_tables(held)
            yield whole.slice(0, size)
            held, given, number = [whole.slice(size)], given + size, number - 1
