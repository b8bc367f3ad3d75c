"""A cluster of two nodes: a cell that fails on one is tried on the other, and a node that is lost costs no try."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from emray import train
from emray.cluster import ON_CPU, live_nodes
from emray.context import Context
from emray.spec import ResourcesSpec
from emray.store import Store
from tests.train_world import examples, job, recipe


class BrokenDisk(Store):
    """A store that the first node to publish a cell cannot write to; the other can."""

    def __reduce__(self):
        return (BrokenDisk, (self.root,))

    @property
    def broken_node(self) -> str:
        return Path(self.root, "broken").read_text()

    def put_adapter(self, key, *, files, details):
        here = ray.get_runtime_context().get_node_id()
        with suppress(FileExistsError), Path(self.root, "broken").open("x") as file:
            file.write(here)
        if here == self.broken_node:
            raise OSError(f"no space left on {here}")
        super().put_adapter(key, files=files, details=details | {"node": here})


@pytest.fixture
def two_nodes():
    """A head and a worker node, one CPU each: two raylets on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def train_all(jobs, *, store, spec, datasets=None, **resources):
    notes = []
    train.run(
        jobs,
        datasets=datasets or {"sports": examples()},
        spec=spec,
        context=Context(
            store,
            ResourcesSpec.model_validate({"track": [], **resources}),
            lambda done, note="": notes.append(note),
            ON_CPU,
        ),
    )
    return [note for note in notes if note.startswith(("again", "failed"))]


@pytest.mark.soak
def test_cells_that_fail_on_one_node_succeed_on_the_other(two_nodes, tmp_path):
    store = BrokenDisk(str(tmp_path))
    jobs = [job(f"k{seed}", seed=seed) for seed in range(4)]
    failures = train_all(jobs, store=store, spec=recipe(), train_attempts=2)
    records = store.adapter_records()
    assert {key: record.status for key, record in records.items()} == {one.cell.key: "trained" for one in jobs}
    assert {record.details["node"] for record in records.values()} == live_nodes({"CPU": 1}) - {store.broken_node}
    assert failures
    assert all(note.startswith("again") for note in failures)


@pytest.mark.soak
def test_the_loss_of_a_node_costs_its_cell_no_try(two_nodes, tmp_path):
    cluster, second = two_nodes
    store = Store(str(tmp_path))
    jobs = [job(f"k{seed}", seed=seed) for seed in range(6)]

    def lose_the_second_node() -> None:
        while len(store.adapter_records()) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    loss = threading.Thread(target=lose_the_second_node, daemon=True)
    loss.start()
    failures = train_all(jobs, store=store, spec=recipe(epochs=8), train_attempts=1)
    loss.join()
    assert {record.status for record in store.adapter_records().values()} == {"trained"}
    assert len(store.adapter_records()) == 6
    assert failures
    assert all(note.startswith("again") for note in failures)


class FullOnce(Store):
    """A store without room for the first adapter of `short`; which node found out is kept."""

    def __reduce__(self):
        return (FullOnce, (self.root,))

    def put_adapter(self, key, *, files, details):
        if key == "short" and not self.exists("full"):
            self.write_bytes("full", ray.get_runtime_context().get_node_id().encode())
            raise OSError("no space left")
        super().put_adapter(key, files=files, details=details)


@pytest.mark.soak
def test_a_retry_whose_other_node_has_gone_runs_where_it_failed(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    store = FullOnce(str(tmp_path))

    def lose_the_other_node() -> None:
        while not store.exists("full"):
            time.sleep(0.05)
        failed_on = store.read_bytes("full").decode()
        cluster.remove_node(next(node for node in workers if node.node_id != failed_on), allow_graceful=False)

    loss = threading.Thread(target=lose_the_other_node, daemon=True)
    loss.start()
    datasets = {"sports": examples(), "few": examples(count=8)}
    jobs = [job("long"), job("short", rows="few")]
    failures = train_all(jobs, store=store, spec=recipe(epochs=60), datasets=datasets, train_attempts=2)
    loss.join()
    ray.shutdown()
    cluster.shutdown()
    assert {key: r.status for key, r in store.adapter_records().items()} == {"long": "trained", "short": "trained"}
    assert sorted(failures) == ["again: few/plain/seed 0", "again: sports/plain/seed 0"]
