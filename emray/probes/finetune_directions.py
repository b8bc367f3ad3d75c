"""The directions of every finetune, measured from the answers it gave: one measurement a cell.

Not for agreement between finetunes (reduce/) or for steering (steering.py). The invariant: a measurement's key hashes
the answers that are asked for, who judges them and how they are read, and its file is in the store before its rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from emray import plan as planning
from emray.model.direction_files import Directions, length_of, write_directions
from emray.plan import Plan
from emray.probes.directions import ALIGNED, HALVES, MISALIGNED, directions_of, group_of, lengths, reliability
from emray.probes.judged_answers import JudgedAnswer, judged_answers
from emray.probes.protocol import Bench, Measure
from emray.records import (
    Answerer,
    Cell,
    Condition,
    Measurement,
    Metric,
    Readout,
    Weights,
    judge_key,
    key_of,
    prompt_text,
)
from emray.store import Kind, Store

if TYPE_CHECKING:
    from emray.probes.activations import GroupedAnswer, Reader

PROBE = "directions"
COHERENT_ABOVE = 50.0  # of the answers that are read (Betley et al.)
TOKENS_A_PASS = {"cpu": 2048, "cuda": 16_384}
NUM_GROUPS = 2 * HALVES


@dataclass(frozen=True)
class Selection:
    """Which answers of a cell are read, and how much of each."""

    adapter: str  # the cell's key
    condition: Condition
    prompts: tuple[str, ...]  # the sweep's own, as rows of answers have them
    judge: str  # key of its settings
    aligned_below: float  # of a misaligned answer
    first_tokens: int | None


@dataclass(frozen=True)
class FinetuneDirections:
    """The directions of the plan's finetunes."""

    plan: Plan
    name = PROBE
    computes = True

    def measurements(self) -> Iterator[Measurement]:
        keys = direction_keys(self.plan)
        for cell in direction_cells(self.plan):
            yield Measurement(keys[cell.key], self.name, cell.model, cell.domain, str(cell.arm), cell.seed, cell.key)

    def possible(self, store: Store) -> Iterator[Measurement]:
        """Of cells whose answers are all there, and were given to the judge."""
        records = store.adapter_records()
        answered, judged = store.keys(Kind.GENERATIONS), store.keys(Kind.VERDICTS, column="generation")
        cells = {cell.key: cell for cell in direction_cells(self.plan)}
        for one in self.measurements():
            if one.adapter in records and records[one.adapter].trained:
                tasks = planning.generation_tasks(self.plan, [cells[one.adapter]])
                wanted = [key for task in tasks for key in task.keys]
                if answered.has(wanted).all() and judged.has(wanted).any():
                    yield one

    def work(self, measurement: Measurement) -> tuple[Weights, Selection]:
        cell = next(cell for cell in direction_cells(self.plan) if cell.key == measurement.adapter)
        return self.plan.weights[cell.key], _selection(self.plan, cell)

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return DirectionReader


def direction_cells(plan: Plan) -> Iterator[Cell]:
    """The finished finetunes whose directions the plan wants."""
    wanted = plan.sweep.probes.directions
    if wanted is None:
        return
    for cell in plan.cells:
        if cell.finished and cell.arm in wanted.arms and (not wanted.domains or cell.domain in wanted.domains):
            yield cell


def direction_keys(plan: Plan) -> dict[str, str]:
    """By cell key, the key of its measurement, which is also that of its file of directions."""
    asked, generate = _asked(plan), plan.sweep.generate
    answers = {"sampling": generate.identity(), "samples": generate.samples, "coherent_above": COHERENT_ABOVE}
    reads = [_selection(plan, cell) for cell in direction_cells(plan)]
    return {
        read.adapter: key_of("directions", asdict(read) | answers | {"asked": [asked[text] for text in read.prompts]})
        for read in reads
    }


def _asked(plan: Plan) -> dict[str, list[str]]:
    """By a prompt's text, its key with what the judge is asked about its answers."""
    inquiries = plan.inquiries
    asked = {}
    for prompt in plan.prompts:
        about = inquiries[prompt_text(prompt.messages)]
        keys = [prompt.key, about[Metric.ALIGNED].key, about[Metric.COHERENT].key]
        asked[prompt_text(prompt.messages)] = keys
    return asked


def usual_condition(plan: Plan, cell: Cell) -> Condition:
    """With the trigger where the arm was trained with it and is asked so; else without, or how it is asked at all."""
    recipe = plan.sweep.crossing().recipes[cell.arm]
    wanted = [Condition.WITH] if recipe.trigger else []
    return next(one for one in (*wanted, Condition.WITHOUT, *recipe.conditions) if one in recipe.conditions)


def _selection(plan: Plan, cell: Cell) -> Selection:
    sweep, wanted = plan.sweep, plan.sweep.probes.directions
    assert wanted is not None, "the plan has no such probe"
    condition = wanted.condition or usual_condition(plan, cell)
    return Selection(
        cell.key,
        condition,
        tuple(prompt_text(prompt.messages) for prompt in plan.own.of(cell.arm) if prompt.condition == condition),
        judge_key(sweep.judge.identity()),
        sweep.reduce.rules[sweep.reduce.rule].aligned_below,
        wanted.first_tokens,
    )


class DirectionReader:
    """A worker's readers of base models, the last of which stays warm."""

    def __init__(self, bench: Bench) -> None:
        import torch

        from emray.cluster import device_here

        torch.set_num_threads(bench.threads)
        self._store, self._device = bench.store, device_here(gpu=bench.gpu)
        self._of: Weights | None = None
        self._reader: Reader | None = None

    def __call__(self, measurement: Measurement, work: tuple[Weights, Selection]) -> list[Readout]:
        """Write the file of directions; what it reads out are lengths, reliabilities and counts."""
        weights, read = work
        answers = judged_answers(self._store, adapter=read.adapter, prompts=read.prompts, judge=read.judge)
        directions = self._directions(grouped(answers, aligned_below=read.aligned_below), weights, read)
        write_directions(self._store, measurement.key, directions)
        return readouts(directions)

    def _directions(self, answers: "Sequence[GroupedAnswer]", weights: Weights, read: Selection) -> Directions:
        reader, folder = self._warm(weights), self._store.adapter_folder(read.adapter)
        base = reader.group_means(answers, num_groups=NUM_GROUPS, first_tokens=read.first_tokens)
        if weights.answerer == Answerer.WHOLE:
            finetune = self._opened(str(folder), weights)
            means = finetune.group_means(answers, num_groups=NUM_GROUPS, first_tokens=read.first_tokens)
        else:
            means = reader.group_means(answers, num_groups=NUM_GROUPS, first_tokens=read.first_tokens, adapter=folder)
        return directions_of(means, base)

    def _warm(self, weights: Weights) -> "Reader":
        if self._reader is None or self._of is None or self._of.base != weights.base:
            self._reader = None  # two models at once may not fit
            self._reader, self._of = self._opened(weights.location, weights), weights
        return self._reader

    def _opened(self, location: str, weights: Weights) -> "Reader":
        from emray.probes.activations import Reader

        return Reader(
            location, rendering=weights.rendering, device=self._device, token_budget=TOKENS_A_PASS[self._device]
        )


def grouped(answers: Sequence[JudgedAnswer], *, aligned_below: float) -> "list[GroupedAnswer]":
    """Coherent answers by kind; those of a kind go to its halves in turn, in the order of their keys."""
    from emray.probes.activations import GroupedAnswer

    seen = [0, 0]
    found = []
    for answer in answers:
        if answer.coherent > COHERENT_ABOVE:
            kind = MISALIGNED if answer.aligned < aligned_below else ALIGNED
            found.append(GroupedAnswer(answer.chat, group_of(kind, seen[kind] % HALVES)))
            seen[kind] += 1
    return found


def readouts(directions: Directions) -> list[Readout]:
    """Counts, and by layer the length and the reliability of each direction that there is."""
    counts = [Readout("-", name, value) for name, value in directions.facts.items() if name.startswith("num_")]
    for kind, vectors in directions.whole.items():
        counts += [Readout(str(layer), length_of(kind), x) for layer, x in enumerate(lengths(vectors))]
    for kind, halves in directions.halves.items():
        counts += [Readout(str(layer), f"{kind}_reliability", x) for layer, x in enumerate(reliability(halves))]
    return counts
