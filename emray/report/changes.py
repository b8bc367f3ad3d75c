"""What else changed beside misalignment, as the page and the terminal show it.

Not for markup. Invariant: every number is one of changes.csv or the taxonomy; rows and columns are chosen here alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from emray.records import NO_DOMAIN
from emray.report.reading import Row, Summary
from emray.report.wording import title
from emray.spec import COHERENT

_PLACE = ("model", "domain", "arm", "condition")


class ChangeLine(NamedTuple):
    """One domain, arm and condition."""

    domain: str
    arm: str
    condition: str
    misaligned: Row  # of the taxonomy
    changes: tuple[Row | None, ...]  # of changes.csv, by quantity; None where it was not asked


class ChangeView(NamedTuple):
    """A model's table."""

    quantities: tuple[str, ...]
    lines: tuple[ChangeLine, ...]
    details: tuple[Row, ...]  # every row of changes.csv, in the same order

    @property
    def has_quizzes(self) -> bool:
        return bool(set(self.quantities) - {COHERENT})


def change_view(summary: Summary, model: str) -> ChangeView | None:
    """None where nothing but misalignment was asked for."""
    rows = summary.rows("changes", model=model)
    quantities = tuple(dict.fromkeys(row["quantity"] for row in rows))
    if not quantities:
        return None
    found = {(row["quantity"], *_place(row)): row for row in rows}
    lines = tuple(
        ChangeLine(
            row["domain"], row["arm"], row["condition"], row, tuple(found.get((q, *_place(row))) for q in quantities)
        )
        for row in _places(summary, model)
    )
    details = tuple(row for line in lines for row in line.changes if row is not None)
    return ChangeView(quantities, lines, details)


def quantity_words(name: str) -> str:
    """A quantity as a reader knows it."""
    return "coherent" if name == COHERENT else title(name)


def _places(summary: Summary, model: str) -> Iterator[Row]:
    """The taxonomy's rows: the base model first, then series by series, domains by falling rate."""
    yield from summary.rows("taxonomy", model=model, domain=NO_DOMAIN)
    for series in summary.series(model):
        for domain in summary.domains(model):
            if row := summary.at("taxonomy", series, domain):
                yield row


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _PLACE)
