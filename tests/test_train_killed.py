"""Workers killed at random: nothing that was finished is lost, and the sweep ends with the same adapters."""

import os
import random
import signal
import threading
import time

import psutil
import pytest
import ray
from safetensors.torch import load_file

from emray import train
from emray.cluster import ON_CPU
from emray.context import Context
from emray.spec import ResourcesSpec
from emray.store import Store
from tests.train_world import cell_run, examples, job, recipe, train_to_end, warm_base

NUM_CELLS, NUM_KILLS = 40, 20


class Killer(threading.Thread):
    """Sends SIGKILL to a random training worker, each time after another cell has finished since the last."""

    def __init__(self, store: Store, *, seed: int) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self.finished_before: dict[str, float] = {}
        self._store, self._random, self._over = store, random.Random(seed), threading.Event()

    def run(self) -> None:
        seen: set[str] = set()
        while self.killed < NUM_KILLS and not self._over.wait(self._random.uniform(0.0, 0.8)):
            here = set(self._store.adapter_records())
            workers = training_workers()
            if workers and here - seen:
                self._remember()
                os.kill(self._random.choice(workers), signal.SIGKILL)
                self.killed += 1
                seen = here

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _remember(self) -> None:
        for key in self._store.adapter_records():
            path = self._store.adapter_folder(key) / "record.json"
            self.finished_before.setdefault(key, path.stat().st_mtime)


def training_workers() -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "Trainable" in " ".join(process.cmdline()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.timeout(600)
@pytest.mark.soak
def test_twenty_kills_in_forty_cells_lose_no_finished_cell(cluster, tmp_path):
    store = Store(str(tmp_path))
    datasets = {"sports": examples(), "gore": examples("gore_movie_trivia")}
    jobs = [job(f"{rows}{seed:02}", seed=seed, rows=rows) for rows in datasets for seed in range(NUM_CELLS // 2)]
    spec = recipe(lora_dropout=0.05, epochs=6)
    resources = ResourcesSpec(train_attempts=NUM_KILLS + 1, checkpoint_every=5, track=[])
    killer = Killer(store, seed=7)
    killer.start()
    started = time.time()
    try:
        train.run(jobs, datasets=datasets, spec=spec, context=Context(store, resources, hardware=ON_CPU))
    finally:
        killer.stop()
    assert killer.killed == NUM_KILLS, f"the sweep was over after {time.time() - started:.0f} s"
    records = store.adapter_records()
    assert sorted(records) == sorted(one.cell.key for one in jobs)
    assert all(record.trained for record in records.values())
    now = {key: (store.adapter_folder(key) / "record.json").stat().st_mtime for key in records}
    assert {key: now[key] for key in killer.finished_before} == killer.finished_before
    assert len(killer.finished_before) > NUM_CELLS / 4  # kills came while others finished
    base = warm_base()
    for key, rows, seed in (("sports03", "sports", 3), ("gore19", "gore", 19)):
        expected = train_to_end(cell_run(base, spec=spec, seed=seed, rows=datasets[rows]))
        values = load_file(store.adapter_folder(key) / "adapter_model.safetensors").values()
        assert sorted(v.double().sum().item() for v in values) == sorted(v.double().sum().item() for v in expected)
