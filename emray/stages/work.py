"""What each stage of a plan has to do, and doing it: one seam for the sweep, its dry run and whatever follows.

Not for the order of stages (run.py) or for the work itself. The invariant: `missing` reads the store, yields lazily and
changes nothing; `run` does what it is given and nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from emray import judge, marks, probes
from emray import plan as planning
from emray.context import Context
from emray.judge import JudgeTask
from emray.marks import MarkScheme, MarkTask, Unmarked
from emray.model.weights import hosted_name
from emray.plan import Plan
from emray.probes import PlannedProbe
from emray.records import Cell, GenerationTask, Measurement, TrainJob
from emray.spec import STAGES
from emray.stages.lost import lost_cells
from emray.store import Kind, Store

TRAIN, GENERATE, MARK, JUDGE, PROBE = STAGES[:5]

_Work = TypeVar("_Work")


class Stage(Protocol[_Work]):
    """One stage of one plan."""

    @property
    def name(self) -> str: ...

    def missing(self, store: Store) -> Iterable[_Work]:
        """What can be done by now and is not in the store, piece by piece as it is walked."""
        ...

    def run(self, work: Iterable[_Work], context: Context) -> None:
        """Do it, within an initialised Ray; results are in the store when this returns."""
        ...


@dataclass(frozen=True)
class Training:
    """Cells that were not trained, and those whose weights are gone and needed again."""

    plan: Plan
    name = TRAIN

    def missing(self, store: Store) -> Iterator[TrainJob]:
        lost = lost_cells(self.plan, store)
        records = {key: record for key, record in store.adapter_records().items() if key not in lost}
        return planning.missing_jobs(self.plan, records)

    def run(self, work: Iterable[TrainJob], context: Context) -> None:
        """Within an initialised Ray where any of it is trained here; a service's jobs go on beside that."""
        from emray import hosted, train

        jobs, sweep, datasets = tuple(work), self.plan.sweep, self.plan.datasets
        there = [job for job in jobs if not is_trained_here(job)]
        with hosted.under_way(
            there, datasets=datasets, spec=sweep.hosted, endpoint=sweep.generate.endpoint, context=context
        ):
            train.run(list(filter(is_trained_here, jobs)), datasets=datasets, spec=sweep.train, context=context)


@dataclass(frozen=True)
class Generation:
    """Samples that the cells which can answer have not drawn."""

    plan: Plan
    name = GENERATE

    def missing(self, store: Store) -> Iterator[GenerationTask]:
        cells = planning.usable_cells(self.plan, store)
        present = store.keys(Kind.GENERATIONS)
        return planning.missing_tasks(planning.generation_tasks(self.plan, cells), present)

    def run(self, work: Iterable[GenerationTask], context: Context) -> None:
        from emray import generate

        generate.run(work, spec=self.plan.sweep.generate, context=context)


@dataclass(frozen=True)
class Marking:
    """Answers to quizzes in the store without all of their marks."""

    plan: Plan
    name = MARK

    def missing(self, store: Store) -> Unmarked:
        return Unmarked(store, self.schemes(planning.usable_cells(self.plan, store)))

    def run(self, work: Iterable[MarkTask], context: Context) -> None:
        marks.run(work, schemes=self.schemes(planning.usable_cells(self.plan, context.store)), context=context)

    def schemes(self, cells: Iterable[Cell]) -> list[MarkScheme]:
        """Of these cells' answers to each quiz that draws some."""
        own = {cell.key for cell in self.plan.cells if cell.finished}
        mine = [cell for cell in cells if cell.key in own] if self.plan.quizzes else []
        return [MarkScheme.of(quiz, plan=self.plan, cells=mine) for quiz in self.plan.quizzes if not quiz.is_choice]


@dataclass(frozen=True)
class Judging:
    """Answers in the store without all of their verdicts."""

    plan: Plan
    base_url: str | None = None  # None: as openai users set it
    name = JUDGE

    def missing(self, store: Store) -> judge.Unjudged:
        cells = planning.usable_cells(self.plan, store)
        wanted = planning.wanted_answers(self.plan, cells)
        sweep = self.plan.sweep
        return judge.missing(store, inquiries=self.plan.inquiries, spec=sweep.judge, generations=wanted)

    def run(self, work: Iterable[JudgeTask], context: Context) -> None:
        judge.run(work, spec=self.plan.sweep.judge, base_url=self.base_url, context=context)


@dataclass(frozen=True)
class Probing:
    """Measurements of one probe that have no rows."""

    probe: PlannedProbe
    name = PROBE

    def missing(self, store: Store) -> Iterator[Measurement]:
        return probes.missing(self.probe, store)

    def run(self, work: Iterable[Measurement], context: Context) -> None:
        probes.run(self.probe, work, context)


def is_trained_here(job: TrainJob) -> bool:
    return hosted_name(job.model_path) is None


def num_answers(tasks: Sequence[GenerationTask]) -> int:
    return sum(task.num_samples for task in tasks)
