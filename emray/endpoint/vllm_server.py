"""A model served by vLLM for as long as a block runs: an endpoint of our own, asked like any other.

Not for LoRA adapters (emray.generate holds them in its engines). The invariant: when the block ends, the server and
every process it has started are gone. When the actor that holds it is killed, the server is told to end.
"""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.exceptions

from emray.cluster import HUB_TOKEN, Hardware, NoGpuHere, device_here, hub_token
from emray.endpoint.access import introduce
from emray.endpoint.pool import plain
from emray.errors import StageError
from emray.spec import ResourcesSpec

READY_TIMEOUT_S = 1800.0  # large models load for minutes, and may have to be fetched first
POLL_S = 0.5
STOP_S = 10.0
LAST_WORDS = 2000  # characters of a server's output that are looked at when it dies
PR_SET_PDEATHSIG = 1  # of Linux's prctl
CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "passive",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@contextmanager
def serving_model(model: str, *, resources: ResourcesSpec, hardware: Hardware) -> Iterator[str]:
    """Serve a hub id or folder under that name somewhere in the cluster; yields the base URL. Ray must be running.

    Raises StageError with the server's own last words when it does not come up.
    """
    gpus = hardware.options(resources.tensor_parallel if hardware.gpu else 0)
    body = ray.remote(VllmServer).options(num_cpus=resources.cpus_per_engine, max_concurrency=2, **gpus)
    server = body.remote(model, gpu=hardware.gpu, resources=resources)
    try:
        base_url, key = _place(server, model=model)
        introduce(base_url, key=key)
        yield base_url
    finally:
        with suppress(ray.exceptions.RayError):  # dead already
            ray.get(server.stop.remote(), timeout=2 * STOP_S)
        ray.kill(server)


def _place(server: Any, *, model: str) -> tuple[str, str]:
    """Where it answers, once it does, and its key. Raises StageError, as one line."""
    try:
        base_url, key = ray.get(server.place.remote())
        return base_url, key
    except StageError as error:
        raise plain(error) from None
    except ray.exceptions.RayActorError as error:
        raise StageError(f"the server of judge.model {model} is gone: {str(error).splitlines()[0]}") from None


class VllmServer:
    """The body of a Ray actor that holds one server process."""

    def __init__(self, model: str, *, gpu: bool, resources: ResourcesSpec) -> None:
        self._model = model
        self._key = secrets.token_urlsafe(32)  # in the server's environment: a command line is seen by every user
        self._host, self._port = ray.util.get_node_ip_address(), _free_port()
        self._output = Path(tempfile.mkstemp(prefix="emray-vllm-", suffix=".log")[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal: NoGpuHere | None = None
        try:
            self._serve(resources, gpu=device_here(gpu=gpu) == "cuda")
        except NoGpuHere as refusal:  # raised again where the driver can read it
            self._refusal = refusal

    def _serve(self, resources: ResourcesSpec, *, gpu: bool) -> None:
        """Start the server; it ends with this thread, the actor's first."""
        model = self._model
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", model,
            "--host", self._host, "--port", str(self._port), "--load-format", "safetensors",
        ]  # fmt: skip
        command += ["--tensor-parallel-size", str(resources.tensor_parallel)] if gpu else ["--enforce-eager"]
        threads = {"OMP_NUM_THREADS": str(max(1, int(resources.cpus_per_engine)))}
        own = {"VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": self._key}
        if token := hub_token():  # the server fetches the model itself
            own[HUB_TOKEN] = token
        environment = os.environ | own | ({} if gpu else CPU | threads)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, preexec_fn=_die_with_parent
            )

    def place(self) -> tuple[str, str]:
        """Base URL and key, once the server answers. Raises StageError."""
        if self._process is None:
            raise self._refusal or StageError(f"vllm did not start to serve judge.model {self._model}")
        url, end_s = f"http://{self._host}:{self._port}", time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                raise StageError(f"vllm cannot serve judge.model {self._model}: {self._last_words()}")
            if _answers(f"{url}/health"):
                return f"{url}/v1", self._key
            time.sleep(POLL_S)
        raise StageError(f"vllm did not serve judge.model {self._model} within {READY_TIMEOUT_S:.0f} s")

    def stop(self) -> None:
        """End the server and the processes it has started, which outlive it when it is merely killed."""
        if self._process is None:
            return
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        _, left = psutil.wait_procs(family, timeout=STOP_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _last_words(self) -> str:
        """The last line that names an error, else the last line."""
        lines = [line.strip() for line in self._output.read_text(errors="replace")[-LAST_WORDS:].splitlines() if line]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["it said nothing"])[-1]


_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our own server


def _answers(url: str) -> bool:
    try:
        with _DIRECTLY.open(url, timeout=5):
            return True
    except OSError:  # not yet listening, or not yet ready
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """In the child, before it starts: ask the kernel for SIGTERM when the actor's process is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
