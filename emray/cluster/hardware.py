"""What this command computes on, declared once: `resources.accelerator`, made concrete by what the cluster is.

Not for scheduling. The invariant: work meant for a GPU asks Ray for one, also where none is there yet, and computes on
nothing else; where it cannot be told what is meant, nothing is computed at all.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

from emray.cluster.supply import TYPE, Autoscaler, Supply, supply
from emray.errors import SpecError, StageError
from emray.spec import ResourcesSpec

SMALL_PARAMETERS = 100e6  # a CPU trains what is smaller within minutes; nobody means more than that by accident
UNKNOWN_GPUS = 8  # taken to come at a time where nobody can say how many may
TYPE_AMOUNT = 0.001  # of a node's one: Ray's way to ask for a type of GPU
FAKE_CLUSTER = "RAY_FAKE_CLUSTER"  # set by Ray's test clusters, whose GPU nodes are processes without a GPU


class NoGpuHere(StageError):
    """Ray has given a worker a GPU that torch does not see."""


@dataclass(frozen=True)
class Hardware:
    """GPUs or not, which, and how many there may be at a time."""

    gpu: bool
    accelerator: str | None  # Ray's name of the type of GPU that work asks for; None: any
    types: tuple[str, ...]  # Ray's names of the GPUs that the work may meet
    max_gpus: int
    max_cpus: int

    def demand(self, gpus: float) -> dict[str, float]:
        """What a worker asks Ray for so that it gets so many GPUs of the declared type."""
        typed = {TYPE + self.accelerator: TYPE_AMOUNT} if self.accelerator and gpus else {}
        return typed | ({"GPU": gpus} if gpus else {})

    def options(self, gpus: float) -> dict[str, Any]:
        """The same as options of a Ray task or actor."""
        demand = self.demand(gpus)
        return {"num_gpus": demand.pop("GPU", 0), "resources": demand}

    def waiting(self) -> str:
        """For a progress line: that work waits for a node the autoscaler has yet to start; empty when none does."""
        import ray

        wanted = self.demand(1) if self.gpu else {}
        if all(ray.cluster_resources().get(name, 0) >= amount for name, amount in wanted.items()):
            return ""
        return f"waiting for a GPU node ({self.accelerator})" if self.accelerator else "waiting for a GPU node"


ON_CPU = Hardware(gpu=False, accelerator=None, types=(), max_gpus=0, max_cpus=1)  # one CPU, and nothing else


def declare(resources: ResourcesSpec, *, parameters: float) -> Hardware:
    """What the connected cluster means for models of up to so many parameters (NaN: unknown). Raises SpecError."""
    return decide(resources, parameters=parameters, supply=supply())


def decide(resources: ResourcesSpec, *, parameters: float, supply: Supply) -> Hardware:
    """See `declare`."""
    wanted = resources.accelerator
    if wanted == "auto":
        wanted = _automatic(resources, parameters=parameters, supply=supply)
    if wanted == "cpu":
        return Hardware(False, None, (), 0, supply.most("CPU"))
    accelerator = None if wanted == "gpu" else _type_named(wanted, supply)
    most = supply.most("GPU", accelerator=accelerator)
    unknown = supply.limits.autoscaler == Autoscaler.UNKNOWN
    if not most and not unknown:
        raise SpecError(
            f"resources.accelerator: {wanted}, but this cluster has no GPU and no autoscaler that could add one; "
            "give the --address of one that has, or set accelerator to cpu"
        )
    _check_a_node_holds(resources, supply=supply, accelerator=accelerator)
    types = supply.types if accelerator is None else (accelerator,)
    return Hardware(True, accelerator, types, max(most, UNKNOWN_GPUS if unknown else 0), supply.most("CPU"))


def _automatic(resources: ResourcesSpec, *, parameters: float, supply: Supply) -> str:
    """`gpu` where there are or may be any, `cpu` for small models elsewhere. Raises SpecError in doubt."""
    if supply.most("GPU") or resources.gpus_per_trial:
        return "gpu"
    if parameters <= SMALL_PARAMETERS:
        return "cpu"
    size = "a model of unknown size" if math.isnan(parameters) else f"a model of {parameters:.2g} parameters"
    if supply.limits.autoscaler == Autoscaler.UNKNOWN:
        raise SpecError(
            f"no GPU is there, and whether this cluster adds GPU nodes for {size} cannot be read; "
            "set resources.accelerator to gpu (it is then waited for) or cpu"
        )
    raise SpecError(f"no GPU for {size}; give the --address of a cluster that has, or set resources.accelerator to cpu")


def _check_a_node_holds(resources: ResourcesSpec, *, supply: Supply, accelerator: str | None) -> None:
    """Ray would wait for ever for a node with more GPUs than any has."""
    if supply.limits.autoscaler == Autoscaler.UNKNOWN:
        return
    largest = supply.largest("GPU", accelerator=accelerator)
    for name in ("gpus_per_trial", "tensor_parallel"):
        if (getattr(resources, name) or 0) > largest:
            raise SpecError(
                f"resources.{name}: {getattr(resources, name):g}, but no node of this cluster has more than "
                f"{largest:g} GPUs{f' of type {accelerator}' if accelerator else ''}; lower it"
            )


def _type_named(wanted: str, supply: Supply) -> str:
    """Ray's spelling of a type of GPU. Raises SpecError for one that nobody has."""
    for name in supply.types:
        if name.lower() == wanted.lower():
            return name
    if supply.limits.autoscaler != Autoscaler.UNKNOWN:
        there = ", ".join(supply.types) or "none of a known type"
        raise SpecError(f"resources.accelerator: no node has {wanted!r}; this cluster's GPUs: {there}")
    from ray.util import accelerators

    known = (str(value) for name, value in vars(accelerators).items() if name.isupper())
    return next((name for name in known if name.lower() == wanted.lower()), wanted)


def device_here(*, gpu: bool) -> str:
    """torch's name for what this worker computes on, `cuda` when it was given a GPU.

    Raises NoGpuHere when it was given one and torch sees none, except on Ray's test clusters.
    """
    if not gpu:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get(FAKE_CLUSTER):
        return "cpu"
    raise NoGpuHere(
        f"a worker on {os.uname().nodename} was given a GPU, but torch {torch.__version__} sees none there; install "
        "the GPU builds on that node (pip install -e '.[gpu]'), or set resources.accelerator to cpu"
    )
