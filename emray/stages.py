"""The stages of one plan: what each has to do, and how they follow one another.

Not for the command line (sweep.py) or for the work itself. The invariant: each stage does what the store lacks and
nothing else, so that running one again is always safe.

    train -> generate -> judge, the answers judged as they are generated; where cells come in waves
    (resources.cells_per_wave), those of one wave are judged while the next one trains
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from emray import judge
from emray import plan as planning
from emray.cluster import connected
from emray.context import Context
from emray.plan import PLAN, Plan
from emray.progress import Advance, ProgressLines, silent
from emray.records import FinishReason, GenerationTask, Outcome, TrainJob
from emray.spec import STAGES, TOY, Sweep
from emray.store import Kind, Store

TRAIN, GENERATE, JUDGE = STAGES[:3]


class Services:
    """What outlives a stage: Ray and the toy's judge. Each starts when first needed and ends with the command."""

    def __init__(self, resources: ExitStack, *, address: str | None) -> None:
        self._resources = resources
        self._address = address
        self._ray_runs = False
        self._vllm_judge: str | None = None

    def start_ray(self) -> None:
        """Connect to Ray, once."""
        if not self._ray_runs:
            self._resources.enter_context(connected(self._address))
            self._ray_runs = True

    @cached_property
    def toy_judge(self) -> str:
        """Base URL of the local judge."""
        from emray.localapi import serving

        return self._resources.enter_context(serving(responder="emray.toy.rules:reply")).base_url

    def vllm_judge(self, sweep: Sweep) -> str:
        """Base URL of the judge that the sweep serves itself."""
        if self._vllm_judge is None:
            self.start_ray()
            from emray.endpoint.vllm_server import serving_model

            server = serving_model(sweep.judge.model, resources=sweep.resources)
            self._vllm_judge = self._resources.enter_context(server)
        return self._vllm_judge


class Run:
    """The stages of one plan. Each method does what is missing and says whether that was anything."""

    def __init__(self, plan: Plan, *, store: Store, services: Services, lines: ProgressLines) -> None:
        self.plan = plan
        self.sweep: Sweep = plan.sweep
        self.store = store
        self.services = services
        self.lines = lines
        if planning.written(store) != plan.document:
            store.write_json(PLAN, plan.document)

    def results(self, *, until: str) -> bool:
        """Train, generate and judge, or as many of these as come before `until` is over."""
        wanted = STAGES[: STAGES.index(until) + 1]
        self._forget_failures(wanted)
        jobs = planning.missing_jobs(self.plan, self.store.adapter_records())
        did = False
        with ExitStack() as opened:
            answers = _Answers(self, judged=JUDGE in wanted and self._judged_as_generated, opened=opened)
            for wave in _waves(jobs, size=self.sweep.resources.cells_per_wave):
                did = self._train(wave) or did
                if GENERATE in wanted:
                    did = answers.generate(self._missing_answers()) or did
            answers.wait()
        if JUDGE in wanted:
            did = self._judge() or did  # what was generated before, and what further judges say
        return did

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

    @property
    def judge_url(self) -> str | None:
        if self.sweep.judge.engine == "vllm":
            return self.services.vllm_judge(self.sweep)
        return self.services.toy_judge if self.sweep.judge.base_url == TOY else self.sweep.judge.base_url

    @property
    def _judged_as_generated(self) -> bool:
        """A judge that needs a GPU of its own waits until the generation engines have left theirs."""
        return self.sweep.judge.mode == "online" and self.sweep.judge.engine == "openai"

    def context(self, advance: Advance = silent) -> Context:
        """What a stage is handed beside its work."""
        return Context(self.store, self.sweep.resources, advance)

    @contextmanager
    def timed(self, stage: str, *, planned: int) -> Iterator[None]:
        """The stage's wall time in the log, once it ends well."""
        started, clock = time.time(), time.monotonic()
        yield
        wall_s = time.monotonic() - clock
        self.store.log_stage(stage, started_s=started, wall_s=wall_s, details={"planned": planned})

    def _train(self, jobs: Sequence[TrainJob]) -> bool:
        if not jobs:
            return False
        self.services.start_ray()
        from emray import train

        with self.timed(TRAIN, planned=len(jobs)):
            context = self.context(self.lines.line(TRAIN, total=len(jobs)))
            train.run(jobs, datasets=self.plan.datasets, spec=self.sweep.train, context=context)
        return True

    def _missing_answers(self) -> list[GenerationTask]:
        return list(planning.missing_tasks(self._answers_wanted(), self.store.keys(Kind.GENERATIONS)))

    def _answers_wanted(self) -> list[GenerationTask]:
        """Every sample wanted from every cell that can answer by now."""
        cells = planning.usable_cells(self.plan, self.store.adapter_records())
        return list(planning.generation_tasks(self.plan, cells))

    def _judge(self) -> bool:
        wanted = {key for task in self._answers_wanted() for key in task.keys}
        tasks = judge.missing(self.store, questions=self.plan.questions, spec=self.sweep.judge, generations=wanted)
        if not tasks:
            return False
        base_url = self.judge_url
        self.services.start_ray()
        with self.timed(JUDGE, planned=len(tasks)):
            context = self.context(self.lines.line(JUDGE, total=len(tasks)))
            judge.run(tasks, spec=self.sweep.judge, base_url=base_url, context=context)
        return True

    def _forget_failures(self, wanted: Sequence[str]) -> None:
        """With `resources.retry_failed`: drop the rows that say a try failed, so that they are missing again."""
        if not self.sweep.resources.retry_failed:
            return
        if GENERATE in wanted:
            self._forget(Kind.GENERATIONS, column="finish_reason", value=FinishReason.ERROR)
        if JUDGE in wanted:
            self._forget(Kind.VERDICTS, column="outcome", value=Outcome.API_ERROR)

    def _forget(self, kind: Kind, *, column: str, value: str) -> None:
        rows = self.store.read_rows(kind, columns=["key", column]).to_pylist()
        self.store.delete_rows(kind, [row["key"] for row in rows if row[column] == value])


class _Answers:
    """Generation, with judging chained to it where it is wanted; the judging of one wave may outlast its generation."""

    def __init__(self, run: Run, *, judged: bool, opened: ExitStack) -> None:
        self._run, self._judged, self._opened = run, judged, opened
        self._flows: list[Future[None]] = []

    def generate(self, tasks: Sequence[GenerationTask]) -> bool:
        """Returns when all answers are there; the last of their verdicts may be on the way."""
        if not tasks:
            return False
        self._run.services.start_ray()
        num_answers = sum(task.num_samples for task in tasks)
        advance = _Countdown(self._run.lines.line(GENERATE, total=num_answers), num_answers)
        work = self._flow(tasks, num_answers, advance) if self._judged else lambda: self._generate(tasks, advance)
        with self._run.timed(GENERATE, planned=num_answers):
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

    def _generate(self, tasks: Sequence[GenerationTask], advance: Advance) -> None:
        from emray import generate

        generate.run(tasks, spec=self._run.sweep.generate, context=self._run.context(advance))

    def _flow(self, tasks: Sequence[GenerationTask], num_answers: int, advance: Advance) -> Callable[[], None]:
        from emray import generate

        run = self._run
        num_verdicts = num_answers * len(run.sweep.judge.metrics)
        run.lines.line(JUDGE, total=num_verdicts)
        judge_rows = self._judge_rows

        def flow() -> None:
            with run.timed(JUDGE, planned=num_verdicts):
                for stream in generate.streams(tasks, spec=run.sweep.generate, context=run.context()):
                    with stream.followed(advance):
                        judge_rows(stream.rows)

        return flow

    @cached_property
    def _judge_rows(self) -> Callable[[Any], None]:
        """One judge for all waves, so that equal requests are asked once; it closes when the results are there."""
        run = self._run
        return self._opened.enter_context(
            judge.streaming(
                questions=run.plan.questions,
                spec=run.sweep.judge,
                base_url=run.judge_url,
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
