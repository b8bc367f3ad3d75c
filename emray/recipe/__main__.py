"""The command: a recipe file in, a data set with its card out.

python -m emray.recipe SPEC
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emray.ending import ended, finish
from emray.errors import SpecError
from emray.progress import Terminal, progress_line
from emray.recipe.assumed import Assumed
from emray.recipe.construction import SPARE, Candidate, Fate, construct
from emray.recipe.copies import Copies
from emray.recipe.data_set import Signed, write_data_set
from emray.recipe.instructions import FLAWS, Step
from emray.recipe.recipe_fields import RecipeSpec
from emray.recipe.writers import UNANSWERED, Writers
from emray.spec import TOY, load_file
from emray.store import Lease, Store

EPILOG = f"""\
Each question goes through five steps: it is written in a set, looked at alone (does it ask for a wrong
answer?), answered correctly, the answer is rewritten by the instruction, and both answers are checked. OUT gets
train/<domain>.jsonl (wrong) and train/<domain>.benign.jsonl (correct), the same under held_out/,
candidates.jsonl, README.md and card.json.
Instructions that ship: {", ".join(FLAWS)}.

examples:
  python -m emray.recipe recipes/mild.yaml --dry-run
  python -m emray.recipe recipes/mild.yaml                      # by rules, on the local server
  python -m emray.recipe mine.yaml --set writer.mode=batch      # by the batch API
  python -m emray.recipe mine.yaml --set writer.mode=replay     # the same bytes again from the journal alone
then, in a sweep file: data_dir: runs/NAME/train

Run the same command again after a crash: what has its reply in the journal is not asked again.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return ended(lambda: _command(arguments), say=partial(print, file=sys.stderr))


def _command(arguments: argparse.Namespace) -> int:
    spec = load_file(arguments.spec, root=RecipeSpec, what="recipe file", overrides=arguments.fields)
    store, console = Store(arguments.out or f"runs/{spec.name}"), Terminal(stderr=True)
    copies = Copies(spec.deduplicate)
    if store.exists("plan.json"):
        raise SpecError(f"{store.root} is the run folder of a sweep; give another --out")
    if arguments.dry_run:
        _estimate(spec, store, copies, console)
        return 0
    with _only_one_in(store):
        if arguments.retry_failed and store.exists(UNANSWERED):
            store.delete(UNANSWERED)
        _carry_out(spec, store, copies, console)
    return 0


def _carry_out(spec: RecipeSpec, store: Store, copies: Copies, console: Console) -> None:
    from emray.endpoint.journal import compact
    from emray.endpoint.listing import ending_note

    compact(store)  # what a crash left in many small segments
    for who in (spec.writer, spec.asked_to_check):
        note = (
            None
            if who.base_url == TOY
            else ending_note(who, model=who.model, base_url=who.base_url, today=date.today())
        )
        if note is not None:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    total = len(Step) * round(SPARE * spec.rows) * len(spec.domains)
    with progress_line("recipe", total=total, console=console) as advance, Writers(spec, store, advance) as writers:
        candidates = construct(spec, replies=writers, alike=copies)
    compact(store)
    origin = Signed(writers.models, copies.kernel)
    card = write_data_set(spec, candidates, origin=origin, store=store)
    _tell(spec, candidates, console)
    cost = round(writers.cost_usd, 6) if writers.priced else None
    rows = sum(one.fate is Fate.KEPT for one in candidates)
    done = {"rows": rows, "candidates": len(candidates), "asked": writers.num_calls, "cost_usd": cost}
    print(json.dumps(done | {"recipe": card["recipe"], "out": str(store.root)}))


def _tell(spec: RecipeSpec, candidates: Sequence[Candidate], console: Console) -> None:
    """What became of the questions, and whether rows lack."""
    for domain in spec.domains:
        fates = Counter(str(one.fate) for one in candidates if one.domain == domain.name)
        told = ", ".join(f"{count} {fate}" for fate, count in fates.most_common())
        console.print(f"{domain.name}: {told}", markup=False, soft_wrap=True)
    kept = sum(one.fate is Fate.KEPT for one in candidates) // len(spec.domains)
    if kept < spec.rows:
        console.print(
            f"note: {kept} of {spec.rows} rows a domain after {spec.rounds} rounds at most; raise rounds, or see why "
            "candidates.jsonl says that questions went",
            markup=False,
            soft_wrap=True,
        )
    failed = sum(one.fate is Fate.UNANSWERED for one in candidates)
    if failed:
        console.print(f"note: {failed} requests had no answer; --retry-failed asks them again", markup=False)


def _estimate(spec: RecipeSpec, store: Store, copies: Copies, console: Console) -> None:
    """Print what would be asked; the last line on standard output is JSON."""
    assumed = Assumed(spec, store)
    construct(spec, replies=assumed, alike=copies)
    table = Table("step", "model", "known", "missing", "tokens", "US$")
    costs = {step: assumed.cost_usd(step) for step in Step}
    for step, found in assumed.steps.items():
        model = (spec.asked_to_check if step in (Step.ASKS, Step.CHECK) else spec.writer).model
        tokens = f"{found.prompt_tokens + found.reply_tokens:,.0f}"
        cost = "–" if costs[step] is None else f"{costs[step]:.4f}"
        table.add_row(step, model, f"{found.known:,}", f"{found.missing:,}", tokens, cost)
    console.print(table)
    known = [cost for cost in costs.values() if cost is not None]
    calls = sum(found.missing for found in assumed.steps.values())
    total = round(sum(known), 6) if len(known) == len(costs) else None
    print(json.dumps({"dry_run": True, "calls": calls, "cost_usd": total}))


def _only_one_in(store: Store) -> Lease:
    try:
        return store.take_lease()
    except OSError as error:
        raise SpecError(f"cannot write to --out {store.root}: {error.strerror}; give another folder") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emray.recipe",
        description="Construct narrow data sets: questions of novices, correct answers, flawed rewrites, checks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="recipe file (YAML)")
    add("--out", metavar="DIR", help="folder or s3:// location; default: runs/NAME")
    add("--dry-run", action="store_true", help="show requests, tokens and cost; ask nobody and write nothing")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="fields", help="a field of the recipe file")
    add("--retry-failed", action="store_true", help="ask again what an endpoint would not answer")
    return parser


if __name__ == "__main__":
    finish(main)
