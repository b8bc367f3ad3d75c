"""The tables that grow by parts.

    <kind>/part-<digest>.parquet             what a worker wrote at once
    <kind>/compact-<rows>-<digest>.parquet   what compaction made of them (compaction.py)

Not for what the rows mean (records/ has their schemas). The invariant: a row has an identity and is counted once,
however often it was written.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.records import GENERATION_SCHEMA, MARK_SCHEMA, MEASUREMENT_SCHEMA, VERDICT_SCHEMA
from emray.store.damage import parquet_bytes
from emray.store.files import Files
from emray.store.keyset import KeyArray, Keys, key_array
from emray.store.parts import SUFFIX, read_part, scan

ROWS = 20_000  # of a compact part, up to twice as many


class Kind(StrEnum):
    """The tables by name, which is also their folder's."""

    GENERATIONS = "generations"
    VERDICTS = "verdicts"
    MARKS = "marks"
    MEASUREMENTS = "measurements"


SCHEMAS = {
    Kind.GENERATIONS: GENERATION_SCHEMA,
    Kind.VERDICTS: VERDICT_SCHEMA,
    Kind.MARKS: MARK_SCHEMA,
    Kind.MEASUREMENTS: MEASUREMENT_SCHEMA,
}
# What makes a row itself: two equal answers share a verdict key but are two rows.
IDENTITY = {
    Kind.GENERATIONS: ["key"],
    Kind.VERDICTS: ["generation", "key"],
    Kind.MARKS: ["key"],
    Kind.MEASUREMENTS: ["key", "subject", "measure"],
}


class Tables:
    """The tables under one root."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def write_rows(self, kind: Kind, rows: Sequence[Mapping[str, Any]] | pa.Table) -> list[str]:
        """Add rows, as one part unless they are very many; returns the names. A repeat overwrites itself."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind])
        size = max(1, table.num_rows) if kind == Kind.MEASUREMENTS else ROWS  # a measurement comes whole or not at all
        pieces = (table.slice(start, size) for start in range(0, table.num_rows, size))
        return [write_part(self._files, kind, piece, prefix="part") for piece in pieces]

    def read_rows(self, kind: Kind, *, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table, one per identity (a repeat after a crash counts once), in a stable order."""
        wanted = list(columns or SCHEMAS[kind].names)
        parts = list(self.iter_parts(kind, columns=list(dict.fromkeys([*IDENTITY[kind], *wanted]))))
        if not parts:
            return SCHEMAS[kind].empty_table().select(wanted)
        table = pa.concat_tables(parts)
        _, first = np.unique(identities(table, kind), return_index=True)
        return table.select(wanted).take(pa.array(first)).combine_chunks()

    def iter_parts(self, kind: Kind, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts one by one in name order; an identity may come twice after a crash (see read_rows)."""
        return (part.table for part in scan(self._files, str(kind), columns=columns))

    def part_sizes(self, kind: Kind) -> dict[str, int]:
        """Bytes of every part by name: with the names, a cheap stand-in for the content."""
        return self._files.sizes(str(kind), suffix=SUFFIX)

    def keys(self, kind: Kind, *, column: str = "key") -> Keys:
        """Distinct values of a key column."""
        return Keys.of_columns(part[column] for part in self.iter_parts(kind, columns=[column]))

    def keep_rows(self, kind: Kind, keep: Callable[[pa.Table], NDArray[np.bool_]], *, columns: Sequence[str]) -> int:
        """Drop the rows of which `keep`, shown these columns of a part, says no; returns how many went."""
        sizes, dropped = self.part_sizes(kind), 0
        for part in scan(self._files, str(kind), columns=columns):
            kept = keep(part.table)
            if kept.all():
                continue
            if kept.any():
                whole = read_part(self._files, part.name, sizes[part.name], SCHEMAS[kind].names)
                self.write_rows(kind, whole.filter(pa.array(kept)))
            self._files.delete_files([part.name])
            dropped += int((~kept).sum())
        return dropped


def write_part(files: Files, kind: Kind, table: pa.Table, *, prefix: str, durable: bool = False) -> str:
    """Write one part; its name hashes its identities."""
    table = table.select(SCHEMAS[kind].names).cast(SCHEMAS[kind])
    digest = hashlib.sha256(np.sort(identities(table, kind)).tobytes()).hexdigest()[:20]
    name = f"{kind}/{prefix}-{digest}{SUFFIX}"
    files.write_bytes(name, parquet_bytes(table), durable=durable)
    return name


def identities(table: pa.Table, kind: Kind) -> KeyArray:
    """Of every row, what makes it itself, as bytes of one width."""
    columns = [table[name] for name in IDENTITY[kind]]
    return key_array(columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\n"))
