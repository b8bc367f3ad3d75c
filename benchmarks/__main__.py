"""Every benchmark, one after the other, and one table: emray's figure, its peer's, the ratio, and how it ended.

    python -m benchmarks --small             every one at its small size, in minutes on two cores: `make bench`
    python -m benchmarks --only judge reduce     some, each as its own docstring has it

Each runs in a process of its own. One that this machine cannot run is a row with its reason; so is a peer that breaks.
The exit code is 1 where emray broke, and only there. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.compared import LACKING, Compared, last_line

NAMES = (
    "activations", "coverage", "generate", "judge", "overlap", "probes", "reduce", "scale", "stages", "train",
    "gpu_train", "gpu_memory", "gpu_generate", "gpu_scale",
)  # fmt: skip


class Ended(NamedTuple):
    """One benchmark: its rows, how long it took, and whether emray broke in it."""

    name: str
    rows: tuple[Compared, ...]
    wall_s: float
    broke: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="each at its small size")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="some of them")
    given = parser.parse_args(argv)
    ended = []
    for name in given.only:
        ended.append(run(name, small=given.small))
        print(f"{name:<14}{ended[-1].wall_s:>6.0f} s  {ended[-1].rows[0].ended}", flush=True)
    Console(width=130).print(table(ended))
    print(json.dumps({one.name: [row._asdict() | {"ratio": row.ratio} for row in one.rows] for one in ended}))
    return int(any(one.broke for one in ended))


def run(name: str, *, small: bool) -> Ended:
    """A benchmark in a process of its own; what it says goes to the terminal only where it broke."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--small"] if small else [])]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return read(name, done, wall_s=time.monotonic() - started)


def read(name: str, done: "subprocess.CompletedProcess[str]", *, wall_s: float) -> Ended:
    """What its last line compares, or the line that says why there is none."""
    if done.returncode == LACKING:
        return Ended(name, (Compared(name, "", None, ended=f"not here: {last_line(done.stderr)}"),), wall_s)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        return Ended(name, (Compared(name, "", None, ended=f"broke: {last_line(done.stderr)}"),), wall_s, broke=True)
    rows = tuple(Compared(**row) for row in json.loads(done.stdout.splitlines()[-1])["compared"])
    return Ended(name, rows, wall_s, broke=any(row.emray is None for row in rows))


def table(ended: Sequence[Ended]) -> Table:
    made = Table("benchmark", "what", box=None)
    for column in ("emray", "peer", "times"):
        made.add_column(column, justify="right")
    for column in ("", "how it ended"):
        made.add_column(column)
    for one in ended:
        for row in one.rows:
            what = f"{row.what}, {row.unit}" if row.unit else ""
            made.add_row(one.name, what, *map(figure, (row.emray, row.theirs, row.ratio)), row.peer, row.ended)
    return made


def figure(value: float | None) -> str:
    """Four figures, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
