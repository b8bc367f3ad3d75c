"""Rows of `summary/` to bytes and back, by the schema: one way to write a value, and to read it.

Not for what stands in them. Invariant: equal values give equal bytes, what is written holds what its column says, and
what is undefined is an empty field in CSV, null in JSON, None when read.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emray.errors import StoreError
from emray.printable import printable_lines
from emray.records import key_of
from emray.reduce.schema import Column, ColumnType, SummaryTable
from emray.stats.contrasts import TTest

_Row = Mapping[str, Any]
Rows = list[dict[str, Any]]

_FORMULA = re.compile(r"'*\s*[=+\-@].", re.DOTALL)  # a sign alone is none
_QUOTED_FORMULA = re.compile(r"'+\s*[=+\-@].", re.DOTALL)
_ARROW = {ColumnType.TEXT: pa.string(), ColumnType.COUNT: pa.int64(), ColumnType.NUMBER: pa.float64()}


def csv_bytes(table: SummaryTable, rows: Sequence[_Row]) -> bytes:
    """Rows as CSV; numbers with ten significant digits. A row that does not fit the schema is a mistake of ours."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in table.columns]
    writer.writerow(names)
    for row in rows:
        assert row.keys() == set(names), f"{table.file}: columns that differ: {sorted(row.keys() ^ set(names))}"
        writer.writerow([_field(column, row[column.name]) for column in table.columns])
    return text.getvalue().encode()


def csv_rows(table: SummaryTable, content: bytes) -> Rows:
    """What `csv_bytes` wrote. Raises StoreError for a table with other columns: another version wrote it."""
    lines = csv.DictReader(io.StringIO(content.decode()))
    found, names = list(lines.fieldnames or ()), [column.name for column in table.columns]
    if found != names:
        differ = sorted(set(found) ^ set(names)) or "their order"
        raise StoreError(
            f"summary/{table.file} was written by another version (columns: {differ}); reduce the run again"
        )
    return [{column.name: _value(column, line[column.name]) for column in table.columns} for line in lines]


def parquet_bytes(table: SummaryTable, columns: Mapping[str, Any], *, rules: Sequence[str]) -> bytes:
    """Columns of equal length as one Parquet file, for a sweep with these rules."""
    expected = table.columns_for(tuple(rules))
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in expected])
    assert columns.keys() == set(schema.names), f"{table.file}: {sorted(columns.keys() ^ set(schema.names))}"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([columns[name] for name in schema.names], schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def json_value(value: Any) -> Any:
    """The same value with NaN as None and numpy numbers as Python's, floats at ten significant digits."""
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def _field(column: Column, value: Any) -> str:
    undefined = value is None or (isinstance(value, float | np.floating) and math.isnan(value))
    if column.type == ColumnType.TEXT:
        assert isinstance(value, str), f"{column.name} is a text, not {value!r}"
        return _harmless(value)
    if undefined:
        return ""
    if column.type == ColumnType.COUNT:
        assert value == int(value), f"{column.name} is a whole number, not {value!r}"
        return str(int(value))
    return f"{value:.10g}" if math.isfinite(value) else ""


def _value(column: Column, text: str) -> str | int | float | None:
    if column.type == ColumnType.TEXT:
        return text[1:] if _QUOTED_FORMULA.match(text) else text
    if text == "":
        return None
    return int(text) if column.type == ColumnType.COUNT else float(text)


def _harmless(text: str) -> str:
    """Printable, and no formula to a spreadsheet: what would be one gets the apostrophe that spreadsheets read as text.

    See OWASP, "CSV Injection". `_value` takes the apostrophe off again.
    """
    shown = printable_lines(text)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def t_test_columns(test: TTest) -> dict[str, float]:
    """The columns that every table of t tests has."""
    return {"ci_low": test.low, "ci_high": test.high, "t": test.t, "df": test.df, "p": test.p}


def generator(*names: Any) -> np.random.Generator:
    """A generator of its own per statistic, so that a domain's draws do not depend on which others are studied."""
    return np.random.default_rng(int(key_of("draws", [str(name) for name in names]), 16))
