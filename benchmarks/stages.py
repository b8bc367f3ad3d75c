"""Wall time of each stage of the toy sweep, from nothing, and of the same command again.

    python -m benchmarks.stages [--set KEY=VALUE ...] [--small]

Prints a table and a last line of JSON: seconds per stage, of the whole command, and of the rerun that does nothing.
Not covered: installing, and anything beyond one machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.compared import Compared, parsed, told
from emray.store import Store

SMALL = {"overrides": ["domains=[gore_movie_trivia]", "seeds=1", "generate.samples=1"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides")
    overrides = [word for override in parsed(parser, small=SMALL).overrides for word in ("--set", override)]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        total_s = run_command(out, overrides)
        again_s = run_command(out, overrides)
        stages = Counter[str]()
        for entry in Store(out).stage_log():
            stages[entry["stage"]] += entry["wall_s"]
        counts = Store(out).read_json("summary/summary.json").get("counts", {})
    print_table(stages, total_s=total_s, again_s=again_s)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    rows = [
        Compared("the toy study, whole", "s", total_s, more_is_better=False),
        Compared("the same again, nothing to do", "s", again_s, more_is_better=False),
    ]
    seconds = {"stages_s": dict(stages), "total_s": total_s, "again_s": again_s}
    print(json.dumps(seconds | {"counts": counts} | machine | told(rows)))


def run_command(out: str, overrides: list[str]) -> float:
    """Run the sweep in a process of its own; returns its wall time in seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "emray.sweep", "--out", out, *overrides], check=True)
    return round(time.monotonic() - started, 2)


def print_table(stages: Counter[str], *, total_s: float, again_s: float) -> None:
    table = Table("stage", title="toy sweep", box=None)
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds:.1f}", f"{seconds / total_s:.0%}")
    rest = total_s - stages.total()
    table.add_row("start, Ray, planning", f"{rest:.1f}", f"{rest / total_s:.0%}")
    table.add_row("whole command", f"{total_s:.1f}", "100%")
    table.add_row("again, nothing to do", f"{again_s:.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
