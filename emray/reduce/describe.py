"""The command that writes docs/tables.md from the schema.

python -m emray.reduce.describe > docs/tables.md

Not for any run. Invariant: the page says what the schema says and nothing else.
"""

from collections.abc import Iterator

from emray.reduce.schema import TABLES, Column, SummaryTable

_OPENING = """# The tables of `summary/`

Made from `emray/reduce/schema.py` by `make docs`. Rates are fractions, scores run from 0 to 100, and what is undefined
is an empty field (null in Parquet). `{rule}` stands for the name of each rule of the sweep. What the numbers mean and
why: [method.md](method.md).
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_OPENING, *(line for table in TABLES for line in _section(table))])


def _section(table: SummaryTable) -> Iterator[str]:
    yield f"## {table.file}\n\nOne row: {table.row}.\n"
    yield "| column | type | unit | meaning |\n|---|---|---|---|"
    yield from (_line(column) for column in table.columns + table.per_rule)
    yield ""


def _line(column: Column) -> str:
    return f"| `{column.name}` | {column.type} | {column.unit} | {column.meaning} |"


if __name__ == "__main__":
    print(page(), end="")
