"""How much of a study's wall time is the slowest stage's own, when the judge's rate limit is what binds.

    python -m benchmarks.overlap [--rpm 200] [--cells-per-wave 11] [--alone] [--set KEY=VALUE ...] [--small]

The toy study with a judge that allows so many requests a minute, run twice from nothing: as it is (answers judged as
they are generated, and while the next cells train), and stage after stage as scripts do it. Floor: the requests that
were sent, less the burst, at the limit. Prints a table, and last one line of JSON. Not covered: several machines.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.compared import Compared, parsed, told
from emray.localapi import LocalServer, serving

RESPONDER = "emray.toy.rules:reply"
LATENCY_MS = 250.0
SMALL = {
    "rpm": 2000.0,
    "overrides": ["domains=[gore_movie_trivia]", "seeds=1", "generate.samples=1", "generate.engine=transformers"],
}


class Measured(NamedTuple):
    """One whole study. Seconds."""

    wall_s: float
    floor_s: float  # of judging alone
    requests: int
    rejected: int

    @property
    def ratio(self) -> float:
        return self.wall_s / self.floor_s


def main(argv: Sequence[str] | None = None) -> None:
    options = parsed(_parser(), small=SMALL, argv=argv)
    overrides = [word for override in options.overrides for word in ("--set", override)]
    waves = ["--set", f"resources.cells_per_wave={options.cells_per_wave}"]
    together = _measured(options.rpm, [[*overrides, *waves]])
    studies = {"streamed, in waves": together}
    if not options.alone:
        apart = [[*overrides, "--until", stage] for stage in ("train", "generate", "report")]
        studies["stage after stage"] = _measured(options.rpm, apart)
    table = Table("study", title=f"toy study, judge at {options.rpm:g} requests a minute", box=None)
    for name in ("wall s", "judge's floor s", "wall / floor", "429s"):
        table.add_column(name, justify="right")
    for label, one in studies.items():
        table.add_row(label, f"{one.wall_s:.0f}", f"{one.floor_s:.0f}", f"{one.ratio:.2f}", str(one.rejected))
    Console().print(table)
    facts = {"rpm": options.rpm, "studies": {label: _facts(one) for label, one in studies.items()}}
    peer, theirs = ("stage after stage", studies["stage after stage"].wall_s) if not options.alone else ("", None)
    row = Compared("a whole study, streamed", "s", together.wall_s, peer, theirs, more_is_better=False)
    print(json.dumps(facts | told([row])))


def _measured(rpm: float, commands: Sequence[Sequence[str]]) -> Measured:
    """The wall time of these commands, one after the other, on a fresh run folder and a fresh server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(responder=RESPONDER, rpm=rpm, latency_ms=LATENCY_MS) as server,
    ):
        fixed = ["--out", str(Path(folder) / "run"), "--set", f"judge.base_url={server.base_url}"]
        fixed += ["--set", f"judge.rpm={rpm}"]
        started_s = time.monotonic()
        for command in commands:
            subprocess.run([sys.executable, "-m", "emray.sweep", *fixed, *command], check=True)
        return _of(server, wall_s=time.monotonic() - started_s, rpm=rpm)


def _of(server: LocalServer, *, wall_s: float, rpm: float) -> Measured:
    stats = server.stats()
    burst = rpm / 60  # what the server lets through at once
    return Measured(wall_s, (stats["served"] - burst) / rpm * 60, stats["served"], stats["rejected"])


def _facts(one: Measured) -> dict[str, float]:
    return {**one._asdict(), "ratio": one.ratio}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rpm", type=float, default=200)
    parser.add_argument("--cells-per-wave", type=int, default=11)
    parser.add_argument("--alone", action="store_true", help="leave out stage after stage")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides")
    return parser


if __name__ == "__main__":
    main()
