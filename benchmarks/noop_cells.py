"""Cells that do nothing, through everything that handles cells: Ray Tune, the queue, warm workers, the store.

    python -m benchmarks.scale --noop 10000

A cell publishes a small adapter and reports, as real ones do; so all the time it takes is control. Not covered: what
training, engines and judges take.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import psutil
from safetensors.numpy import save_file

from emray import train
from emray.cluster import ON_CPU, connected
from emray.context import Context
from emray.plan import Plan
from emray.spec import ResourcesSpec
from emray.store import Store
from emray.train import schedule
from emray.train.trial import CellTrainable

DETAILS = {"losses": [[1, 1.0]], "num_steps": 1, "final_loss": 1.0, "wall_s": 0.0}


def write_adapter(folder: Path) -> None:
    """The least that counts as one: settings, and weights of a single number."""
    (folder / "adapter_config.json").write_text("{}\n")
    save_file({"weight": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")


class Idle(CellTrainable):
    """The warm worker, whose cells are done at once."""

    def step(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(Path(folder))
            for job in self._jobs:
                self._shared.store.put_adapter(job.cell.key, files=Path(folder), details=DETAILS)
        self._loss, self._num_steps = 1.0, 1
        return self._result(done=True)


class Control(NamedTuple):
    """What so many cells took: from the first that was done to the last, and until the first was."""

    cells: int
    start_s: float
    control_ms_a_cell: float
    driver_cpu_ms_a_cell: float  # of the driver's process alone: what a busy machine does not change
    control_gib: float  # peak of the driver alone


def control(made: Plan, store: Store) -> Control:
    """Wall time and memory of training the plan's cells, which do nothing, on this machine."""
    done_s: list[float]
    cpu_s: list[float]
    jobs, peak, done_s, cpu_s = list(made.jobs.values()), 0, [], []

    def advance(done: int, note: str = "") -> None:
        nonlocal peak
        peak = max(peak, psutil.Process().memory_info().rss)
        done_s.extend([time.perf_counter()] * done)
        cpu_s.extend([time.process_time()] * done)

    with connected(None), patch.object(schedule, "CellTrainable", Idle):
        context = Context(store, ResourcesSpec(track=[]), advance, ON_CPU)
        started_s = time.perf_counter()
        train.run(jobs, datasets=made.datasets, spec=made.sweep.train, context=context)
        ended_s = time.perf_counter()
    assert len(store.adapter_records()) == len(jobs) == len(done_s)
    spans = (ended_s - done_s[0], cpu_s[-1] - cpu_s[0])
    wall_ms, cpu_ms = (1000 * span / (len(jobs) - 1) for span in spans)
    return Control(
        len(jobs), round(done_s[0] - started_s, 1), round(wall_ms, 2), round(cpu_ms, 2), round(peak / 2**30, 3)
    )
