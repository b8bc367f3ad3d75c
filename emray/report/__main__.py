"""The command: write the report of a reduced run folder and show its tables.

python -m emray.report RUN
"""

import argparse
import sys
from collections.abc import Sequence

from emray import reduce, report
from emray.errors import EmrayError
from emray.progress import Terminal
from emray.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m emray.report", description="Summary to pages, figures and tables.")
    parser.add_argument("run", help="run folder")
    arguments = parser.parse_args(argv)
    store = Store(arguments.run)
    try:
        reduce.run(store)
        report.render(store)
        report.print_tables(store, Terminal())
    except EmrayError as error:
        print(f"emray: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{arguments.run}/report/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
