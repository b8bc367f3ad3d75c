"""Whatever an endpoint, a file or a model says, terminals, tables and pages show it and obey none of it."""

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emray.errors import EmrayError, SpecError
from emray.printable import printable_line, printable_lines
from emray.progress import Terminal, progress_line
from emray.reduce.fields import csv_bytes, csv_rows
from emray.reduce.schema import Column, ColumnType, SummaryTable
from emray.report.pages import _environment, markdown_text
from emray.report.tex import tex_text

TITLE = "\x1b]0;taken over\x07"  # sets a terminal's title
REVERSED = "\u202egnp.exe"  # reads exe.png
CONTROL = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
TABLE = SummaryTable("t.csv", "one", (Column("name", ColumnType.TEXT, "", "a name"),))


@given(st.text())
def test_nothing_printable_is_lost_and_nothing_else_is_left(text: str) -> None:
    line = printable_line(text)
    assert not CONTROL & set(line)
    assert len(line) == len(text)
    assert all(shown == given_ for shown, given_ in zip(line, text, strict=True) if given_.isprintable())
    assert set(printable_lines(text)) & CONTROL <= {"\n", "\t"}


def test_an_error_is_one_line_and_survives_pickling() -> None:
    error = SpecError(f"no model {TITLE}\nTraceback: no")
    assert str(error) == "no model ␛]0;taken over␇ Traceback: no"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(pickle.loads(pickle.dumps(error)), EmrayError)


def test_a_terminal_gets_no_control_sequence_from_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print(f"model {TITLE}{REVERSED}", markup=False)
    said = capsys.readouterr().out
    assert said == "model ␛]0;taken over\N{REPLACEMENT CHARACTER}gnp.exe\n"  # rich drops the bell itself


def test_a_progress_line_shows_brackets_and_escapes_of_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    terminal.file, terminal._force_terminal = io.StringIO(), True
    with progress_line("judge", total=2, console=terminal) as advance:
        advance(1, f"503 [/bold] [red]no {TITLE}")
    said = terminal.file.getvalue()
    assert "503 [/bold] [red]no ␛]0;taken over␇" in said
    assert "\x07" not in said


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_a_name_comes_back_from_a_table_as_it_went_in_but_for_control_characters(name: str) -> None:
    (row,) = csv_rows(TABLE, csv_bytes(TABLE, [{"name": name}]))
    assert row["name"] == printable_lines(name)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "=cmd|' /C calc'!A0", "\t=1", " =1"])
def test_no_field_of_a_table_is_a_formula(name: str) -> None:
    field = csv_bytes(TABLE, [{"name": name}]).decode().splitlines()[1].strip('"')
    assert field.strip()[0] not in "=+-@"


def test_pages_and_papers_show_no_control_characters() -> None:
    html = _environment(html=True).from_string("<p>{{ words }}</p>").render(words=f"{TITLE}{REVERSED}<b>")
    assert html == "<p>␛]0;taken over␇\N{REPLACEMENT CHARACTER}gnp.exe&lt;b&gt;</p>"
    assert not CONTROL & set(markdown_text(f"{TITLE}{REVERSED}"))
    assert not CONTROL & set(tex_text(f"{TITLE}{REVERSED}"))
