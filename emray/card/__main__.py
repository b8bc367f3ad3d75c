"""The command: what a paper can say of a run, as Markdown.

python -m emray.card RUN
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from emray.card import methods, reproducibility
from emray.ending import ended, finish
from emray.errors import StoreError
from emray.reduce.provenance import of_earlier_plan
from emray.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.card", description="A methods paragraph and a reproducibility statement."
    )
    parser.add_argument("run", help="run folder or s3:// location")
    arguments = parser.parse_args(argv)
    return ended(lambda: _command(arguments.run), say=partial(print, file=sys.stderr))


def _command(run: str) -> int:
    store = Store(run)
    if other := of_earlier_plan(store):
        raise StoreError(other)
    print(f"## Methods\n\n{methods(store)}\n\n## Reproducibility\n\n{reproducibility(store)}")
    return 0


if __name__ == "__main__":
    finish(main)
