"""Tables for people: as a table where the terminal is wide enough, else row by row.

Not for what stands in them. The invariant: whatever the width, every column of every row is shown.
"""

import textwrap

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table


def print_table(table: Table, console: Console, *, width: int | None = None, num_names: int = 1) -> None:
    """Print it, no wider than `width`; the first `num_names` columns say what a row is of."""
    room = min(console.width, width or console.width)
    for column in table.columns:
        column.no_wrap = True
    needed = Measurement.get(console, console.options.update(width=1000), table).maximum
    if needed <= room:
        console.print(table, width=room)
        return
    for number, row in enumerate(table.rows):
        cells = [(column, _text(list(column.cells)[number], console)) for column in table.columns]
        if not any(text for _, text in cells[num_names:]):  # a heading
            console.print(" ".join(text for _, text in cells if text), markup=False, style=row.style or "", width=room)
            continue
        console.print(" ".join(text for _, text in cells[:num_names]), markup=False, style=row.style or "", width=room)
        facts = ", ".join(_fact(column, text) for column, text in cells[num_names:] if text)
        told = textwrap.fill(facts, width=room, initial_indent="  ", subsequent_indent="  ")
        console.print(told, markup=False, soft_wrap=True)


def _fact(column: Column, text: str) -> str:
    name = column.header if isinstance(column.header, str) else ""
    return f"{name} {text}".strip()


def _text(cell: object, console: Console) -> str:
    return cell if isinstance(cell, str) else console.render_str(str(cell)).plain
