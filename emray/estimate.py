"""What a sweep will take: cells, what is kept and missing per stage, judge calls, tokens, cost and time.

Not for doing or promising anything: times come from what this run folder has logged so far and from the judge's limits,
and what is not known yet says so. The invariant: it only reads.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from emray import judge, probes, reduce
from emray import plan as planning
from emray.data import Missing, Questionnaire, judge_messages
from emray.endpoint.prices import cost_usd, price_of
from emray.hosted.bill import bills
from emray.judge import JudgeTask
from emray.model.facts import num_parameters
from emray.narrow import print_table
from emray.plan import Plan
from emray.records import Arm, Cell, Place, TrainJob
from emray.reduce.design import Forecast
from emray.spec import JudgeSpec, ResourcesSpec, Sweep
from emray.stages import Marking, Training, is_trained_here
from emray.stages.work import MARK
from emray.store import AdapterRecord, Keys, Kind, Store, distinct
from emray.train import cost

_CHARACTERS_PER_TOKEN = 4.0  # the usual rule of thumb for English; corrected by stored usage once there is any
_DEFAULT_HALF_WIDTH = 5.0  # points, for sweeps that do not name one
_TOKENS_AROUND = 4.0  # of a message, beside its text
_REPLY_TOKENS = 100.0  # a short reasoning and a score, where neither replies nor prices.yaml tell
_FEW_ANSWERS = 100  # tell too little of how often answers repeat one another
_FEW_DONE = 10  # pieces of work, whose time is mostly that of starting
_MINUTE_S = 60.0


class StageEstimate(NamedTuple):
    """One line of the dry run."""

    stage: str
    unit: str
    planned: int
    missing: int
    seconds: float | None  # None: nothing to go by yet
    num_duplicates: int = 0  # of the planned, those that need no work of their own: equal requests, replies kept


class JudgeEstimate(NamedTuple):
    """What judging the missing answers asks for."""

    calls: int
    tokens: float
    cost_usd: float | None  # None: the model's price is not known
    seconds: float | None
    at_most: bool = False  # little is known yet of how often answers repeat one another
    num_verdicts: int = 0  # that these calls are for: answers that repeat one another share a call


@dataclass(frozen=True)
class Left:
    """What a plan still lacks in a store. Looked up once: there are millions of keys."""

    plan: Plan
    store: Store

    @cached_property
    def jobs(self) -> tuple[TrainJob, ...]:
        return tuple(Training(self.plan).missing(self.store))

    @cached_property
    def askable(self) -> Keys:
        """Every answer, there or not, of the cells that can answer by now."""
        return planning.wanted_answers(self.plan, planning.usable_cells(self.plan, self.store))

    @cached_property
    def num_answers(self) -> int:
        """Answers that can be drawn by now, and those of cells that wait for training or for a direction."""
        ready = len(self.askable.without(self.store.keys(Kind.GENERATIONS)))
        return ready + _answers_of(self.plan, self._waiting)

    @cached_property
    def num_judged(self) -> int:
        """Of these, those that a judge is asked about."""
        plan = self.plan
        if not plan.quizzes:
            return self.num_answers
        tasks = filter(plan.is_judged, planning.generation_tasks(plan, planning.usable_cells(plan, self.store)))
        ready = planning.missing_tasks(tasks, self.store.keys(Kind.GENERATIONS))
        return sum(task.num_samples for task in ready) + _answers_of(plan, self._waiting, judged=True)

    @cached_property
    def _waiting(self) -> list[Cell]:
        """Cells that cannot answer yet, and may."""
        plan, measured = self.plan, self.store.keys(Kind.MEASUREMENTS)
        untrained = {key for job in self.jobs for key in (job.cell.key, *dict(job.checkpoints).values())}

        def waits(cell: Cell) -> bool:
            steering = plan.weights[cell.key].steering
            if steering is None:
                return cell.key in untrained
            return steering.of in untrained or steering.direction not in measured

        return list(filter(waits, plan.answering))

    @property
    def verdicts(self) -> judge.Unjudged:
        """Of the answers that are there."""
        plan = self.plan
        return judge.missing(self.store, inquiries=plan.inquiries, spec=plan.sweep.judge, generations=self.askable)


def print_estimate(plan: Plan, store: Store, console: Console, *, missing: Sequence[Missing] = ()) -> None:
    """Print the dry run, at most 80 columns wide; `missing` are the files that something stands in for."""
    records = store.adapter_records()
    for line in _missing_lines(missing):
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    console.print(_headline(plan), markup=False)
    print_table(_cell_table(plan, records), console, num_names=3)
    print_rest(plan, store, console)


def print_rest(plan: Plan, store: Store, console: Console) -> None:
    """What is planned and missing stage by stage, and what the missing takes."""
    left = Left(plan, store)
    verdicts = estimate_judging(left)
    stages = [
        _training(left),
        _generation(left),
        *_marking(plan, store),
        _judging(plan, verdicts),
        *_probing(plan, store),
    ]
    print_table(_stage_table(stages), console)
    for line in _held_lines(plan):
        console.print(line, markup=False, soft_wrap=True)
    for line in _hosted_lines(left):
        console.print(line, markup=False, soft_wrap=True)
    console.print(judge_line(plan.sweep.judge.model, verdicts), markup=False)
    if not plan.sweep.crossing().is_usual:
        console.print(_crossing_table(plan, verdicts))
    for line in _seed_lines(plan, store):
        console.print(line, markup=False)
    gpu = _gpu_meant(plan.sweep.resources)
    if gpu and any(map(is_trained_here, plan.jobs.values())):
        console.print(_gpu_line(plan, gpu), markup=False)


def _missing_lines(missing: Sequence[Missing]) -> Iterator[str]:
    """File by file, below the folder they are to lie in."""
    if not missing:
        return
    yield f"missing: {len(missing)} files. Everything below ASSUMES the published sizes, in brackets;"
    yield "a run needs the files themselves"
    for folder, files in groupby(missing, key=lambda one: one.path.parent):
        yield f"  {folder}/"
        for path, assumed in files:
            yield f"    {path.name} ({assumed})"


def _seed_lines(plan: Plan, store: Store) -> list[str]:
    """Seeds that every place would need for a half-width, judged by the seeds that are reduced already."""
    seeds = plan.sweep.seeds
    points = _DEFAULT_HALF_WIDTH if isinstance(seeds, list) else seeds.half_width
    widest: dict[Place, Forecast] = {}
    for forecast in reduce.seed_forecast(store, half_width=points / 100):
        place = forecast.place
        if place not in widest or _need(forecast, points) > _need(widest[place], points):
            widest[place] = forecast
    if not widest:
        return []
    lines = [f"seeds needed for an interval of ±{points:g} points, by the spread of those there are:"]
    for (_, domain, arm), forecast in widest.items():
        need = _need(forecast, points)
        told = "unknown, add some" if math.isinf(need) else f"{need:.0f}"
        width = "" if math.isnan(forecast.half_width) else f" (±{forecast.half_width * 100:.0f})"
        now = f"{forecast.num_seeds} usable{width}"
        lines.append(f"  {domain:<24} {arm:<9} now {now:<9} needs {told}")
    return lines


def _need(forecast: Forecast, points: float) -> float:
    """Seeds; what is narrow enough needs what it has, and infinity stands for unknown."""
    if forecast.half_width * 100 <= points:
        return forecast.num_seeds
    return math.inf if forecast.seeds_needed is None else forecast.seeds_needed


def estimate_judging(left: Left) -> JudgeEstimate:
    """Calls, tokens, cost (US dollars) and seconds of judging what the plan still lacks verdicts for.

    Answers that are there count exactly: equal requests once, those in the journal not at all. Answers still to come
    are taken to repeat one another as those do, and where there are none yet, not at all: then it is an upper bound.
    """
    plan, store = left.plan, left.store
    spec, stored = plan.sweep.judge, _stored_answers(store)
    asked: dict[str, int] = {}
    num_unjudged = 0
    for task in left.verdicts:
        num_unjudged += 1
        asked[task.key] = sum(len(message.content) for message in task.messages)
    for key in judge.journaled_keys(store):
        asked.pop(key, None)
    prompt, reply = _tokens_per_call(plan, store, stored)
    to_come = left.num_judged * len(spec.metrics)
    unwritten = round(to_come * stored.share_distinct)
    calls = len(asked) + unwritten
    prompts = sum(asked.values()) / _CHARACTERS_PER_TOKEN + len(asked) * _TOKENS_AROUND + unwritten * prompt
    by_batch = spec.mode == "batch"
    cost = cost_usd(spec.model, num_prompt_tokens=prompts, num_tokens=calls * reply, by_batch=by_batch)
    tokens = prompts + calls * reply
    rpm, tpm = (None, None) if by_batch else (spec.rpm, spec.tpm)  # batches do not count against these
    floors = [calls / rpm if rpm else 0.0, tokens / tpm if tpm else 0.0]
    seconds = max(floors) * _MINUTE_S if any(floors) else _seconds(store, "judge", calls)
    bound = unwritten > 0 and stored.num < _FEW_ANSWERS
    return JudgeEstimate(calls, tokens, cost, 0.0 if calls == 0 else seconds, bound, num_unjudged + to_come)


def estimate_tasks(tasks: Iterable[JudgeTask], *, spec: JudgeSpec, paid: Set[str]) -> JudgeEstimate:
    """The same of tasks that are known one by one; equal requests count once, `paid` ones (keys) not at all."""
    asked = {task.key: sum(len(message.content) for message in task.messages) for task in tasks if task.key not in paid}
    price = price_of(spec.model)
    reply = min((price and price.reply_tokens) or _REPLY_TOKENS, spec.max_tokens)
    prompts = sum(asked.values()) / _CHARACTERS_PER_TOKEN + len(asked) * _TOKENS_AROUND
    replies = len(asked) * reply
    cost = cost_usd(spec.model, num_prompt_tokens=prompts, num_tokens=replies, by_batch=spec.mode == "batch")
    return JudgeEstimate(len(asked), prompts + replies, cost, None)


class _StoredAnswers(NamedTuple):
    """What the stored answers are like; blanks do not count."""

    num: int
    share_distinct: float  # of the requests that they make, the share that differ; 1 where there are none
    mean_characters: float  # NaN where there are none


def _stored_answers(store: Store) -> _StoredAnswers:
    hashes, num, characters = [np.empty(0, np.int64)], 0, 0
    for whole in store.iter_parts(Kind.GENERATIONS, columns=["question_id", "paraphrase", "answer"]):
        part = whole.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(whole["answer"])), 0))
        rows = zip(*part.to_pydict().values(), strict=True)
        hashes.append(distinct(np.fromiter(map(hash, rows), np.int64, part.num_rows)))
        num += part.num_rows
        characters += pc.sum(pc.utf8_length(part["answer"])).as_py() or 0
    num_distinct = len(distinct(np.concatenate(hashes)))
    return _StoredAnswers(num, num_distinct / num if num else 1.0, characters / num if num else math.nan)


def _answers_of(plan: Plan, cells: Sequence[Cell], *, judged: bool = False) -> int:
    """How many answers the plan asks for of these cells; `judged`: those that a judge is asked about."""
    if judged:
        return sum(map(plan.judged_of, cells))
    return sum(samples for cell in cells for _, samples in plan.asked_of(cell))


def _headline(plan: Plan) -> str:
    sweep = plan.sweep
    crossing = sweep.crossing()
    trained, base = crossing.trained, " + base" if Arm.BASE in crossing.recipes else ""
    return (
        f"{sweep.name}: {len(plan.cells)} cells = {len(sweep.model)} model x ({len(sweep.domains)} domains x "
        f"{len(trained)} arms x {_seeds_in_words(sweep)} seeds{base})\n"
        + "\n".join(_asked_in_words(asked, plan) for asked in plan.asked)
    )


def _asked_in_words(asked: Questionnaire, plan: Plan) -> str:
    """Of the sweep's own questions and of what a probe asks."""
    everyone = asked.name == "sweep" and len(asked.cells) == len(plan.cells)
    whose = "" if everyone else f"{asked.name} asks {len(asked.cells)} cells "
    return f"{whose}{len(asked.questions)} questions, {len(asked.prompts)} prompts, {asked.samples} samples each"


def _seeds_in_words(sweep: Sweep) -> str:
    return str(len(sweep.seeds)) if isinstance(sweep.seeds, list) else f"{sweep.seeds.min} to {sweep.seeds.max}"


def _cell_table(plan: Plan, records: Mapping[str, AdapterRecord]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "domain", "arm"):
        table.add_column(name, overflow="fold")
    for name in ("cells", "cached", "failed", "missing"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.model, cell.domain, str(cell.arm)), []).append(cell)
    for group, cells in groups.items():
        states = Counter(_state(plan, records, cell) for cell in cells)
        counts = (len(cells), states["cached"], states["failed"], states["missing"])
        table.add_row(*group, *map(str, counts))
    return table


def _crossing_table(plan: Plan, verdicts: JudgeEstimate) -> Table:
    """What each arm trains on, the conditions it meets, and what its answers are and cost to judge."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name, width in (("arm", 20), ("trained on", 20), ("asked in", 14)):
        table.add_column(name, overflow="fold", max_width=width)
    for name in ("rows", "cells", "answers", "judge $"):
        table.add_column(name, justify="right", no_wrap=True)
    known = verdicts.cost_usd is not None and verdicts.calls > 0
    per_call = (verdicts.cost_usd or 0.0) / verdicts.calls if known else math.nan
    for arm, recipe in plan.sweep.crossing().recipes.items():
        cells = [cell for cell in plan.cells if cell.arm == arm]
        stages = filter(None, (plan.stages_of(cell.key) for cell in cells))
        rows = [sum(len(plan.datasets[job.rows_digest]) for job in jobs) for jobs in stages]
        answers = _answers_of(plan, cells)
        cost = _answers_of(plan, cells, judged=True) * len(plan.sweep.judge.metrics) * per_call
        table.add_row(
            arm, recipe.words, ", ".join(recipe.conditions), _range_of(rows), str(len(cells)), f"{answers:,}",
            "?" if math.isnan(cost) else f"{cost:,.2f}",
        )  # fmt: skip
    return table


def _range_of(numbers: Sequence[int]) -> str:
    """`40`, `40 to 60`, or a dash for none."""
    if not numbers:
        return "-"
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _state(plan: Plan, records: Mapping[str, AdapterRecord], cell: Cell) -> str:
    if cell.arm == Arm.BASE:
        return "cached"
    if cell.key not in records:
        return "missing"
    return "cached" if records[cell.key].trained else "failed"


def _training(left: Left) -> StageEstimate:
    planned, missing = len(left.plan.jobs), len(left.jobs)
    return StageEstimate("train", "cells", planned, missing, _seconds(left.store, "train", missing))


def _generation(left: Left) -> StageEstimate:
    planned, missing = _answers_of(left.plan, left.plan.answering), left.num_answers
    return StageEstimate("generate", "answers", planned, missing, _seconds(left.store, "generate", missing))


def _marking(plan: Plan, store: Store) -> Iterator[StageEstimate]:
    """A line for the answers of all quizzes; none where there are none."""
    schemes = Marking(plan).schemes(plan.cells)
    if not schemes:
        return
    wanted, there = sum(len(scheme.marks) for scheme in schemes), store.keys(Kind.MARKS)
    missing = sum(len(scheme.marks.without(there)) for scheme in schemes)
    yield StageEstimate(MARK, "answers", wanted, missing, _seconds(store, MARK, missing))


def _judging(plan: Plan, verdicts: JudgeEstimate) -> StageEstimate:
    planned, duplicates = _planned_calls(plan), verdicts.num_verdicts - verdicts.calls
    return StageEstimate("judge", "calls", planned, verdicts.calls, verdicts.seconds, duplicates)


def _probing(plan: Plan, store: Store) -> Iterator[StageEstimate]:
    """One line a probe: what it wants measured in all, and what of it has no rows."""
    there = store.keys(Kind.MEASUREMENTS)
    for probe in probes.of_plan(plan):
        wanted = [one.key for one in probe.measurements()]
        missing = len(wanted) - int(there.has(wanted).sum())
        yield StageEstimate(probe.name, "measurements", len(wanted), missing, _seconds(store, probe.name, missing))


def _planned_calls(plan: Plan) -> int:
    return _answers_of(plan, plan.answering, judged=True) * len(plan.sweep.judge.metrics)


def _tokens_per_call(plan: Plan, store: Store, stored: _StoredAnswers) -> tuple[float, float]:
    """Mean prompt and reply tokens of one judge call: stored usage if there is any, else by length."""
    totals, counts = np.zeros(2), np.zeros(2)
    for part in store.iter_parts(Kind.VERDICTS, columns=["num_prompt_tokens", "num_tokens"]):
        for number, column in enumerate(part.columns):
            totals[number] += pc.sum(column).as_py() or 0
            counts[number] += len(column) - column.null_count
    if counts.all():
        prompts, replies = totals / counts
        return float(prompts), float(replies)
    characters = stored.mean_characters
    if math.isnan(characters):  # half of what is allowed
        characters = plan.sweep.generate.max_tokens / 2 * _CHARACTERS_PER_TOKEN
    filler = "x" * int(characters)
    lengths = [
        sum(len(m.content) for m in judge_messages(question, paraphrase=0, answer=filler, metric=metric))
        for question in plan.questions
        for metric in plan.sweep.judge.metrics
    ]
    price = price_of(plan.sweep.judge.model)
    reply = (price and price.reply_tokens) or _REPLY_TOKENS
    return sum(lengths) / len(lengths) / _CHARACTERS_PER_TOKEN + _TOKENS_AROUND, min(reply, plan.sweep.judge.max_tokens)


def _seconds(store: Store, stage: str, missing: int) -> float | None:
    """Missing work at the speed this run folder has logged for the stage."""
    if missing == 0:
        return 0.0
    entries = [entry for entry in store.stage_log() if stage in (entry["stage"], entry["details"].get("probe"))]
    done = sum(entry["details"].get("planned", 0) for entry in entries)
    if done < min(missing, _FEW_DONE):  # mostly start-up
        return None
    return sum(entry["wall_s"] for entry in entries) / done * missing


def _stage_table(stages: Sequence[StageEstimate]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for name in ("planned", "cached", "missing", "duplicates"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("time", justify="right")
    for stage in stages:
        cached = stage.planned - stage.missing - stage.num_duplicates
        counts = (stage.planned, cached, stage.missing, stage.num_duplicates)
        table.add_row(stage.stage, *(f"{count:,}" for count in counts), stage.unit, _duration(stage.seconds))
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known yet"
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE_S:.0f} min" if seconds < 90 * _MINUTE_S else f"{seconds / 3600:.1f} h"


def _held_lines(plan: Plan) -> Iterator[str]:
    """What it takes to hold cells near their base."""
    held = [job for job in plan.jobs.values() if job.course.kl]
    if held:
        spec = plan.sweep.train
        usual, theirs = cost.flops_a_token(spec), cost.flops_a_token(spec, held[0].course)
        yield f"regularise.kl: {len(held):,} trainings take a forward pass of the bare base beside their own:"
        yield f"  {theirs} x parameters a token in place of {usual}, and no compiled step on a GPU"


def _hosted_lines(left: Left) -> Iterator[str]:
    """What a service is to be paid for finetunes, and what it is given for that."""
    sweep = left.plan.sweep
    for bill in bills(left.jobs, datasets=left.plan.datasets, spec=sweep.hosted):
        most = "at least " if bill.at_least else ""
        size = f"{bill.num_jobs:,} jobs, {most}{bill.num_tokens:,.0f} tokens"
        yield f"finetune {bill.model}: {size}, {_usd(bill.cost_usd)}"
        where = sweep.generate.endpoint.base_url or "OpenAI, or where $OPENAI_BASE_URL says"
        yield f"  its rows go to {where}; they are deleted there when a job has ended"


def _gpu_meant(resources: ResourcesSpec) -> str | None:
    """The GPU that the sweep file names, as far as it can be told without a cluster."""
    declared = resources.accelerator.lower()
    return resources.gpu or (declared if declared in cost.GPUS else None)


def _gpu_line(plan: Plan, name: str) -> str:
    """GPU-hours of training over every cell planned. Raises SpecError for a GPU it does not know."""
    spec, gpu = plan.sweep.train, cost.gpu_named(name)
    jobs = list(filter(is_trained_here, plan.jobs.values()))
    hours = [_gpu_hours(plan, job, gpu) for job in jobs]
    if any(math.isnan(value) for value in hours):
        return f"train on {name}: GPU-hours unknown (no config.json, no size in the model's name)"
    flops = f"{cost.flops_a_token(spec)}"
    used = sorted({gpu.used(num_parameters(job.model_path)) for job in jobs})
    share = "-".join(f"{value:.0%}" for value in used) + (" assumed" if gpu.utilisation == cost.UTILISATION else "")
    return (
        f"train on {name}: {min(hours):.3g}-{max(hours):.3g} GPU-hours a cell, {sum(hours):.3g} in all\n"
        f"  = tokens x {flops} x parameters / ({share} of {gpu.flops / 1e12:.0f} TFLOP/s)"
    )


def _gpu_hours(plan: Plan, job: TrainJob, gpu: cost.Gpu) -> float:
    rows = plan.datasets[job.rows_digest]
    spec = plan.sweep.train.on_course(job.course, num_examples=len(rows))
    tokens, parameters = cost.num_tokens(rows, spec=spec), num_parameters(job.model_path)
    return cost.gpu_hours(tokens, parameters=parameters, spec=spec, gpu=gpu, course=job.course)


def judge_line(model: str, verdicts: JudgeEstimate) -> str:
    most = "at most " if verdicts.at_most else ""
    return f"judge {model}: {most}{verdicts.calls:,} calls, {verdicts.tokens:,.0f} tokens, {_usd(verdicts.cost_usd)}"


def _usd(cost: float | None) -> str:
    return "price not known" if cost is None else f"${cost:,.{2 if cost >= 1 else 4}f}"
