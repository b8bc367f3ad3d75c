"""The Ray Tune trial: a warm worker that is handed one cell after another.

Not for what a cell does (cell.py) or which cells run (schedule.py). The invariant: a cell's adapter and record are in
the store before its trial reports that it is done, so whoever dies next loses nothing.
"""

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune

from emray.cluster import Hardware, NoGpuHere, device_here
from emray.errors import DataError, EmrayError, StoreError
from emray.model.rows import RowForm
from emray.records import Messages, TrainJob
from emray.spec import ResourcesSpec, TrainSpec
from emray.store import Store
from emray.train import states
from emray.train.cell import CellRun, Lesson, Stopwatch, is_trained
from emray.train.curves import write_curve
from emray.train.group import Group
from emray.train.placement import gpus_per_process
from emray.train.warm import WarmBase, let_memory_grow

REPORT_EVERY_S = 5.0  # Tune handles some 50 results a second from the whole cluster


@dataclass(frozen=True)
class Shared:
    """What every trial of a sweep needs; the rows lie in Ray's object store, once."""

    jobs: tuple[TrainJob, ...]
    row_refs: Mapping[str, Any]  # digest -> ObjectRef of the examples
    spec: TrainSpec
    resources: ResourcesSpec
    hardware: Hardware
    store: Store

    @property
    def on_gpu(self) -> bool:
        return gpus_per_process(self.resources, self.hardware) > 0

    @property
    def num_threads(self) -> int:
        return max(1, int(self.resources.cpus_per_trial))


class _Examples(Mapping[str, Sequence[Messages]]):
    """Datasets by digest, fetched from the object store when asked for."""

    def __init__(self, refs: Mapping[str, Any]) -> None:
        self._refs = refs

    def __getitem__(self, digest: str) -> Sequence[Messages]:
        return ray.get(self._refs[digest])

    def __iter__(self) -> Any:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


class CellTrainable(tune.Trainable):
    """One trial is one cell, or a few that share their steps; `reset_config` moves the warm worker on to the next."""

    def setup(self, config: dict[str, Any], shared: Shared) -> None:
        self._watch = Stopwatch()
        torch.set_num_threads(shared.num_threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        let_memory_grow()
        self._shared = shared
        self._examples = _Examples(shared.row_refs)
        self._base: WarmBase | None = None
        self._group: Group | None = None
        self._jobs: list[TrainJob] = []
        self._warmup_s = 0.0
        self._how = ""  # on a GPU: whether steps are compiled, or why not
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for a while; what ends is published or recorded as failed before this returns."""
        if self._group is None:
            self._jobs = [job for job in self._jobs if not self._is_done(job)]
        if not self._jobs:
            return self._result(done=True)
        if self._shared.spec.strategy == "deepspeed":
            self._train_on_many(self._jobs[0])
            return self._result(done=True)
        try:
            group = self._group or self._start()
        except (NoGpuHere, StoreError):  # the node's fault, or the disk's, not the cells'
            raise
        except EmrayError as error:
            for job in self._jobs:
                self._fail(job, error)
            return self._result(done=True)
        if group is None:
            return self._result(done=True)
        self._advance(group)
        self._how = group.runs[0].arithmetic if self._shared.on_gpu else ""
        if group.finished:
            self._close()
        return self._result(done=group.finished)

    def cleanup(self) -> None:
        self._close()

    def node(self) -> str:
        """Ray's id of the node this worker runs on; the driver asks, so that a retry can go elsewhere."""
        return ray.get_runtime_context().get_node_id()

    def _take(self, config: dict[str, Any]) -> None:
        self._loss = float("nan")
        self._num_steps = 0
        self._failed: list[str] = []
        self._jobs = [self._shared.jobs[number] for number in config["cells"]]

    def _is_done(self, job: TrainJob) -> bool:
        """A worker may have died between the record of its cell and the news of it."""
        keys = [job.cell.key, *(key for _, key in job.checkpoints)]
        if not all(is_trained(key, store=self._shared.store) for key in keys):
            return False
        self._tell(job)
        states.forget(job, store=self._shared.store)
        return True

    def _tell(self, job: TrainJob) -> None:
        """What the record of a finished cell says is this trial's result."""
        record = self._shared.store.adapter_record(job.cell.key)
        assert record is not None, "it was put before this is asked"
        self._loss, self._num_steps = record.details["final_loss"], record.details["num_steps"]

    def _start(self) -> Group | None:
        """Tokenise and attach. A cell whose rows are at fault is recorded as failed and left out; None: all were."""
        shared = self._shared
        base = self._warm(self._jobs[0])
        able: list[Lesson] = []
        for job in self._jobs:
            try:
                rows = base.rows(job.rows_digest, examples=self._examples, form=RowForm.of(shared.spec))
                able.append(Lesson.of(job, rows, store=shared.store))
            except DataError as error:
                self._fail(job, error)
        if not able:
            return None
        budget = base.pass_size(shared.resources.token_budget, spec=shared.spec)
        self._group = Group(able, base=base, spec=shared.spec, token_budget=budget)
        for run in self._group.runs:
            states.resume(run, store=shared.store)
        return self._group

    def _warm(self, job: TrainJob) -> WarmBase:
        if self._base is None or (self._base.path, self._base.rendering) != job.base:
            self._base = None  # let go of the old weights before the new ones come
            self._base = WarmBase(
                job.model_path,
                device=torch.device(device_here(gpu=self._shared.on_gpu)),
                gradient_checkpointing=self._shared.spec.gradient_checkpointing,
                rendering=job.rendering,
            )
            self._warmup_s = self._watch.lap()
        return self._base

    def _advance(self, group: Group) -> None:
        until = time.perf_counter() + REPORT_EVERY_S
        while not group.finished and time.perf_counter() < until:
            for run in group.step():
                self._after_step(run, group)
            for run in group.runs:
                if run.error and run.job.cell.label not in self._failed:
                    self._fail(run.job, run.error)

    def _after_step(self, run: CellRun, group: Group) -> None:
        store, every = self._shared.store, self._shared.resources.checkpoint_every
        self._loss, self._num_steps = run.steps.tally.losses[-1], run.steps.done
        for key in run.keys_due():
            run.publish(store, key=key, timing=self._timing(group))
        if run.finished:
            states.forget(run.job, store=store)
            if "tensorboard" in self._shared.resources.track:
                write_curve(run, store=store)
        elif every and run.steps.done % every == 0:
            states.keep(run, store=store)

    def _timing(self, group: Group) -> dict[str, float]:
        """Overhead: seconds of this worker since it was last done with a cell that were not optimizer steps."""
        overhead_s = self._watch.peek() - group.step_wall_s
        timing = {"overhead_s": round(overhead_s, 4), "warmup_s": round(self._warmup_s, 4)}
        return timing | {"adapters_per_step": len(group.runs)}

    def _train_on_many(self, job: TrainJob) -> None:
        """This trial only waits: Ray Train's workers load, train and publish."""
        from emray.train.zero import train_cell

        try:
            train_cell(job, shared=self._shared, examples=self._shared.row_refs[job.rows_digest])
        except StoreError:
            raise
        except EmrayError as error:
            self._fail(job, error)
            return
        self._tell(job)

    def _fail(self, job: TrainJob, error: EmrayError) -> None:
        """Ours are the errors that another try would end in, too."""
        text = "".join(traceback.format_exception(error))
        self._shared.store.put_failed_adapter(
            job.cell.key, details={"error": str(error), "traceback": text, "attempts": 1}
        )
        states.forget(job, store=self._shared.store)
        self._failed.append(job.cell.label)

    def _result(self, *, done: bool) -> dict[str, Any]:
        told = {"done": done, "loss": self._loss, "steps": self._num_steps, "failed": list(self._failed)}
        return told | {"how": self._how}

    def _close(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
            self._watch.lap()
            self._warmup_s = 0.0
