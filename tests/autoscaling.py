"""A cluster that starts its GPU nodes on demand, on one machine: Ray's own fake provider, whose nodes are processes.

Its GPU nodes have a GPU in Ray's books and none for torch. RAY_FAKE_CLUSTER, which Ray's test clusters set, tells a
worker that was given such a GPU to compute on the CPU; on any other cluster it refuses (`device_here`).
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

GPU_NODE = {"CPU": 2, "GPU": 1, "accelerator_type:L40S": 1, "object_store_memory": 150_000_000}
HEAD_NODE = {"CPU": 2}
STORE_BYTES = 150_000_000
START_S = 60.0


class Growing(NamedTuple):
    """How to reach the cluster: its address, and environment variables that let one in."""

    address: str
    access: dict[str, str]


def settings(*, gpu_nodes: int, port: int) -> dict[str, Any]:
    """An autoscaler's configuration: a head with CPUs, and up to so many GPU nodes, none at first."""
    return BASE_READONLY_CONFIG | {
        "cluster_name": "fake",
        "max_workers": gpu_nodes,
        "upscaling_speed": 4.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,  # nothing to be set up there
            "gcs_address": f"{get_node_ip_address()}:{port}",
        },
        "auth": {"ssh_user": "x"},
        "available_node_types": {
            "ray.head.default": {"resources": HEAD_NODE, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": GPU_NODE, "node_config": {}, "min_workers": 0, "max_workers": gpu_nodes},
        },
        "head_node_type": "ray.head.default",
    }


@contextmanager
def growing_cluster(*, gpu_nodes: int) -> Iterator[Growing]:
    """Every process of it has ended when this returns."""
    port, access = _free_port(), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # Ray's sockets need a short path
        config = Path(folder, "autoscaling.yaml")
        config.write_text(yaml.safe_dump(settings(gpu_nodes=gpu_nodes, port=port)))
        started = _start(config, port=port, access=access)
        try:
            _wait_for(port, started)
            yield Growing(f"127.0.0.1:{port}", access)
        finally:
            _end(started, folder)


def _start(config: Path, *, port: int, access: dict[str, str]) -> subprocess.Popen[bytes]:
    scripts = Path(sys.executable).parent
    with config.with_name("ray-start.log").open("wb") as output:
        return subprocess.Popen(
            [
                scripts / "ray", "start", "--head", "--block", f"--port={port}", f"--num-cpus={HEAD_NODE['CPU']}",
                "--num-gpus=0", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false",
                f"--autoscaling-config={config}", f"--temp-dir={config.parent}",
                f"--ray-client-server-port={_free_port()}",
            ],
            stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | access | {
                "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            },
        )  # fmt: skip


def _wait_for(port: int, started: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and started.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("ray start did not come up")


def _end(started: subprocess.Popen[bytes], folder: str) -> None:
    """The head and all that names its folder: the nodes that the autoscaler has started are no children of it."""
    started.kill()
    started.wait(timeout=30)
    while family := [process for process in psutil.process_iter(["cmdline"]) if _names(process, folder)]:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)


def _names(process: psutil.Process, folder: str) -> bool:
    return any(folder in word for word in process.info["cmdline"] or [])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
