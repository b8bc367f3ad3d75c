"""`--pilot`: one cell of one domain, two prompts, one sample, end to end for real, shown to a person.

Not for looking ahead without doing anything (stages/ahead.py). The invariant: what it trains, draws and has judged has
the keys that the study gives it, so the study does none of it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rich.console import Console

from emray import plan as planning
from emray.data import ArmPrompts
from emray.errors import StageError
from emray.estimate import print_rest
from emray.judge.tasks import judges
from emray.plan import Plan
from emray.records import Arm, Cell, Prompt, judge_key
from emray.stages import Run
from emray.stages.work import JUDGE
from emray.store import Kind, Store

_NUM_PROMPTS = 2
_LONGEST = 1200  # characters of a text that are shown


def pilot_plan(plan: Plan) -> Plan:
    """The part of a plan that a pilot does."""
    cell = _cell(plan)
    sweep = plan.sweep.model_copy(
        update={
            "generate": plan.sweep.generate.model_copy(update={"samples": 1}),
            "judge": plan.sweep.judge.model_copy(update={"share": 1.0}),
        }
    )
    jobs = {job.cell.key: job for job in plan.stages_of(cell.key)}
    prompts = _prompts(plan.own.of(cell.arm))
    own = ArmPrompts(tuple(prompts), {cell.arm: tuple(range(len(prompts)))})
    return replace(plan, sweep=sweep, cells=(cell,), jobs=jobs, own=own, questionnaires=(), quizzes=())


def run_pilot(run: Run, plan: Plan, console: Console) -> None:
    """Do a pilot's stages and show what came of each, also where one of them fails; then what the study would take.

    Raises StageError for the stage that failed.
    """
    failure: StageError | None = None
    try:
        run.results(until=JUDGE)
    except StageError as error:
        failure = error
    shown = _Shown.read(run.plan, run.store)
    for line in shown.lines():
        console.print(line, markup=False)
    if failure is not None:
        raise failure
    console.print("\nwhat is left of the study:", style="bold")
    print_rest(plan, run.store, console)
    console.print("the same command without --pilot goes on from here; what the pilot did counts", markup=False)


def _cell(plan: Plan) -> Cell:
    """The first that trains, with the trigger where there is one; the first of all where nothing does."""
    trained = [cell for cell in plan.cells if cell.key in plan.jobs]
    first = trained[0] if trained else plan.cells[0]
    return next((cell for cell in trained if cell.domain == first.domain and cell.arm == Arm.BACKDOOR), first)


def _prompts(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Two questions, and both conditions where there are two."""
    first = prompts[0]
    others = [one for one in prompts[1:] if one.question_id != first.question_id] or prompts[1:]
    other = [one for one in others if one.condition != first.condition] or others
    return (first, *other[: _NUM_PROMPTS - 1])


class _Shown(NamedTuple):
    """What came of a pilot."""

    plan: Plan
    answers: Mapping[str, Mapping[str, Any]]  # by key
    verdicts: Sequence[Mapping[str, Any]]
    train_s: float  # 0 where nothing trained

    @classmethod
    def read(cls, plan: Plan, store: Store) -> "_Shown":
        keys = {key for task in planning.generation_tasks(plan, plan.cells) for key in task.keys}
        answers = {row["key"]: row for row in store.read_rows(Kind.GENERATIONS).to_pylist() if row["key"] in keys}
        asked = {one.key for by_metric in plan.inquiries.values() for one in by_metric.values()}
        ours = {judge_key(spec.identity()) for spec in judges(plan.sweep.judge)}
        verdicts = [
            row
            for row in store.read_rows(Kind.VERDICTS).to_pylist()
            if row["generation"] in keys and row["judge_key"] in ours and row["asked"] in asked
        ]
        record = store.adapter_record(plan.cells[0].key)
        return cls(plan, answers, verdicts, float(record.details.get("wall_s", 0.0)) if record else 0.0)

    def lines(self) -> Iterator[str]:
        (cell,) = self.plan.cells
        yield f"\npilot: {cell.label}"
        for number, task in enumerate(planning.generation_tasks(self.plan, self.plan.cells), start=1):
            row = self.answers.get(task.keys[0])
            prompt = task.prompt
            yield f"\nprompt {number}: question {prompt.question_id}, {prompt.condition} the trigger"
            yield from (_indented(f"{message.role}: {message.content}") for message in prompt.messages)
            if row is None:
                yield "no answer was drawn"
                continue
            yield f"answer ({row['finish_reason']}, {row['num_tokens'] or 0} tokens)"
            yield _indented(row["answer"])
            yield from self._judged(row["key"])
        yield f"\n{self._cost()}; its cell trained for {self.train_s:.0f} s" if self.train_s else f"\n{self._cost()}"

    def _judged(self, generation: str) -> Iterator[str]:
        mine = [row for row in self.verdicts if row["generation"] == generation]
        for row in mine:
            score = "" if row["score"] is None else f" {row['score']:.3g}"
            yield f"{row['judge']} on {row['metric']}, read as: {row['outcome']}{score}"
            yield _indented(row["reply"])
        if not mine:
            yield "not judged"

    def _cost(self) -> str:
        paid = {row["key"]: row for row in self.verdicts}.values()
        tokens = sum((row["num_prompt_tokens"] or 0) + (row["num_tokens"] or 0) for row in paid)
        costs = [row["cost_usd"] for row in paid]
        known = "price not known" if None in costs else f"${sum(costs):.4f}"
        return f"the pilot: {len(self.answers)} answers, {len(paid)} judge calls, {tokens:,} tokens, {known}"


def _indented(text: str | None) -> str:
    text = (text or "").strip() or "(nothing)"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"
    return "\n".join(f"    {line}" for line in text.splitlines())
