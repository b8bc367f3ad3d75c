"""What nodes a Ray cluster has now, and what nodes its autoscaler may add.

Not for deciding what to use (hardware.py). The invariant: it starts no node, and what cannot be read is said to be
unknown, never taken for none.

Ray keeps a cluster's kinds of nodes in its control store where a managed platform reports them. `ray up` and
`ray start --autoscaling-config` leave them in a file on the head node that the autoscaler's process was started with.
Where that process runs out of sight (beside the head, as on Kubernetes), nobody can tell.
"""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil
import yaml

HEAD = "node:__internal_head__"  # a resource that Ray gives to the head node alone
TYPE = "accelerator_type:"  # before a GPU's name: a resource of the nodes that have it
MONITOR = "monitor.py"  # the file that Ray runs its autoscaler from
CONFIG, GCS = "--autoscaling-config=", "--gcs-address="  # two of its arguments
LOOK_S = 60.0  # for a worker on the head to start and look around

# Options of a task or actor on the head node: without it there is no cluster, all others may go.
ON_HEAD: Any = MappingProxyType({"num_cpus": 0, "resources": {HEAD: 0.001}})

Amounts = Mapping[str, float]  # by Ray's resource names


class Autoscaler(StrEnum):
    """Whether a cluster grows by itself."""

    NONE = "none"
    READ = "read"  # its kinds of nodes are known
    UNKNOWN = "unknown"  # there may be one, and what it may add cannot be read


class NodeKind(NamedTuple):
    """Nodes of which there may be so many at a time."""

    resources: Amounts
    most: int


class ClusterLimits(NamedTuple):
    """What a cluster's own settings allow."""

    kinds: Sequence[NodeKind]
    autoscaler: Autoscaler


class Supply(NamedTuple):
    """The nodes of a cluster: those there now, and what there may be at a time."""

    now: Sequence[Amounts]
    limits: ClusterLimits

    @property
    def types(self) -> tuple[str, ...]:
        """Ray's names of the GPUs that there are or may be."""
        every = (*self.now, *(kind.resources for kind in self.limits.kinds if kind.most))
        return tuple(sorted({name.removeprefix(TYPE) for node in every for name in node if name.startswith(TYPE)}))

    def most(self, resource: str, *, accelerator: str | None = None) -> int:
        """The most of a resource that there may be at a time, on nodes with this type of GPU (None: on any)."""
        return max(
            sum(int(_amount(kind.resources, resource, accelerator) * kind.most) for kind in kinds)
            for kinds in ([NodeKind(node, 1) for node in self.now], self.limits.kinds)
        )

    def largest(self, resource: str, *, accelerator: str | None = None) -> float:
        """The most of a resource that one node has."""
        every = (*self.now, *(kind.resources for kind in self.limits.kinds if kind.most))
        return max((_amount(node, resource, accelerator) for node in every), default=0)


def supply() -> Supply:
    """Of the cluster that this process is connected to."""
    import ray

    if ray.util.client.ray.is_connected():  # by ray://: only a node of the cluster can look
        return ray.get(ray.remote(supply).options(**ON_HEAD).remote())
    now = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Supply(now, _reported() or _on_the_head())


def live_nodes(bundle: Amounts = MappingProxyType({})) -> set[str]:
    """Ray's ids of the live nodes that are large enough for a bundle, free or not."""
    import ray

    return {
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in bundle.items())
    }


def limits_of(config: Mapping[str, Any]) -> ClusterLimits:
    """What an autoscaler's configuration allows, as cluster.yaml is one once its provider has filled it in."""
    head, at_most = config.get("head_node_type"), config.get("max_workers", sys.maxsize)
    kinds = [
        NodeKind(kind.get("resources") or {}, 1 if name == head else min(at_most, kind.get("max_workers", at_most)))
        for name, kind in config["available_node_types"].items()
    ]
    known = all(kind.resources or not kind.most for kind in kinds)
    has_gpus = any(kind.resources.get("GPU") for kind in kinds)
    return ClusterLimits(kinds, Autoscaler.READ if known or has_gpus else Autoscaler.UNKNOWN)


def limits_here(address: str) -> ClusterLimits:
    """On the head node: those of the autoscaler whose cluster's control store has this address."""
    port = address.rsplit(":", 1)[-1]
    for process in psutil.process_iter(["cmdline"]):
        words: list[str] = process.info["cmdline"] or []
        if MONITOR in map(_name, words) and (_after(GCS, words) or "").rsplit(":", 1)[-1] == port:
            return _in_file(_after(CONFIG, words))
    return ClusterLimits((), Autoscaler.UNKNOWN)


def _in_file(path: str | None) -> ClusterLimits:
    """A monitor without a configuration only watches."""
    if path is None:
        return ClusterLimits((), Autoscaler.NONE)
    try:
        return limits_of(yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8")))
    except OSError:  # another user's
        return ClusterLimits((), Autoscaler.UNKNOWN)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _after(flag: str, words: Sequence[str]) -> str | None:
    return next((word.removeprefix(flag) for word in words if word.startswith(flag)), None)


def _amount(node: Amounts, resource: str, accelerator: str | None) -> float:
    return node.get(resource, 0) if accelerator is None or TYPE + accelerator in node else 0


def _reported() -> ClusterLimits | None:
    """What a managed platform has put into Ray's control store; None where nobody did."""
    import ray

    config = ray._private.state.state.get_cluster_config()
    if config is None or not config.node_group_configs:
        return None
    groups = [(dict(group.resources), group.max_count) for group in config.node_group_configs]
    kinds = [NodeKind(resources, sys.maxsize if most < 0 else most) for resources, most in groups]  # -1: no limit
    return ClusterLimits(kinds, Autoscaler.READ)


def _on_the_head() -> ClusterLimits:
    """Look around on the head node, by a task, since this process may be elsewhere."""
    import ray

    node = ray._private.worker._global_node
    if node is not None and node.is_head():  # this process started it, for itself
        return ClusterLimits((), Autoscaler.NONE)
    look = ray.remote(limits_here).options(**ON_HEAD, max_retries=0)
    try:
        return ray.get(look.remote(ray.get_runtime_context().gcs_address), timeout=LOOK_S)
    except ray.exceptions.RayError:
        return ClusterLimits((), Autoscaler.UNKNOWN)
