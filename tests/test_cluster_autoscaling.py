"""The documented first use of a cluster: a head with CPUs, GPU nodes that start on demand, none at first."""

import json
import subprocess
import sys

import pytest

from emray.store import Store
from tests.autoscaling import Growing, growing_cluster
from tests.commands import environment, run, write_sweep

ACTORS = """
import json, ray
ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")
gpu_nodes = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU")]
actors = [(actor["ActorClassName"], actor["Address"]["NodeID"]) for actor in ray._private.state.actors().values()]
print(json.dumps([gpu_nodes, actors]))
"""


@pytest.fixture(scope="module")
def cluster():
    with growing_cluster(gpu_nodes=1) as growing:
        yield growing


def actors(cluster: Growing) -> tuple[list[str], list[tuple[str, str]]]:
    """GPU nodes, and every actor there was with its node, as Ray's own books have them."""
    code = ACTORS.format(address=cluster.address)
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(**cluster.access)
    )
    gpu_nodes, found = json.loads(told.stdout.splitlines()[-1])
    return gpu_nodes, [(name, node) for name, node in found]


def test_a_type_that_the_autoscaler_cannot_start_is_refused_in_one_line_and_nothing_is_written(cluster, tmp_path):
    sweep, out = write_sweep(tmp_path), tmp_path / "out"
    typed = ("--set", "resources.accelerator=A100")
    ended = run(sweep, "--address", cluster.address, "--out", out, *typed, **cluster.access)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "no node has 'A100'; this cluster's GPUs: L40S" in ended.stderr
    assert not (out / "plan.json").exists()


def test_every_cell_and_every_engine_waits_for_a_gpu_node_and_runs_there(cluster, tmp_path):
    sweep, out = write_sweep(tmp_path, generate={"samples": 1}), tmp_path / "out"
    assert actors(cluster)[0] == []
    ended = run(sweep, "--address", cluster.address, "--out", out, **cluster.access)
    assert ended.returncode == 0, ended.stderr
    assert "waiting for a GPU node" in ended.stdout
    store = Store(str(out))
    assert {record.status for record in store.adapter_records().values()} == {"trained"}
    gpu_nodes, found = actors(cluster)
    trials = {node for name, node in found if "Trainable" in name}
    engines = {node for name, node in found if "Generator" in name}
    assert trials == engines == set(gpu_nodes)
    assert len(gpu_nodes) == 1
