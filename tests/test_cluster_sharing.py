"""A run folder on a cluster of several nodes: seen by all, or refused in one line."""

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from emray.cluster import check_shared
from emray.errors import SpecError, StoreError
from emray.store import Store
from tests.commands import kill_with_workers

RAY = Path(sys.executable).with_name("ray")
UNSHARE = ["unshare", "--map-root-user", "--mount"]  # a process with its own view of the disk


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_folder_that_every_node_sees_is_taken_and_left_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    check_shared(Store(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_one_node_does_not_see_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("this machine gives no process a mount namespace of its own")
    nodes = len(ray.nodes())
    join = f"mount -t tmpfs none {tmp_path} && exec {RAY} start --address={cluster.address} --num-cpus=1 --block"
    node = subprocess.Popen([*UNSHARE, "sh", "-c", join], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(ray.nodes()) == nodes:
            assert node.poll() is None
            time.sleep(0.1)
        with pytest.raises(SpecError, match=r"is not the same folder on every node .*; give a shared folder or s3://"):
            check_shared(Store(str(tmp_path)))
    finally:
        kill_with_workers(node)


def test_a_node_that_joins_later_writes_nothing_beside_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    store = Store(str(folder))
    store.write_json("plan.json", {})
    travelling = pickle.dumps(store)
    folder.rename(tmp_path / "elsewhere")  # what such a node sees
    with pytest.raises(StoreError, match="the nodes of the cluster do not share it"):
        pickle.loads(travelling).write_json("adapters/k/record.json", {})
    assert not folder.exists()
