"""The runs of a store, one by one: what, when, how far, what it cost, what came out.

Not for one run in detail (its report). The invariant: a run that cannot be read is told as one, and hides no other.
"""

import argparse
import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from emray.errors import EmrayError
from emray.narrow import print_table
from emray.progress import Terminal
from emray.reduce.provenance import of_earlier_plan
from emray.runs.beside import name_of, runs_in
from emray.runs.looked_at import LookedAt, started_and_ended
from emray.store import Store

_ABOUT = "list the runs of STORE: what, when, how far, cost, headline"
TAXONOMY = "summary/taxonomy.csv"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand."""
    parser = commands.add_parser("list", help=f"{_ABOUT}; without any COMMAND", description=_ABOUT)
    parser.add_argument("store", nargs="?", default="runs", metavar="STORE", help="folder of run folders (runs)")
    parser.set_defaults(work=list_runs)


def list_runs(arguments: argparse.Namespace) -> int:
    """Print them."""
    console = Terminal()
    table = Table(box=None, pad_edge=False)
    for name in ("run", "what", "when (UTC)", "how far", "cost", "headline"):
        table.add_column(name)
    notes = []
    for run in runs_in(arguments.store):
        try:
            standing, other = LookedAt.of(run), of_earlier_plan(run)
        except EmrayError as error:
            notes.append(f"{name_of(run)} cannot be read: {error}; look with: python -m emray.doctor {run.root}")
            continue
        table.add_row(*_row(run, standing))
        if cause := standing.first_cause:
            notes.append(f"{standing.name}: {cause}; {_next(run)}")
        if other:
            notes.append(f"{standing.name}: {other}")
    if not table.row_count and not notes:
        console.print(f"no runs in {arguments.store}: python -m emray.sweep makes one", markup=False)
        return 0
    if table.row_count:
        print_table(table, console)
    for note in notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    return 0


def _row(run: Store, standing: LookedAt) -> tuple[str, ...]:
    spec, when = standing.document["spec"], started_and_ended(run)
    arms = ", ".join(dict.fromkeys(str(cell["arm"]) for cell in standing.document["cells"]))
    domains = dict.fromkeys(cell["domain"] for cell in standing.document["cells"] if cell["domain"] != "-")
    models = ", ".join(dict.fromkeys(cell["model"] for cell in standing.document["cells"]))
    cost = "not known" if standing.cost_usd is None else f"${standing.cost_usd:,.2f}"
    judged = sum(standing.verdicts.values())
    far = (
        f"{standing.num_trained:,}/{standing.num_training:,} cells, "
        f"{standing.answers.total():,}/{standing.num_planned_answers:,} answers, {judged:,} verdicts"
    )
    return (
        standing.name,
        f"{models}: {len(domains)} domains x {arms}; judge {spec.get('judge', {}).get('model', '-')}",
        ("-" if when is None else when[0] if when[0] == when[1] else f"{when[0]} to {when[1]}"),
        far + (", a command is at work" if standing.held else ""),
        cost,
        headline(run),
    )


def headline(run: Store) -> str:
    """The place with the highest rate of misaligned answers."""
    rows = [row for row in taxonomy(run) if row["misaligned_rate"] and row["domain"] != "-"]
    if not rows:
        return "-"
    most = max(rows, key=lambda row: float(row["misaligned_rate"]))
    place = f"{most['domain']}/{most['arm']} {most['condition']} the trigger"
    return f"most misaligned: {place}, {100 * float(most['misaligned_rate']):.0f} %"


def taxonomy(run: Store) -> Iterator[Mapping[str, Any]]:
    """The rows of the summary's first table, as texts; none where there is no summary."""
    if run.exists(TAXONOMY):
        yield from csv.DictReader(io.StringIO(run.read_bytes(TAXONOMY).decode()))


def _next(run: Store) -> str:
    return f"see python -m emray.runs watch {run.root}, then its sweep again with --set resources.retry_failed=true"
