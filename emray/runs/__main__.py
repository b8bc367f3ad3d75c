"""The command: runs side by side.

python -m emray.runs COMMAND ...
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from emray.ending import ended, finish
from emray.runs import compare, gc, overview, pack, watch

_COMMANDS = (overview, compare, watch, gc, pack)  # modules with `add_to`


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m emray.runs", description="Runs side by side.")
    commands = parser.add_subparsers(metavar="COMMAND", help="default: list")
    for module in _COMMANDS:
        module.add_to(commands)
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(given or ["list"])
    return ended(lambda: int(arguments.work(arguments)), say=partial(print, file=sys.stderr))


if __name__ == "__main__":
    finish(main)
