"""An engine that is lost with its node: its block is repeated elsewhere, and nobody's answers become errors."""

import threading
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from emray import generate
from emray.cluster import Hardware
from emray.context import Context
from emray.generate import pipeline
from emray.records import FinishReason
from emray.spec import GenerateSpec, ResourcesSpec
from emray.store import Kind, Store
from tests.generate_world import cell, prompt, task

ON_GPUS = Hardware(gpu=True, accelerator=None, types=(), max_gpus=1, max_cpus=3)


@pytest.fixture
def gpu_nodes(monkeypatch):
    """A head without GPUs, and two nodes with one each in Ray's books."""
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, {node.node_id: node for node in nodes}
    ray.shutdown()
    cluster.shutdown()


def engine_nodes() -> list[str]:
    """Nodes where an engine's actor lives."""
    actors = ray._private.state.actors().values()
    alive = [actor for actor in actors if actor["State"] == "ALIVE" and "Generator" in actor["ActorClassName"]]
    return [actor["Address"]["NodeID"] for actor in alive]


@pytest.mark.soak
def test_the_loss_of_an_engines_node_makes_no_error_row(gpu_nodes, tmp_path, monkeypatch):
    cluster, nodes = gpu_nodes
    monkeypatch.setattr(pipeline, "MAX_ATTEMPTS", 1)  # a single try that counted would be the block's last
    store, lost = Store(str(tmp_path)), []
    tasks = [task(cell(0), prompt(f"hello {n}"), samples=range(64)) for n in range(40)]

    def lose_a_node() -> None:
        while not store.part_names(Kind.GENERATIONS):
            time.sleep(0.05)
        lost.extend(engine_nodes())
        cluster.remove_node(nodes[lost[0]], allow_graceful=False)

    loss = threading.Thread(target=lose_a_node, daemon=True)
    loss.start()
    spec = GenerateSpec(engine="transformers", temperature=0.7, max_tokens=48)
    generate.run(tasks, spec=spec, context=Context(store, ResourcesSpec(engines=1), hardware=ON_GPUS))
    loss.join()
    rows = store.read_rows(Kind.GENERATIONS).to_pylist()
    assert len(rows) == 40 * 64 == len({row["key"] for row in rows})
    assert FinishReason.ERROR not in {row["finish_reason"] for row in rows}
    assert len(lost) == 1
