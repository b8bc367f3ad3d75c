"""The command: take a run elsewhere.

python -m emray.export RUN TARGET --to DIR
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from emray.ending import ended, finish
from emray.errors import DataError, StoreError
from emray.export import TARGETS
from emray.reduce.frames import load_run
from emray.reduce.provenance import of_earlier_plan
from emray.store import Store

_EPILOG = """
TARGET is one of
  tables     every table of summary/ as CSV and Parquet, with data_dictionary.csv
  dataset    answers, verdicts and tables as a data set: datasets.load_dataset(DIR, "answers"), or upload the folder
  adapters   the trained adapters by name, each with a model card filled from its record and its results
  inspect    answers and verdicts as logs, one a finetune: inspect view --log-dir DIR

DIR must not exist yet. Answers of misaligned models are in what is written: look before you publish.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.export",
        description="A run in the forms that other tools read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run folder or s3:// location")
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a folder to make")
    arguments = parser.parse_args(argv)
    return ended(lambda: _command(arguments), say=partial(print, file=sys.stderr))


def _command(arguments: argparse.Namespace) -> int:
    frames, store = load_run(arguments.run), Store(arguments.run)
    if arguments.to.exists():
        raise DataError(f"{arguments.to} is there already; give --to a new folder")
    if other := of_earlier_plan(store):
        raise StoreError(other)
    written = TARGETS[arguments.target](frames, store, arguments.to)
    print(f"wrote {written} to {arguments.to}")
    return 0


if __name__ == "__main__":
    finish(main)
