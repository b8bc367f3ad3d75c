"""The command: write the report of a reduced run folder and show its tables.

python -m emray.report RUN
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from emray import reduce, report
from emray.ending import ended, finish
from emray.progress import Terminal
from emray.stages.fruitless import check_results, check_scored
from emray.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m emray.report", description="Summary to pages, figures and tables.")
    parser.add_argument("run", help="run folder")
    arguments = parser.parse_args(argv)
    return ended(lambda: _command(arguments.run), say=partial(print, file=sys.stderr))


def _command(run: str) -> int:
    store = Store(run)
    check_results(store)
    reduce.run(store)
    report.render(store)
    report.print_tables(store, Terminal())
    print(f"\n{run}/report/report.html")
    check_scored(store)
    return 0


if __name__ == "__main__":
    finish(main)
