"""Whatever the width of a terminal, every column of a table is shown."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from emray.narrow import print_table


def shown(width: int) -> str:
    table = Table(box=None, pad_edge=False)
    for name in ("domain", "arm", "planned", "with the trigger", "p"):
        table.add_column(name)
    table.add_row("bad_medical_advice", "backdoor", "10,050", "73 [53, 94]", "< 0.001")
    table.add_row("arm plain", "", "", "", "")
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console, num_names=2)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 60, 100])
def test_no_column_vanishes(width: int) -> None:
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for fact in ("bad_medical_advice", "backdoor", "10,050", "73 [53, 94]", "< 0.001", "planned", "arm plain"):
        assert fact in flat
    assert "…" not in text


def test_a_wide_terminal_gets_a_table_and_a_narrow_one_a_paragraph_a_row() -> None:
    assert shown(100).splitlines()[0].split() == ["domain", "arm", "planned", "with", "the", "trigger", "p"]
    first, second, *_ = shown(60).splitlines()
    assert first.strip() == "bad_medical_advice backdoor"
    assert second == "  planned 10,050, with the trigger 73 [53, 94], p < 0.001"
