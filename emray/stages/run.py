"""How the stages of a plan follow and overlap one another.

Not for what a stage has to do (work.py). The invariant: what one stage leaves is in the store before the next one
reads it.

    train -> generate -> mark -> judge, the answers judged as they are generated; where cells come in waves
    (resources.cells_per_wave), those of one wave are judged while the next one trains. Then the probes
    measure, and what that makes possible to ask is asked
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from emray import judge, probes
from emray import plan as planning
from emray.context import Context
from emray.endpoint.access import Access
from emray.model.weights import hosted_name
from emray.plan import PLAN, Plan
from emray.progress import Advance, ProgressLines, silent
from emray.records import FinishReason, GenerationTask, MarkOutcome, Outcome, TrainJob
from emray.spec import STAGES, Sweep
from emray.stages.fruitless import check_answers, check_cells, check_verdicts
from emray.stages.lost import lost_cells
from emray.stages.services import Services
from emray.stages.work import (
    GENERATE,
    JUDGE,
    MARK,
    PROBE,
    TRAIN,
    Generation,
    Judging,
    Marking,
    Probing,
    Training,
    is_trained_here,
    num_answers,
)
from emray.store import Kind, Store


class Run:
    """The stages of one plan. Each method does what is missing and says whether that was anything."""

    def __init__(
        self, plan: Plan, *, store: Store, services: Services, lines: ProgressLines, part_of: Plan | None = None
    ) -> None:
        """`part_of`: the plan that plan.json is to hold, where this is a part of one."""
        self.plan = plan
        self._whole = part_of or plan
        self.sweep: Sweep = plan.sweep
        self.store = store
        self.services = services
        self.lines = lines
        self.training, self.generation = Training(plan), Generation(plan)
        self.marking, self.judging = Marking(plan), Judging(plan)
        self.probing = tuple(map(Probing, probes.of_plan(plan)))

    def results(self, *, until: str) -> bool:
        """Train, generate, judge and probe, or as many of these as come before `until` is over."""
        wanted = STAGES[: STAGES.index(until) + 1]
        jobs = tuple(self.training.missing(self.store))
        if not all(map(is_trained_here, jobs)):  # what is refused is refused before anything is written
            endpoint = self.sweep.generate.endpoint
            Access.read(endpoint, base_url=endpoint.base_url)
        if any(map(is_trained_here, jobs)):
            self.services.hardware(self.plan)
        elif GENERATE in wanted and not self.store.exists(PLAN) and any(self.generation.missing(self.store)):
            self.services.start_ray()
        self._write_plan()
        self._forget_lost()
        self._forget_failures(wanted)
        did = self._judged_answers(jobs, wanted)
        while PROBE in wanted and self._probe():
            did = True
            self._judged_answers((), wanted)  # of what can be asked only now that the probes have measured
        return did

    def _judged_answers(self, jobs: Sequence[TrainJob], wanted: Sequence[str]) -> bool:
        """Train these jobs, and as far as it is wanted draw and judge every answer that is missing."""
        did = False
        with ExitStack() as opened:
            answers = _Answers(self, judged=JUDGE in wanted and self._judged_as_generated, opened=opened)
            waves = _waves(jobs, size=self.sweep.resources.cells_per_wave)
            for number, wave in enumerate(waves, start=1):
                did = self._train(wave) or did
                if number == len(waves):
                    check_cells(self.plan, self.store.adapter_records())
                if GENERATE in wanted:
                    did = answers.generate(tuple(self.generation.missing(self.store))) or did
            if MARK in wanted:
                did = self._mark() or did
            answers.wait()
        if GENERATE in wanted:
            check_answers(self.store)
        if JUDGE in wanted:
            did = self._judge() or did  # what was generated before, and what further judges say
            check_verdicts(self.store)
        return did

    def _write_plan(self) -> None:
        earlier, answered = planning.written(self.store), bool(self.store.part_sizes(Kind.GENERATIONS))
        document = planning.dated(self._whole.document, earlier=earlier, now_s=time.time(), answered=answered)
        document["measurements"] = [vars(one) for probe in probes.of_plan(self._whole) for one in probe.measurements()]
        if document != earlier:
            self.store.write_json(PLAN, document)

    def reduce(self) -> bool:
        from emray import reduce

        if reduce.is_current(self.store):
            return False
        reduce.run(self.store)
        return True

    def report(self) -> bool:
        from emray import report

        if report.is_current(self.store):
            return False
        report.render(self.store)
        return True

    def context(self, advance: Advance = silent, *, computes: bool = False) -> Context:
        """What a stage is handed beside its work; one that trains or loads models is told on what hardware."""
        hardware = self.services.hardware(self.plan) if computes else None
        return Context(self.store, self.sweep.resources, advance, hardware)

    @contextmanager
    def timed(self, stage: str, *, planned: int, **details: str) -> Iterator[None]:
        """The stage's wall time and machines in the log, once it ends well."""
        with self.services.logbook.stage(stage, planned=planned, **details):
            yield

    @property
    def _judged_as_generated(self) -> bool:
        """A judge that needs a GPU of its own waits until the generation engines have left theirs."""
        return self.sweep.judge.mode == "online" and self.sweep.judge.engine == "openai"

    def _train(self, jobs: Sequence[TrainJob]) -> bool:
        if not jobs:
            return False
        computes = any(map(is_trained_here, jobs))
        context = self.context(self.lines.line(TRAIN, total=len(jobs)), computes=computes)
        with self.timed(TRAIN, planned=len(jobs)):
            self.training.run(jobs, context)
        return True

    def _mark(self) -> bool:
        missing = self.marking.missing(self.store)
        planned = len(missing)
        if not planned:
            return False
        with self.timed(MARK, planned=planned):
            self.marking.run(missing, self.context(self.lines.line(MARK, total=planned)))
        return True

    def _judge(self) -> bool:
        missing = self.judging.missing(self.store)
        planned = len(missing)
        if not planned:
            return False
        advance = self.lines.line(JUDGE, total=planned)
        if self.sweep.judge.engine == "vllm":
            advance(0, f"starting vllm with {self.sweep.judge.model}")
        stage = replace(self.judging, base_url=self.services.judge_url(self.plan))
        self.services.start_ray()
        with self.timed(JUDGE, planned=planned):
            stage.run(missing, self.context(advance))
        return True

    def _probe(self) -> bool:
        """PlannedProbe by probe, in their order: one may build on what another left."""
        did = False
        for stage in self.probing:
            missing = tuple(stage.missing(self.store))
            if not missing:
                continue
            self.services.start_ray()
            context = self.context(self.lines.line(PROBE, total=len(missing)), computes=stage.probe.computes)
            with self.timed(PROBE, planned=len(missing), probe=stage.probe.name):
                stage.run(missing, context)
            did = True
        return did

    def _forget_lost(self) -> None:
        """Drop the records of weights that are gone and needed again: their cells are among the jobs."""
        lost = lost_cells(self.plan, self.store)
        self.store.forget_adapters(lost)
        self.store.delete_files([f"adapters/{key}/record.json" for key in sorted(lost)])

    def _forget_failures(self, wanted: Sequence[str]) -> None:
        """With `resources.retry_failed`: drop the rows that say a try failed, so that they are missing again."""
        if not self.sweep.resources.retry_failed:
            return
        if GENERATE in wanted:
            self.store.delete_rows(Kind.GENERATIONS, column="finish_reason", value=FinishReason.ERROR)
        if MARK in wanted:
            self.store.delete_rows(Kind.MARKS, column="outcome", value=MarkOutcome.ERROR)
        if JUDGE in wanted:
            self.store.delete_rows(Kind.VERDICTS, column="outcome", value=Outcome.API_ERROR)
        if PROBE in wanted:
            self.store.delete_rows(Kind.MEASUREMENTS, column="measure", value=probes.FAILED)


class _Answers:
    """Generation, with judging chained to it where it is wanted; the judging of one wave may outlast its generation."""

    def __init__(self, run: Run, *, judged: bool, opened: ExitStack) -> None:
        self._run, self._judged, self._opened = run, judged, opened
        self._flows: list[Future[None]] = []

    def generate(self, tasks: Sequence[GenerationTask]) -> bool:
        """Returns when all answers are there; the last of their verdicts may be on the way."""
        if not tasks:
            return False
        run, planned = self._run, num_answers(tasks)
        run.services.start_ray()
        advance = _Countdown(run.lines.line(GENERATE, total=planned), planned)
        computes = run.sweep.generate.engine != "openai" and any(not hosted_name(t.weights.location) for t in tasks)
        context = run.context(advance, computes=computes)
        work = self._flow(tasks, context) if self._judged else partial(run.generation.run, tasks, context)
        with run.timed(GENERATE, planned=planned):
            flow = _in_background(work)
            flow.add_done_callback(lambda _: advance.over.set())
            advance.over.wait()
            if flow.done():
                flow.result()
        self._flows.append(flow)
        return True

    def wait(self) -> None:
        """Returns when every verdict is there. Raises what any of the flows met."""
        for flow in self._flows:
            flow.result()

    def _flow(self, tasks: Sequence[GenerationTask], context: Context) -> Callable[[], None]:
        from emray import generate

        run = self._run
        num_verdicts = num_answers(list(filter(run.plan.is_judged, tasks))) * len(run.sweep.judge.metrics)
        run.lines.line(JUDGE, total=num_verdicts)
        judge_rows = self._judge_rows

        def flow() -> None:
            with run.timed(JUDGE, planned=num_verdicts):
                for stream in generate.streams(tasks, spec=run.sweep.generate, context=context):
                    with stream.followed(context.advance):
                        judge_rows(stream.rows)

        return flow

    @cached_property
    def _judge_rows(self) -> Callable[[Any], None]:
        """One judge for all waves, so that equal requests are asked once; it closes when the results are there."""
        run = self._run
        return self._opened.enter_context(
            judge.streaming(
                inquiries=run.plan.inquiries,
                spec=run.sweep.judge,
                base_url=run.services.judge_url(run.plan),
                context=run.context(run.lines.line(JUDGE, total=0)),
            )
        )


class _Countdown:
    """An Advance that also says when everything is done."""

    def __init__(self, advance: Advance, total: int) -> None:
        self._advance, self._left = advance, total
        self.over = threading.Event()

    def __call__(self, done: int, note: str = "") -> None:
        self._advance(done, note)
        self._left -= done
        if self._left <= 0:
            self.over.set()


def _waves(jobs: Sequence[TrainJob], *, size: int | None) -> list[Sequence[TrainJob]]:
    """Jobs in waves of `size`; one wave, maybe empty, where there is no size."""
    size = size or max(1, len(jobs))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)] or [()]


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Run it in a thread that dies with the command."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again where the future's result is asked for
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="answers", daemon=True).start()
    return future
