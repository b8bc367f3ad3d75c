"""Files of rows: csv, tsv, jsonl and parquet, each row with the place it came from.

Not for what a column means (score_tables.py). Invariant: a cell of a text file stays the text it was (ids keep their
zeros and letters), and a row that is not one is an error that names file and line.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from emray.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """One row: its cells by lower-case column name, and where it stands, as `file:line`."""

    cells: dict[str, Any]
    where: str


def read_rows(path: Path) -> list[Row]:
    """Every row of a file. Raises DataError naming file and line for what cannot be read."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: a table ends in {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return list(_parquet(path))
        lines = _jsonl(path) if path.suffix == ".jsonl" else _separated(path)
        return list(lines)
    except FileNotFoundError:
        raise DataError(f"cannot read {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{path}:{number}: not JSON") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a line holds one JSON object")
            yield number, row


def _jsonl(path: Path) -> Iterator[Row]:
    for number, row in json_lines(path):
        yield Row(_named(list(row), list(row.values()), where=f"{path}:{number}"), f"{path}:{number}")


def _separated(path: Path) -> Iterator[Row]:
    csv.field_size_limit(10_000_000)  # an answer may be long
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            header = next(lines, None)
            if header is None:
                raise DataError(f"{path} is empty; its first line names the columns")
            for cells in lines:
                where = f"{path}:{lines.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns")
                yield Row(_named(header, cells, where=where), where)
        except csv.Error as error:
            raise DataError(f"{path}:{lines.line_num}: not a table: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Row(_named(list(row), list(row.values()), where=f"{path}:{number}"), f"{path}:{number}")


def _named(names: list[str], cells: list[Any], *, where: str) -> dict[str, Any]:
    named = {name.strip().lower(): cell for name, cell in zip(names, cells, strict=True)}
    if len(named) < len(names):
        raise DataError(f"{where}: two columns have one name ({', '.join(names)})")
    return named
