"""What every benchmark shares: a small size, and rows, emray beside a peer, for the table of all of them.

Not for how anything is measured. Invariant: a row without a figure says why, and one line says what a machine lacks.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

TO_ITS_END = "to its end"
LACKING = 2  # exit code of a benchmark that cannot run on this machine


class Compared(NamedTuple):
    """One figure of emray's, and a peer's where there is one; None where somebody broke, and `ended` says how."""

    what: str
    unit: str
    emray: float | None
    peer: str = ""
    theirs: float | None = None
    more_is_better: bool = True
    ended: str = TO_ITS_END

    @property
    def ratio(self) -> float | None:
        """How many times better emray is."""
        if not self.emray or not self.theirs:
            return None
        return self.emray / self.theirs if self.more_is_better else self.theirs / self.emray


def told(rows: Iterable[Compared]) -> dict[str, Any]:
    """Rows as a part of a benchmark's last line."""
    return {"compared": [row._asdict() for row in rows]}


def parsed(
    parser: argparse.ArgumentParser, *, small: Mapping[str, Any], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """The options of a benchmark; `--small` is other defaults for them, and what is given besides stands."""
    parser.add_argument("--small", action="store_true", help="a minute on two cores: shows that it runs, not how fast")
    if parser.parse_known_args(argv)[0].small:
        parser.set_defaults(**small)
    return parser.parse_args(argv)


def last_line(said: str) -> str:
    """The error that a process ended with, or else what it said last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["nothing was said"])[-1][:200]


def lacking(program: str, what: str) -> NoReturn:
    """End a benchmark that this machine cannot run, in one line."""
    print(f"{program}: {what}", file=sys.stderr)
    sys.exit(LACKING)


def need_gpus(program: str, *, otherwise: str = "") -> None:
    """End here where torch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        lacking(program, f"needs an NVIDIA GPU that torch sees, this machine has none{otherwise}")
