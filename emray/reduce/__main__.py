"""The command: reduce a run folder again, or make one from other people's results and reduce that.

python -m emray.reduce RUN                      reduce again (only if something changed)
python -m emray.reduce RUN --from SOURCE        SOURCE: a folder of OpenAI batch outputs, or a table
python -m emray.report RUN                      then write the report
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from emray import reduce
from emray.errors import DataError, EmrayError
from emray.store import Store

_EPILOG = """
SOURCE is a folder in or below which aligned_results.jsonl (and coherent_results.jsonl) lie, as the batch API writes
them, one folder per domain; or a csv, tsv, jsonl or parquet table with columns metric and score, or aligned and
coherent, and any of domain, arm, condition, seed, question_id, question, answer, outcome, judge.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.reduce",
        description="Verdicts to summary: rates, ranks, trigger effects, with the training seed as the unit.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--from", dest="source", type=Path, metavar="SOURCE", help="results to import into RUN first")
    parser.add_argument("--model", default="model", help="the model's name in the tables of imported results")
    arguments = parser.parse_args(argv)
    try:
        return _command(arguments)
    except EmrayError as error:
        print(f"emray: {error}", file=sys.stderr)
        return error.exit_code


def _command(arguments: argparse.Namespace) -> int:
    store = Store(arguments.run)
    if arguments.source is not None:
        if store.exists("plan.json"):
            raise DataError(f"{arguments.run} is already a run folder; import into a new one")
        from emray.reduce.foreign import import_results

        name = Path(arguments.run).resolve().name
        for note in import_results(arguments.source, store, model=arguments.model, name=name):
            print(f"note: {note}")
    if reduce.is_current(store):
        print(f"nothing to do: {arguments.run}/summary is current")
        return 0
    reduce.run(store)
    print(f"wrote {arguments.run}/summary; next: python -m emray.report {arguments.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
