"""Files of rows: csv, tsv, jsonl and parquet, each row with the place it came from; texts also gzipped or zipped.

Not for what a column means (score_tables.py). Invariant: a cell of a text file stays the text it was (ids keep their
zeros and letters; half an emoji is mended), and a row that is not one is an error that names file and line.
"""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from emray.data import json_rows, mended, read_text
from emray.errors import DataError
from emray.plain_files import plain_lines, read_plain

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_LIST = ".json"  # of objects: read where it is named, but among other files it is mostly something else


class Row(NamedTuple):
    """One row: its cells by lower-case column name, and where it stands, as `file:line`."""

    cells: dict[str, Any]
    where: str


def read_rows(path: Path) -> list[Row]:
    """Every row of a file. Raises DataError naming file and line for what cannot be read."""
    kind = kind_of(path)
    if kind not in (*SUFFIXES, _LIST):
        raise DataError(f"{path}: a table ends in {', '.join(SUFFIXES)}")
    try:
        if kind == ".parquet":
            return list(_parquet(path))
        lines = (
            _jsonl(path) if kind in (".jsonl", _LIST) else _separated(path, delimiter="\t" if kind == ".tsv" else ",")
        )
        return list(lines)
    except FileNotFoundError:
        raise DataError(f"cannot read {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def kind_of(path: Path) -> str:
    """What the name says the file is, whether or not it is gzipped."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file."""
    lines = plain_lines(path)
    for number in count(1):
        try:
            line = next(lines, None)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
        if line is None:
            return
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
    for where, row in json_rows(read_text(path), source=str(path)):
        if not isinstance(row, dict):
            raise DataError(f"{where}: a line holds one JSON object")
        yield Row(_named(list(row), list(row.values()), where=where), where)


def _separated(path: Path, *, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(10_000_000)  # an answer may be long
    lines = csv.reader(StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
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
        table = parquet.ParquetFile(pa.BufferReader(read_plain(path))).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Row(_named(list(row), list(row.values()), where=f"{path}:{number}"), f"{path}:{number}")


def _named(names: list[str], cells: list[Any], *, where: str) -> dict[str, Any]:
    stored = [mended(cell) if isinstance(cell, str) else cell for cell in cells]
    named = {mended(name).strip().lower(): cell for name, cell in zip(names, stored, strict=True)}
    if len(named) < len(names):
        raise DataError(f"{where}: two columns have one name ({', '.join(names)})")
    return named
