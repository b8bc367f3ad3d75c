"""Which cell runs next and what becomes of the ones that fail: Ray Tune over all missing cells.

Not for what a worker does (trial.py). The invariant: when `run` returns, every job has a record in the store, trained
or failed. Tune's own bookkeeping is thrown away: the store is the only memory, and a rerun gets a fresh Tuner with what
is missing and nothing else.
"""

import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import WorkerGroupError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from emray.cluster import Attempts, Cause, FailedTry, NoGpuHere, live_nodes
from emray.context import Context
from emray.errors import EmrayError, StageError, StoreError, of_disk
from emray.records import Messages, TrainJob
from emray.spec import TrainSpec
from emray.store import Store
from emray.train.curves import run_name, tune_callbacks
from emray.train.placement import MAX_PENDING, adapters_per_step, auto_strategy, bundles, concurrency
from emray.train.queue import CellQueue
from emray.train.trial import CellTrainable, Shared

NODE_DIED = "its node has died"  # Ray's words for it, in the error of an actor
LOOK_EVERY_S = 5.0  # at the nodes, for trials that wait for one to come or that has gone


def train_cells(
    jobs: Sequence[TrainJob], *, datasets: Mapping[str, Sequence[Messages]], spec: TrainSpec, context: Context
) -> None:
    """Train every job, longest first; see emray.train.run."""
    resources, advance = context.resources, context.advance
    ordered = longest_first(jobs, datasets=datasets)
    if spec.strategy == "auto":
        chosen = auto_strategy(ordered, spec=spec, resources=resources, hardware=context.declared)
        spec = chosen.spec
        resources = resources.model_copy(update={"token_budget": chosen.token_budget or resources.token_budget})
        advance(0, chosen.reason)
    shared = Shared(
        jobs=tuple(ordered),
        row_refs={digest: ray.put(datasets[digest]) for digest in {job.rows_digest for job in ordered}},
        spec=spec,
        resources=resources,
        hardware=context.declared,
        store=context.store,
    )
    mixed = adapters_per_step(ordered, datasets=datasets, spec=spec, resources=resources, hardware=context.declared)
    if resources.adapters_per_step == "auto":
        advance(0, mixed.reason)
    nodes = partial(live_nodes, bundles(spec, resources, context.declared).required_resources)
    attempts = Attempts(most=resources.train_attempts, nodes=nodes)
    queue = CellQueue(in_groups(ordered, size=mixed.number), attempts=attempts, after=gone_on_with(ordered))
    outcomes = _Outcomes(shared.jobs, context=context, queue=queue, attempts=attempts)
    with tempfile.TemporaryDirectory(prefix="emray-tune-") as folder, _quiet(folder):
        callbacks = [outcomes, *tune_callbacks(resources.track)]
        _tuner(shared, queue=queue, scheduler=_Withdrawal(nodes), callbacks=callbacks, folder=folder).fit()
    if outcomes.refusal is not None:
        raise outcomes.refusal
    _check_complete(jobs, store=context.store)


def _tuner(
    shared: Shared, *, queue: CellQueue, scheduler: FIFOScheduler, callbacks: list[tune.Callback], folder: str
) -> tune.Tuner:
    """Ray Tune over the queue; what it keeps lies in `folder`."""
    spec, resources, hardware, names = shared.spec, shared.resources, shared.hardware, _Names(shared.jobs)
    trainable = tune.with_resources(
        tune.with_parameters(CellTrainable, shared=shared),
        lambda config: bundles(spec, resources, hardware, avoid=config["avoid"]),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=resources.max_concurrent_trials or concurrency(spec, resources, hardware),
            reuse_actors=True,
            trial_name_creator=names.of,
            trial_dirname_creator=names.of,
        ),
        run_config=tune.RunConfig(
            name="train",
            storage_path=folder,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=callbacks,
        ),
    )


def longest_first(jobs: Sequence[TrainJob], *, datasets: Mapping[str, Sequence[Messages]]) -> list[TrainJob]:
    """By model (a worker holds one at a time), first those that go on with none of the others, then by what a step
    takes and by descending characters of training text."""
    size = {
        digest: sum(len(message.content) for example in examples for message in example)
        for digest, examples in datasets.items()
    }
    turn = turns(jobs)

    def place(job: TrainJob) -> tuple[Any, ...]:
        return str(job.base), turn[job.cell.key], -bool(job.course.kl), -size[job.rows_digest], job.cell.key

    return sorted(jobs, key=place)


def turns(jobs: Sequence[TrainJob]) -> dict[str, int]:
    """By key, how many of the jobs come before a job because it goes on with what they leave."""
    starts, found = {job.cell.key: job.start for job in jobs}, {}
    for key in starts:
        before, found[key] = starts[key], 0
        while before in starts:
            before, found[key] = starts[before], found[key] + 1
    return found


def gone_on_with(jobs: Sequence[TrainJob]) -> dict[int, int]:
    """By index of a job that goes on with what another of them leaves, that other's."""
    place = {job.cell.key: number for number, job in enumerate(jobs)}
    return {number: place[job.start] for number, job in enumerate(jobs) if job.start in place}


def in_groups(jobs: Sequence[TrainJob], *, size: int) -> list[tuple[int, ...]]:
    """Indices of jobs that train together: up to `size` neighbours with the same model, none waiting for another.

    Those that are held near their base are by themselves: they are slower (no compiled step, one more pass).
    """
    groups: list[tuple[int, ...]] = []
    turn = turns(jobs)
    for number, job in enumerate(jobs):
        last = groups[-1] if groups else ()
        first = jobs[last[0]] if last else job
        kinds = [(one.base, turn[one.cell.key], bool(one.course.kl)) for one in (first, job)]
        if last and len(last) < size and kinds[0] == kinds[1]:
            groups[-1] = (*last, number)
        else:
            groups.append((number,))
    return groups


class _Names:
    """What a tracker calls a trial: its (first) cell."""

    def __init__(self, jobs: Sequence[TrainJob]) -> None:
        self._jobs = jobs

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the jobs: Tune writes this into the state of every trial, which nobody reads."""
        return (_Names, ((),))

    def of(self, trial: Trial) -> str:
        number = trial.config["cells"][0]
        return f"{run_name(self._jobs[number]) if self._jobs else number}-{trial.trial_id}"


class _Withdrawal(FIFOScheduler):
    """First come, first served; a retry that waits for another node goes back to the queue when there is none left.

    It keeps the trials that wait: Tune's own looks through all there ever were, at every event.
    """

    def __init__(self, nodes: Callable[[], Collection[str]]) -> None:
        super().__init__()
        self._nodes, self._looked_s = nodes, time.monotonic()
        self._waiting: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._waiting.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        self._waiting = [trial for trial in self._waiting if trial.status == Trial.PENDING]
        picky = [trial for trial in self._waiting if trial.config["avoid"]]
        if picky and time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self._looked_s, alive = time.monotonic(), set(self._nodes())
            for trial in picky:
                if not alive - set(trial.config["avoid"]):
                    tune_controller.stop_trial(trial)
        return next((trial for trial in self._waiting if trial.status == Trial.PENDING), None)


class _Outcomes(tune.Callback):
    """Moves the progress line, tells the queue of failures, and records the cells whose last try failed."""

    def __init__(self, jobs: Sequence[TrainJob], *, context: Context, queue: CellQueue, attempts: Attempts) -> None:
        self.refusal: EmrayError | None = None  # what ended the stage: torch saw no GPU anywhere, a disk takes nothing
        self._jobs, self._store, self._queue, self._attempts = jobs, context.store, queue, attempts
        self._advance, self._hardware = context.advance, context.declared
        self._waits, self._looked_s = bool(context.declared.waiting()), -math.inf
        self._workers: dict[str, str] = {}  # trial id -> actor id
        self._nodes: dict[str, Any] = {}  # actor id -> ObjectRef of its node's id
        self._errors: dict[int, Exception | None] = {}  # cell -> what its last try ended with
        self._texts: dict[int, str] = {}  # the same as a person reads it
        self._told: set[str] = set()  # of how steps are computed

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        actor = trial.temporary_state.ray_actor
        worker = self._workers[trial.trial_id] = actor._actor_id.hex()
        if worker not in self._nodes:  # a warm worker has told already
            self._nodes[worker] = actor.node.remote()
        self._waits = False

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.tell_how(result["how"])
        if not result["done"]:
            label = self._jobs[trial.config["cells"][0]].cell.label
            self._advance(0, f"loss {result['loss']:.2f} at step {result['steps']} of {label}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.trial_id not in self._workers:  # withdrawn before it started
            return
        result = trial.last_result
        self.tell_how(result["how"])
        note = f"failed: {result['failed'][-1]}" if result["failed"] else f"loss {result['loss']:.2f}"
        self._advance(len(trial.config["cells"]), note)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        node = _node_id(self._nodes.get(self._workers.get(trial.trial_id, "")))
        error = _error(trial)
        self._queue.failed(trial.trial_id, failure_of(error, node=node))
        self._errors |= dict.fromkeys(trial.config["cells"], error)
        self._texts |= dict.fromkeys(trial.config["cells"], _error_text(trial))
        over = self._give_up()
        if refusal := _of_store(getattr(error, "cause", None)):  # every other cell's, too
            self._refuse(refusal)
            return
        for number in trial.config["cells"]:
            if number not in over:
                self._advance(0, f"again: {self._jobs[number].cell.label}")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._give_up()
        if self._waits and time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._advance(0, self._hardware.waiting() or "starting")

    def tell_how(self, how: str) -> None:
        """A GPU whose steps are not compiled takes several times as long: that is said at once, on its own line."""
        if how.startswith("eager") and how not in self._told:
            self._told.add(how)
            print(f"train: steps are not compiled, {how}", file=sys.stderr, flush=True)

    def _give_up(self) -> list[int]:
        """Record the cells that have had their last try."""
        over = self._queue.pop_over()
        for number in over:
            cause = getattr(self._errors[number], "cause", None)
            if refusal := cause if isinstance(cause, NoGpuHere) else _of_store(cause):
                self._refuse(refusal)
            else:
                self._record_failed(number)
        return over

    def _refuse(self, refusal: EmrayError) -> None:
        """End the stage: what has failed is no cell's fault, and stays missing."""
        self.refusal = refusal
        self._queue.drop()

    def _record_failed(self, number: int) -> None:
        job, text = self._jobs[number], self._texts[number]
        record = self._store.adapter_record(job.cell.key)
        if not (record and record.trained):  # else the worker died after publishing
            details = {"error": _last_line(text), "traceback": text, "attempts": self._attempts.tries(number)}
            self._store.put_failed_adapter(job.cell.key, details=details)
        self._advance(1, f"failed: {job.cell.label}")


def failure_of(error: Exception | None, *, node: str | None) -> FailedTry:
    """What Ray's error for a trial on this node means."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, WorkerGroupError):  # of Ray Train's processes under a trial that only waited
        deaths = [one for one in cause.worker_failures.values() if isinstance(one, RayActorError)]
        return FailedTry(_cause_of(deaths), None)
    died = isinstance(error, RayActorError) and not error.actor_init_failed
    return FailedTry(_cause_of([error] if died else []), node)


def _of_store(cause: BaseException | None) -> EmrayError | None:
    """What the run folder refused; None for what is a cell's own error."""
    return cause if isinstance(cause, StoreError) else of_disk(cause)


def _cause_of(deaths: Sequence[RayActorError]) -> Cause:
    if any(death.preempted or NODE_DIED in str(death) for death in deaths):
        return Cause.NODE_LOST
    return Cause.WORKER_DIED if deaths else Cause.ERROR


def _node_id(answer: Any) -> str | None:
    """The node a worker runs on; None where it never started or died before it could tell."""
    try:
        return None if answer is None else ray.get(answer, timeout=0)
    except (RayActorError, GetTimeoutError):
        return None


def _error(trial: Trial) -> Exception | None:
    """Ray's error as Tune keeps it beside the trial; None when it was Tune's own."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).exists() else None


def _error_text(trial: Trial) -> str:
    path = trial.error_file
    return Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else "the worker died"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "the worker died")


def _check_complete(jobs: Sequence[TrainJob], *, store: Store) -> None:
    lost = [job.cell.label for job in jobs if store.adapter_record(job.cell.key) is None]
    if lost:
        raise StageError(
            f"{len(lost)} cells have neither an adapter nor a failure ({lost[0]}, ...); run again to go on"
        )


@contextmanager
def _quiet(folder: str) -> Iterator[None]:
    """Tune without its tables, loggers and log lines; settings are put back afterwards."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_MAX_PENDING_TRIALS_PG": str(MAX_PENDING),
        "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # its memory is thrown away
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's takes the signal for its own and goes on
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.CRITICAL)  # failures are told by _Outcomes and kept in records
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
