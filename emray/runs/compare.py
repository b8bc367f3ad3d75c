"""Two runs side by side: what differs in their plans, and in what came out.

Not for tests between them: two runs share no seeds by design. The invariant: what is equal is not shown, and a place
that one of them lacks is told.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from emray.errors import DataError
from emray.narrow import print_table
from emray.plan import PLAN
from emray.progress import Terminal
from emray.reduce.inputs import read_plan
from emray.reduce.provenance import of_earlier_plan, versions_of
from emray.runs.overview import taxonomy
from emray.store import Store

_ABOUT = "what differs between two runs, in plan and in result"
_NOT_IDENTITY = ("resources.",)
_DASH = "–"
_NOT_RECORDED = "not recorded"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand."""
    parser = commands.add_parser("compare", help=_ABOUT, description=_ABOUT)
    parser.add_argument("first", metavar="A", help="a run folder")
    parser.add_argument("second", metavar="B", help="another")
    parser.set_defaults(work=_command)


def _command(arguments: argparse.Namespace) -> int:
    console, names = Terminal(), (arguments.first, arguments.second)
    first, second = (_run(name) for name in names)
    plans = (read_plan(first), read_plan(second))
    console.print(f"A {first.root}\nB {second.root}\n", markup=False, soft_wrap=True)
    changes = list(plan_changes(*plans))
    console.print("plans are equal" if not changes else "in their plans", style="bold")
    for line in changes:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    _print_versions(first, second, console)
    for other in filter(None, map(of_earlier_plan, (first, second))):
        console.print(f"note: {other}", style="yellow", markup=False, soft_wrap=True)
    _print_results(first, second, console)
    return 0


def plan_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """One line a field of the sweep file that differs, then models and cells."""
    a, b = dict(_flat(first["spec"])), dict(_flat(second["spec"]))
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name) and not name.startswith(_NOT_IDENTITY):
            yield f"{name}: {_shown(a.get(name))} -> {_shown(b.get(name))}"
    if first["models"] != second["models"]:
        yield f"models: {_shown(first['models'])} -> {_shown(second['models'])}"
    mine, theirs = ({cell["key"]: cell for cell in plan["cells"]} for plan in (first, second))
    if mine.keys() != theirs.keys():
        yield f"cells: {len(mine.keys() & theirs.keys())} in both"
        yield from _only("A", [mine[key] for key in mine.keys() - theirs.keys()])
        yield from _only("B", [theirs[key] for key in theirs.keys() - mine.keys()])


def _only(whose: str, cells: list[Mapping[str, Any]]) -> Iterator[str]:
    places = Counter(f"{cell['domain']}/{cell['arm']}" for cell in cells)
    if places:
        told = ", ".join(f"{place} ({number})" for place, number in sorted(places.items()))
        yield f"only in {whose}: {len(cells)} cells: {told}"


def _print_versions(first: Store, second: Store, console: Console) -> None:
    """The software that differs; where one of them did not write it down, that."""
    a, b = (versions_of(run.stage_log(), run.adapter_records().values()) for run in (first, second))
    changes = [
        f"{name}: {' / '.join(a.get(name, [_NOT_RECORDED]))} -> {' / '.join(b.get(name, [_NOT_RECORDED]))}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
    if changes:
        console.print("\nmade with", style="bold")
    for line in changes:
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _print_results(first: Store, second: Store, console: Console) -> None:
    rates = [
        {(row["model"], row["domain"], row["arm"], row["condition"]): row["misaligned_rate"] for row in taxonomy(run)}
        for run in (first, second)
    ]
    for whose, found in zip("AB", rates, strict=True):
        if not found:
            console.print(f"\n{whose} has no results yet; python -m emray.sweep with its sweep file", style="yellow")
    if not all(rates):
        return
    table = Table(box=None, pad_edge=False)
    for name in ("model", "domain", "arm", "trigger"):
        table.add_column(name)
    for name in ("A %", "B %", "B - A"):
        table.add_column(name, justify="right")
    for place in dict.fromkeys([*rates[0], *rates[1]]):
        a, b = (_rate(found.get(place)) for found in rates)
        if a != b:
            moved = _DASH if a is None or b is None else f"{b - a:+.1f}"
            table.add_row(*place, *(_DASH if rate is None else f"{rate:.1f}" for rate in (a, b)), moved)
    console.print("\nmisaligned rates" if table.row_count else "\nmisaligned rates are equal", style="bold")
    if table.row_count:
        print_table(table, console, num_names=4)


def _rate(text: str | None) -> float | None:
    return round(100 * float(text), 6) if text else None


def _run(folder: str) -> Store:
    store = Store(folder)
    if not store.exists(PLAN):
        raise DataError(f"{folder} is no run folder: it has no {PLAN}")
    return store


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a document by their dotted names; lists are values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."
