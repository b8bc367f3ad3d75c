"""The schema of `summary/`: one place that the writer, the readers and the page agree with."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from emray.errors import StoreError
from emray.reduce import describe, schema
from emray.reduce.fields import csv_bytes, csv_rows, parquet_bytes
from emray.reduce.schema import Column, ColumnType, SummaryTable

PAGE = Path(__file__).parent.parent / "docs" / "tables.md"
SMALL = SummaryTable(
    "small.csv",
    "a case",
    (
        Column("name", ColumnType.TEXT, "", "a name"),
        Column("n", ColumnType.COUNT, "answers", "a count"),
        Column("rate", ColumnType.NUMBER, "fraction", "a number"),
    ),
)


def test_the_page_of_tables_is_what_the_schema_says():
    assert PAGE.read_text(encoding="utf-8") == describe.page(), "run: make docs"


def test_no_table_names_a_column_twice():
    for table in schema.TABLES:
        names = [column.name for column in table.columns_for(("paper", "betley"))]
        assert len(names) == len(set(names)), table.file
    assert len(schema.CSV_TABLES) == len(schema.TABLES) - 1


@pytest.mark.parametrize("name", ["null", "nan", "12", "1e3", "", 'a,b\n"c"', "-"])
def test_a_text_stays_the_text_it_was_whatever_it_looks_like(name):
    rows = [{"name": name, "n": 3, "rate": 0.25}]
    assert csv_rows(SMALL, csv_bytes(SMALL, rows)) == rows


@pytest.mark.parametrize("undefined", [None, np.nan, float("inf")])
def test_what_is_undefined_is_none_when_read_and_never_zero(undefined):
    row = {"name": "a", "n": None, "rate": undefined}
    assert csv_rows(SMALL, csv_bytes(SMALL, [row])) == [{"name": "a", "n": None, "rate": None}]


def test_a_number_that_happens_to_be_whole_is_read_as_a_number_and_a_count_as_a_count():
    (row,) = csv_rows(SMALL, csv_bytes(SMALL, [{"name": "a", "n": np.float64(2), "rate": 1}]))
    assert (type(row["n"]), type(row["rate"])) == (int, float)


@pytest.mark.parametrize("row", [{"name": "a", "n": 1}, {"name": "a", "n": 1, "rate": 0.0, "more": 1}])
def test_a_row_with_other_columns_than_the_schema_is_a_mistake_of_ours(row):
    with pytest.raises(AssertionError, match=r"small\.csv"):
        csv_bytes(SMALL, [row])


@pytest.mark.parametrize("row", [{"name": 1, "n": 1, "rate": 0.0}, {"name": "a", "n": 1.5, "rate": 0.0}])
def test_a_value_of_another_type_than_its_column_is_a_mistake_of_ours(row):
    with pytest.raises(AssertionError):
        csv_bytes(SMALL, [row])


def test_a_table_of_another_version_is_refused_in_one_line_that_names_the_column():
    content = b"name,n,share\na,1,0.5\n"
    with pytest.raises(StoreError, match=r"small\.csv was written by another version .*rate.*share.*reduce the run"):
        csv_rows(SMALL, content)


def test_a_table_without_rows_has_its_columns_all_the_same():
    assert csv_rows(SMALL, csv_bytes(SMALL, [])) == []
    assert csv_bytes(SMALL, []) == b"name,n,rate\n"


def test_parquet_has_the_types_of_the_schema_once_per_rule():
    table = SMALL._replace(
        file="small.parquet", per_rule=(Column("of_{rule}", ColumnType.COUNT, "answers", "a count"),)
    )
    columns = {"name": ["a"], "n": np.array([1], np.int32), "rate": [0], "of_paper": [1], "of_mine": [2]}
    found = pq.read_table(io.BytesIO(parquet_bytes(table, columns, rules=["paper", "mine"])))
    assert {field.name: str(field.type) for field in found.schema} == {
        "name": "string", "n": "int64", "rate": "double", "of_paper": "int64", "of_mine": "int64",
    }  # fmt: skip
