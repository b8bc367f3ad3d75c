"""The two tables that grow by parts.

Not for what the rows mean (records.py has their schemas). The invariant: a row has an identity and is counted once,
however often it was written.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from emray.records import GENERATION_SCHEMA, VERDICT_SCHEMA
from emray.store.files import Files
from emray.store.keyset import Keys


class Kind(StrEnum):
    """The tables by name, which is also their folder's."""

    GENERATIONS = "generations"
    VERDICTS = "verdicts"


SCHEMAS = {Kind.GENERATIONS: GENERATION_SCHEMA, Kind.VERDICTS: VERDICT_SCHEMA}
# What makes a row itself: two equal answers share a verdict key but are two rows.
IDENTITY = {Kind.GENERATIONS: ["key"], Kind.VERDICTS: ["generation", "key"]}


class Tables:
    """The tables under one root."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def write_rows(self, kind: Kind, rows: Sequence[Mapping[str, Any]] | pa.Table) -> str | None:
        """Add one part; returns its name, or None for no rows. The name hashes the keys: a repeat overwrites itself."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind])
        if table.num_rows == 0:
            return None
        table = table.select(SCHEMAS[kind].names).cast(SCHEMAS[kind])
        columns = [table[name].to_pylist() for name in IDENTITY[kind]]
        identity = "\n".join(sorted("".join(row) for row in zip(*columns, strict=True)))
        name = f"{kind}/part-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._files.write_bytes(name, sink.getvalue().to_pybytes())
        return name

    def read_rows(self, kind: Kind, *, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table, one per identity (a repeat after a crash counts once), in a stable order."""
        identity = IDENTITY[kind]
        wanted = list(columns or SCHEMAS[kind].names)
        parts = list(self.iter_parts(kind, columns=list(dict.fromkeys([*identity, *wanted]))))
        if not parts:
            return SCHEMAS[kind].empty_table().select(wanted)
        table = pa.concat_tables(parts)
        position = pa.array(range(table.num_rows), pa.int64())
        first = table.select(identity).append_column("_position", position)
        first = first.group_by(identity).aggregate([("_position", "min")])
        order = first.sort_by([(name, "ascending") for name in identity])
        return table.take(order["_position_min"]).select(wanted).combine_chunks()

    def iter_parts(self, kind: Kind, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts one by one in name order; an identity may come twice after a crash (see read_rows)."""
        for name in self.part_names(kind):
            with self._files.open_input(name) as file:
                yield pq.read_table(file, columns=list(columns) if columns else None)

    def part_names(self, kind: Kind) -> list[str]:
        return self._files.names(str(kind), suffix=".parquet")

    def part_sizes(self, kind: Kind) -> dict[str, int]:
        """Bytes of every part by name: with the names, a cheap stand-in for the content."""
        return self._files.sizes(self.part_names(kind))

    def keys(self, kind: Kind, *, column: str = "key") -> Keys:
        """Distinct values of a key column."""
        return Keys.of_columns(part[column] for part in self.iter_parts(kind, columns=[column]))

    def delete_rows(self, kind: Kind, *, column: str, value: str) -> None:
        """Drop the rows that have this value in a column, rewriting the parts that hold them."""
        for name in self.part_names(kind):
            with self._files.open_input(name) as file:
                kept = pc.fill_null(pc.not_equal(pq.read_table(file, columns=[column])[column], value), True)
            if pc.all(kept).as_py():
                continue
            with self._files.open_input(name) as file:
                self.write_rows(kind, pq.read_table(file).filter(kept))
            self._files.delete(name)
