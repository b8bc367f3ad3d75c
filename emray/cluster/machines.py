"""The machines that a command computes on: processor, memory and GPUs, as a paper names them.

Not for scheduling (hardware.py). The invariant: no name or address of a machine is kept, so equal ones count together.
"""

import os
import platform
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_LONGEST_S = 10.0  # that nvidia-smi may take, or a node that is busy
_HERE = "here"  # stands for a node where there is no Ray
_GPUS = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_GIB = 2**30


class Machine(NamedTuple):
    """One kind of machine."""

    cpu: str
    num_cpus: int  # logical ones
    memory_gib: int
    gpus: tuple[str, ...]  # by name, one a card
    system: str


def machine_here() -> Machine:
    """This one."""
    memory = round(psutil.virtual_memory().total / _GIB)
    return Machine(_processor(), os.cpu_count() or 1, memory, _gpus(), f"{platform.system()} {platform.machine()}")


class Machines:
    """Those of the Ray that is connected; nodes that come or go meanwhile are all counted, each once."""

    def __init__(self) -> None:
        self._by_node: dict[str, Machine] = {}

    def look(self) -> None:
        """Take in the nodes that are new; without Ray, this machine."""
        ray = sys.modules.get("ray")  # not loaded for this alone
        if ray is None or not ray.is_initialized():
            self._by_node.setdefault(_HERE, machine_here())
            return
        self._by_node.pop(_HERE, None)
        with suppress(ray.exceptions.RayError):  # a cluster that falls apart is told by what was to be done on it
            new = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - self._by_node.keys()
            if ray.worker._global_node:  # None for a ray:// client, which is on no node
                own = ray.get_runtime_context().get_node_id()
                self._by_node.setdefault(own, machine_here())
                new.discard(own)
            self._by_node |= _looked_at(sorted(new))

    def document(self) -> list[dict[str, Any]]:
        """Every kind with how many there were, as the log keeps it."""
        counts = Counter(self._by_node.values())
        return [{**kind._asdict(), "gpus": list(kind.gpus), "count": counts[kind]} for kind in sorted(counts)]


def _looked_at(nodes: list[str]) -> dict[str, Machine]:
    """Asked on each node itself; one that is lost meanwhile is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def there(node: str) -> Any:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        return ray.remote(num_cpus=0)(machine_here).options(scheduling_strategy=where).remote()

    asked, found = {node: there(node) for node in nodes}, {}
    for node, answer in asked.items():
        with suppress(ray.exceptions.RayError):
            found[node] = ray.get(answer, timeout=_LONGEST_S)
    return found


def _processor() -> str:
    with suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return " ".join(re.sub(r"\((?:R|TM)\)", "", named[1]).split())
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    try:
        done = subprocess.run(_GPUS, capture_output=True, text=True, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()
