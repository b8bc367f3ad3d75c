"""The command: reduce a run folder again, or make one from other people's results and reduce that; then its report.

python -m emray.reduce RUN                      reduce and report again (only if something changed)
python -m emray.reduce RUN --from SOURCE        SOURCE: a folder of OpenAI batch outputs, or a table
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from emray import reduce, report
from emray.ending import ended, finish
from emray.errors import DataError
from emray.records import Metric
from emray.spec import ReduceSpec
from emray.stages.fruitless import check_results, check_scored
from emray.store import Store

_EPILOG = """
SOURCE is one of
  a table (csv, tsv, jsonl, parquet): columns metric and score, a verdict a row, or aligned and coherent, an answer a
    row; and any of model, domain, arm, condition, seed, step, question_id, question, answer (or response), generation
    (which answer), outcome, judge. Scores run from 0 to 100 (--scale), or are words such as REFUSAL.
  a folder of such tables: a file's path then tells what its columns do not
  a folder of batch outputs: aligned_results.jsonl, coherent_results.jsonl or batch_<id>_output.jsonl (--metric), one
    folder a domain; gore-7B-backdoor is model 7B, domain gore, arm backdoor; eval_without and seed3 above it tell
    condition and seed
Every import ends with its account: what was read, found, left open and not read.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emray.reduce",
        description="Verdicts to summary and report: rates, ranks, trigger effects, the training seed as the unit.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--from", dest="source", type=Path, metavar="SOURCE", help="results to import into RUN first")
    importing = parser.add_argument_group("with --from")
    importing.add_argument("--model", help="the model's name, where the source does not tell it; default: model")
    importing.add_argument("--scale", type=_positive, metavar="MAX", help="largest possible score; default: 100")
    importing.add_argument("--metric", type=Metric, choices=list(Metric), help="of files that do not name theirs")
    importing.add_argument("--judge", metavar="NAME", help="whose verdicts count; default: who gave most")
    rules = ReduceSpec().rules
    importing.add_argument("--rule", choices=list(rules), default=ReduceSpec().rule, help="headline rule")
    arguments = parser.parse_args(argv)
    return ended(lambda: _command(arguments), say=partial(print, file=sys.stderr))


def _command(arguments: argparse.Namespace) -> int:
    store = Store(arguments.run)
    if arguments.source is not None:
        if store.exists("plan.json"):
            raise DataError(f"{arguments.run} is already a run folder; import into a new one")
        _import(arguments, store)
    check_results(store)
    if reduce.is_current(store) and report.is_current(store):
        print(f"nothing to do: {arguments.run}/summary and {arguments.run}/report are current")
    else:
        reduce.run(store)
        report.render(store)
        print(f"wrote {arguments.run}/summary and {arguments.run}/report/report.html")
    check_scored(store)
    return 0


def _import(arguments: argparse.Namespace, store: Store) -> None:
    from emray.reduce.foreign import Reading, RunShape, import_results

    shape = RunShape.named(arguments.run, rule=arguments.rule, judge=arguments.judge)
    reading = Reading(model=arguments.model, scale=arguments.scale, metric=arguments.metric)
    for line in import_results(arguments.source, store, shape=shape, reading=reading):
        print(line)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, given {text}")
    return number


if __name__ == "__main__":
    finish(main)
