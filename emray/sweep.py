"""The command: plan, run what is missing stage by stage, show the taxonomy.

    python -m emray.sweep [SPEC] [--out DIR] [--until STAGE] [--dry-run] [--address ADDR] [--set key=value ...]

Not for running a stage (stages/). The invariant: everything wrong with the input is found before anything is written,
and a finished sweep run again starts neither Ray nor a server.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from emray import data, datasheets
from emray import plan as planning
from emray.doctor import mend
from emray.ending import ended, finish
from emray.endpoint.listing import ending_note
from emray.errors import SpecError
from emray.judge.tasks import judges
from emray.pilot import pilot_plan, run_pilot
from emray.plan import Plan
from emray.probes.steering import with_steering
from emray.progress import Terminal, progress_lines
from emray.records import Arm, Place
from emray.runs import adopt, beside, kept_line, on_offer
from emray.runs.looked_at import LookedAt
from emray.spec import HOSTED, STAGES, TOY, EndpointSpec, Sweep, load_sweep
from emray.stages import Ahead, Invocation, Logbook, Run, Services, check_keys, look_ahead
from emray.stages.fruitless import check_scored
from emray.stages.work import JUDGE
from emray.store import Lease, Store

_DEFAULT_SWEEP = Path(__file__).resolve().parent.parent / "sweeps" / "toy.yaml"
REDUCE, REPORT = STAGES[-2:]

_EPILOG = """
examples:
  python -m emray.sweep
      the toy study: a CPU, minutes
  python -m emray.sweep --set seeds=4
      one more seed a cell; all else is kept
  python -m emray.sweep sweeps/paper.yaml --dry-run
      cells, judge calls, tokens, cost, what is missing; touches nothing
  python -m emray.sweep sweeps/paper.yaml --pilot
      one cell, two prompts, end to end: prompts, answers, verdicts, cost
  python -m emray.sweep sweeps/paper.yaml --address auto
      on the cluster that `ray up cluster.yaml` started

Run the same command again after a crash, a Ctrl-C or a change: only what is
missing is done.

exit codes: 0 finished · 1 a stage could not finish (everything earned is
kept; run again) · 2 the input is wrong (nothing was written) · 130 Ctrl-C,
143 SIGTERM (everything earned is kept; a second one ends at once)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words)
    console = Terminal()
    say = partial(Terminal(stderr=True).print, markup=False, soft_wrap=True)
    return ended(lambda: _command(arguments, words, console), say=say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emray.sweep",
        description="One sweep file in, a taxonomy of emergent misalignment out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "spec", nargs="?", type=Path, default=_DEFAULT_SWEEP, help="sweep file (default: the toy study)"
    )
    parser.add_argument("--out", metavar="DIR", help="run folder or s3:// location (default: runs/<name>)")
    parser.add_argument("--store", metavar="DIR", help="folder of run folders whose results are taken over where "
                        "they are wanted (default: where the run folder lies; none: nowhere)")  # fmt: skip
    parser.add_argument(
        "--until", choices=STAGES, default=STAGES[-1], metavar="STAGE", help=f"stop after {', '.join(STAGES)}"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="show the plan, what is kept and missing, cost; stop")
    instead.add_argument("--pilot", action="store_true", help="do one cell, two prompts, one sample for real; show all")
    parser.add_argument("--address", metavar="ADDR", help="Ray cluster: auto, host:port (default: this machine alone)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
                        help="change a field of the sweep file, as in train.epochs=2 (repeatable)")  # fmt: skip
    return parser


def _command(arguments: argparse.Namespace, words: Sequence[str], console: Console) -> int:
    sweep = load_sweep(arguments.spec, overrides=arguments.overrides)
    store = Store(arguments.out or f"runs/{sweep.name}")
    folder = arguments.spec.resolve().parent
    if arguments.dry_run:
        _dry_run(sweep.resolved(folder), folder, store, console, others=beside(store, given=arguments.store))
        return 0

    def plan(num_seeds: Mapping[Place, int]) -> Plan:
        earlier = planning.written(store)
        made = planning.make_plan(sweep, folder=folder, online=True, earlier=earlier, num_seeds=num_seeds)
        return with_steering(made)

    earlier = planning.written(store)
    first = plan(planning.seeds_so_far(sweep, earlier))
    for note in (*_endings(sweep, today=date.today()), *first.notes):
        console.print(f"note: {note}", style="yellow", markup=False)
    others = beside(store, given=arguments.store)
    if not others and not earlier:  # else what others have is taken over first, or what a killed run left is mended
        check_keys(Ahead.of(first, store, until=arguments.until))
    with _only_sweep_in(store), ExitStack() as resources:
        for note in mend(store):
            console.print(f"note: {note}", style="yellow", markup=False)
        store.settle()  # what a killed run left in many parts
        logbook = Logbook(store, Invocation.of("emray.sweep", words, sweep))
        services = Services(resources, logbook=logbook, store=store, address=arguments.address)
        command = _Command(plan, arguments.until, store, services, console, others)
        _take_over(command, first)
        ahead = Ahead.of(first, store, until=arguments.until)
        check_keys(ahead)
        look_ahead(ahead, store, services, say=partial(_say_checked, console))
        if arguments.pilot:
            _pilot(command, first)
        else:
            _run_until_enough(command, first)
    return 0


def _say_checked(console: Console, line: str) -> None:
    console.print(f"checked: {line}", markup=False)


def _endings(sweep: Sweep, *, today: date) -> Iterator[str]:
    """What to know of hosted models that have ended or are about to, by their endpoints' account or ours."""
    hosts: list[tuple[str, EndpointSpec]] = [(judge.model, judge) for judge in judges(sweep.judge)]
    hosted = [model.path.removeprefix(HOSTED) for model in sweep.model if model.path.startswith(HOSTED)]
    hosts += [(name, sweep.generate.endpoint) for name in hosted]
    asked = [(name, spec) for name, spec in hosts if spec.base_url != TOY and getattr(spec, "engine", "") != "vllm"]
    for model, spec in dict(asked).items():
        note = ending_note(spec, model=model, base_url=spec.base_url, today=today)
        if note is not None:
            yield note


def _dry_run(sweep: Sweep, folder: Path, store: Store, console: Console, *, others: Sequence[Store]) -> None:
    """Show what the sweep will take; for files that are not there yet by the sizes that were published."""
    from emray.estimate import print_estimate

    earlier = planning.written(store)
    with data.stand_ins(sweep) as (whole, missing):
        plan = planning.make_plan(
            whole, folder=folder, online=False, earlier=earlier, num_seeds=planning.seeds_so_far(sweep, earlier)
        )
        for note in _endings(sweep, today=date.today()):
            console.print(f"note: {note}", style="yellow", markup=False)
        if not missing:
            datasheets.print_datasheets(datasheets.document_of(plan, store), console)
        whole_plan = with_steering(plan)
        print_estimate(whole_plan, store, console, missing=missing)
        for line in on_offer(whole_plan, store, runs=others):
            console.print(line, markup=False, soft_wrap=True)


class _Command(NamedTuple):
    """What was asked for, and with what to do it."""

    plan: Callable[[Mapping[Place, int]], Plan]
    until: str
    store: Store
    services: Services
    console: Console
    others: Sequence[Store]  # run folders whose results may be taken over


def _take_over(command: _Command, plan: Plan) -> None:
    """What other runs have of the plan; then say what is there of it."""
    told = adopt(plan, command.store, runs=command.others)
    if told:
        command.services.logbook.begin()
    for line in (*told, kept_line(plan, command.store)):
        if line is not None:
            command.console.print(line, markup=False, soft_wrap=True)


def _pilot(command: _Command, plan: Plan) -> None:
    part = pilot_plan(plan)
    with progress_lines(command.console) as lines:
        run = Run(part, store=command.store, services=command.services, lines=lines, part_of=plan)
        run_pilot(run, plan, command.console)


def _run_until_enough(command: _Command, first: Plan) -> None:
    """Run the stages; while the reducer of an adaptive sweep asks for more seeds, plan them and run again."""
    plan, until, store, services, console, _ = command
    current, did = first, False
    while True:
        with progress_lines(console) as lines:
            run = Run(current, store=store, services=services, lines=lines)
            did = run.results(until=until) or did
        datasheets.keep(current, store)
        store.settle()
        if until not in (REDUCE, REPORT):
            break
        did = run.reduce() or did
        more = _seeds_to_add(store)
        if not more:
            break
        console.print(f"adding {sum(more.values())} seeds in {len(more)} places whose intervals are too wide")
        so_far = planning.seeds_so_far(current.sweep, current.document)
        current = plan(so_far | {place: so_far[place] + number for place, number in more.items()})
        _take_over(command, current)
    if until == REPORT:
        did = run.report() or did
    if not did:
        console.print(f"nothing to do: {store.root} is complete")
    if until == REPORT:
        from emray import report

        report.print_tables(store, console)
        console.print(f"\npage: {store.root}/report/report.html", markup=False, soft_wrap=True)
        _tell_first_cause(store, console)
    if until not in STAGES[: STAGES.index(JUDGE)]:
        check_scored(store)


def _tell_first_cause(store: Store, console: Console) -> None:
    """Of what ended badly, and what to do."""
    if cause := LookedAt.of(store).first_cause:
        again = "when its cause is gone, the same command with --set resources.retry_failed=true tries again"
        console.print(f"\n{cause}; {again}", style="yellow", markup=False, soft_wrap=True)


def _seeds_to_add(store: Store) -> dict[Place, int]:
    """What the reducer of an adaptive sweep asks for, place by place; empty when it is done or not adaptive."""
    adaptive = store.read_json("summary/summary.json")["adaptive"]
    if not adaptive:
        return {}
    return {Place(row["model"], row["domain"], Arm(row["arm"])): row["seeds"] for row in adaptive["to_add"]}


def _only_sweep_in(store: Store) -> Lease:
    """Hold the run folder for this process; a second sweep in it would do the same work twice."""
    try:
        return store.take_lease()
    except OSError as error:
        raise SpecError(f"cannot write to --out {store.root}: {error.strerror}; give another folder") from None


if __name__ == "__main__":
    finish(main)
