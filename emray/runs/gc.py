"""Removing what no run wants: adapters, rows and replies that no plan of a store asks for any more.

Not for damage (doctor/). The invariant: nothing goes unless every plan of the store was read, and none wants it; what a
run is working on is left alone.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from emray.endpoint import journal
from emray.errors import StoreError
from emray.judge.tasks import AGAIN
from emray.model import direction_files
from emray.reduce.everything_asked import EverythingAsked
from emray.reduce.inputs import read_plan
from emray.runs.beside import counted, name_of, runs_in
from emray.stats.arrays import Mask
from emray.store import Keys, Kind, Store

_ABOUT = """
remove what no run wants: adapters, answers, verdicts, marks, measurements and judge replies that none of the plans
(plan.json) of the run folders in STORE asks for. Records of adapters stay. A run that a sweep works in is left alone.
"""
_VERDICT = ["generation", "metric", "asked", "judge_key"]


class Removed(NamedTuple):
    """What of a run no plan wants."""

    adapters: int = 0
    num_bytes: int = 0  # of those adapters
    answers: int = 0
    verdicts: int = 0
    marks: int = 0
    readings: int = 0  # rows of measurements
    directions: int = 0
    replies: int = 0

    def __str__(self) -> str:
        nouns = ("answer", "verdict", "mark", "reading", "direction", "reply")
        adapters = [f"{counted(self.adapters, 'adapter')} ({self.num_bytes / 1e6:,.1f} MB)"] if self.adapters else []
        return ", ".join([*adapters, *(counted(n, noun) for n, noun in zip(self[2:], nouns, strict=True) if n)])


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand."""
    parser = commands.add_parser("gc", help="remove what no run wants", description=_ABOUT)
    parser.add_argument("store", nargs="?", default="runs", metavar="STORE", help="folder of run folders (runs)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    parser.set_defaults(work=_command)


def _command(arguments: argparse.Namespace) -> int:
    runs = list(runs_in(arguments.store))
    wanted = [EverythingAsked.of(read_plan(run)) for run in runs]
    total = 0
    for run in runs:
        try:
            removed = look(run, wanted) if arguments.dry_run else remove(run, wanted)
        except StoreError as error:
            print(f"{name_of(run)}: left alone: {error}")
            continue
        total += any(removed)
        if any(removed):
            print(f"{name_of(run)}: {removed}{' would go' if arguments.dry_run else ' removed'}")
    if not total:
        print(f"nothing to remove: {counted(len(runs), 'run')} of {arguments.store}, each row and adapter wanted")
    return 0


def look(run: Store, wanted: Sequence[EverythingAsked]) -> Removed:
    """What `remove` would."""
    adapters = _adapters(run, wanted)
    kept, dropped = _verdict_keys(run, wanted)
    rows = {
        kind: sum(int((~keep(part)).sum()) for part in run.iter_parts(kind, columns=columns))
        for kind, keep, columns in _tables(wanted)
    }
    replies = sum(map(len, _unused(run, kept, dropped)))
    return Removed(
        len(adapters), sum(adapters.values()), rows[Kind.GENERATIONS], rows[Kind.VERDICTS], rows[Kind.MARKS],
        rows[Kind.MEASUREMENTS], len(_directions(run, wanted)), replies,
    )  # fmt: skip


def remove(run: Store, wanted: Sequence[EverythingAsked]) -> Removed:
    """Remove from a run what no plan wants. Raises StoreError where a sweep works in it."""
    with run.take_lease():
        removed = look(run, wanted)
        kept, dropped = _verdict_keys(run, wanted)
        for kind, keep, columns in _tables(wanted):  # answers last: a verdict without one would be nobody's
            run.keep_rows(kind, keep, columns=columns)
        journal.compact(run)
        journal.forget(run, Keys(key for keys in _unused(run, kept, dropped) for key in keys))
        run.settle()  # while the adapters that go are there: the index remembers their records
        for key in _adapters(run, wanted):
            run.delete(f"adapters/{key}")
        run.delete_files(_directions(run, wanted))
        return removed


def _tables(
    wanted: Sequence[EverythingAsked],
) -> Iterator[tuple[Kind, Callable[[pa.Table], Mask], list[str]]]:
    measurements = Keys(key for one in wanted for key in one.measurements)
    yield Kind.VERDICTS, lambda part: _any([one.verdicts(part) for one in wanted]), _VERDICT
    yield Kind.MARKS, lambda part: _any([one.marks.has(part["key"]) for one in wanted]), ["key"]
    yield Kind.MEASUREMENTS, lambda part: measurements.has(part["key"]), ["key"]
    yield Kind.GENERATIONS, lambda part: _any([one.answers(part["key"]) for one in wanted]), ["key"]


def _any(masks: Sequence[Mask]) -> Mask:
    return np.asarray(np.logical_or.reduce(masks))


def _adapters(run: Store, wanted: Sequence[EverythingAsked]) -> dict[str, int]:
    """Bytes of the finished adapters that no plan wants, by key."""
    cells = {key for one in wanted for key in one.cells}
    keys = [key for key in run.folders("adapters") if key not in cells and run.adapter_record(key)]
    return {key: sum(run.sizes(f"adapters/{key}").values()) for key in keys}


def _directions(run: Store, wanted: Sequence[EverythingAsked]) -> list[str]:
    keys = frozenset().union(*(one.measurements for one in wanted))
    return [name for name in run.names(direction_files.FOLDER) if direction_files.key_of_file(name) not in keys]


def _verdict_keys(run: Store, wanted: Sequence[EverythingAsked]) -> tuple[Keys, Keys]:
    """Requests that a wanted verdict came of, and those that only others did."""
    kept, dropped = [], []
    for part in run.iter_parts(Kind.VERDICTS, columns=["key", *_VERDICT]):
        mine = _any([one.verdicts(part) for one in wanted])
        kept.append(part["key"].filter(pa.array(mine)))
        dropped.append(part["key"].filter(pa.array(~mine)))
    return Keys.of_columns(kept), Keys.of_columns(dropped)


def _unused(run: Store, kept: Keys, dropped: Keys) -> Iterator[list[str]]:
    """Journal's keys of replies that no wanted verdict came of, though another did."""
    for names in journal.key_columns(run):
        keys = names.to_pylist()
        yield [key for key in keys if (base := key.removesuffix(AGAIN)) in dropped and base not in kept]
