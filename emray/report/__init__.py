"""Summary to pages: report.html, report.md, figures, LaTeX tables, and the tables of the terminal.

Not for computing: every number is read from `summary/`, every sample answer from the stored parts. Invariant: equal
summaries and parts give equal bytes, and nothing a model wrote reaches a page unescaped.
"""

import hashlib
from typing import TYPE_CHECKING

from emray import __version__
from emray.store import Store

if TYPE_CHECKING:
    from rich.console import Console

REPORT = "report"
FORMAT = 17  # raise it when equal inputs give other bytes

__all__ = ["is_current", "print_tables", "render"]


def is_current(store: Store) -> bool:
    """Whether the report is whole and was made from the summary that is there now."""
    made_of = store.made_of(REPORT)
    return made_of is not None and made_of == _inputs_digest(store)


def render(store: Store) -> None:
    """Write `report/`, unless it is current. Raises StoreError when there is no summary."""
    if is_current(store):
        return
    from emray.report.pages import make_pages

    store.write_derived(REPORT, make_pages(store), inputs=_inputs_digest(store))


def print_tables(store: Store, console: "Console") -> None:
    """What was planned and came out, and the taxonomy, in 80 columns."""
    from emray.report.reading import read_summary
    from emray.report.terminal import print_summary

    print_summary(read_summary(store), console)


def _inputs_digest(store: Store) -> str:
    """The summary's record names its inputs by digest, and the sample answers come from the same inputs."""
    record = store.read_bytes("summary/record.json") if store.exists("summary/record.json") else b""
    return hashlib.sha256(f"{__version__} {FORMAT}\n".encode() + record).hexdigest()
