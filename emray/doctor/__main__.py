"""The command: look at a run folder, and move what is damaged out of the way.

python -m emray.doctor RUN              what is damaged, and what it costs to have it again
python -m emray.doctor RUN --repair     move it to RUN/damaged/; then run the sweep again
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from emray.doctor import ASIDE, examine, repair
from emray.ending import ended, finish
from emray.store import Store

_EPILOG = """
RUN is a run folder or s3://bucket/prefix. Nothing is deleted: a damaged file is moved to RUN/damaged/ under its old
name, and the next run of the sweep finds missing what it held. What can be read of a damaged journal stays.

exit codes: 0 nothing is damaged, or all was moved · 1 something is damaged · 2 wrong arguments
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.doctor",
        description="Look for damaged files in a run folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run folder or s3:// location")
    parser.add_argument("--repair", action="store_true", help=f"move what is damaged to RUN/{ASIDE}/")
    arguments = parser.parse_args(argv)
    work = _repair if arguments.repair else _look
    return ended(lambda: work(Store(arguments.run)), say=partial(print, file=sys.stderr))


def _look(store: Store) -> int:
    number = 0
    for finding in examine(store):
        number += 1
        print(f"{finding.name}: {finding.what}\n    to have it again: {finding.redo}")
    if not number:
        print(f"nothing is damaged in {store.root}")
        return 0
    files = "1 file is" if number == 1 else f"{number} files are"
    print(f"{files} damaged; --repair moves them to {ASIDE}/, then run the sweep again")
    return 1


def _repair(store: Store) -> int:
    found = list(examine(store))  # of a folder that is one, before its lease is taken
    if not found:
        print(f"nothing is damaged in {store.root}")
        return 0
    with store.take_lease():
        for finding, moved in repair(store, list(examine(store))):
            print(f"{finding.name}: {finding.what}; {moved}\n    to have it again: {finding.redo}")
    print("now run the sweep again")
    return 0


if __name__ == "__main__":
    finish(main)
