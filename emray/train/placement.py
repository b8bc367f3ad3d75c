"""What a trial takes of this cluster: which nodes, how many GPUs, how many processes, how many adapters a step.

Not for the order of cells (queue.py) or for arithmetic without a cluster (cost.py). The invariant: it only looks.
"""

import math
from collections.abc import Mapping, Sequence

import ray
from ray.tune.execution.placement_groups import PlacementGroupFactory

from emray.errors import SpecError
from emray.model.facts import num_parameters, shape_from_config
from emray.model.weights import split_location
from emray.records import Messages, TrainJob
from emray.spec import ResourcesSpec, TrainSpec
from emray.train.cost import (
    CPU,
    GPUS,
    AdaptersPerStep,
    Gpu,
    Strategy,
    choose_adapters_per_step,
    choose_strategy,
    gpu_named,
    num_tokens,
)

MAX_PENDING = 200  # cells that ask for resources at a time; enough for an autoscaler to see demand
WAITING_TRIAL_BYTES = 2**20  # Tune refuses a trial that asks for nothing
NODE_LABEL = "ray.io/node-id"  # every node carries it


def bundles(spec: TrainSpec, resources: ResourcesSpec, *, avoid: Sequence[str] = ()) -> PlacementGroupFactory:
    """What one trial asks Ray for, on any node but those to avoid; nothing where Ray Train's workers ask themselves.

    A trial that avoids a node gets a worker of its own: Tune hands a warm one on only to trials that ask for the same.
    """
    if spec.strategy == "deepspeed":
        return PlacementGroupFactory([{"memory": WAITING_TRIAL_BYTES}])
    gpus = gpus_per_process(resources)
    bundle = {"CPU": resources.cpus_per_trial} | ({"GPU": gpus} if gpus else {})
    if not avoid:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory([bundle], bundle_label_selector=[{NODE_LABEL: f"!in({', '.join(avoid)})"}])


def nodes_that_hold(bundle: Mapping[str, float]) -> set[str]:
    """Ids of the live nodes that are large enough for a bundle, free or not."""
    return {
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in bundle.items())
    }


def concurrency(spec: TrainSpec, resources: ResourcesSpec) -> int:
    """Trials under way at a time: with DeepSpeed as many as the cluster holds now, so that no worker group starves."""
    if spec.strategy != "deepspeed":
        return MAX_PENDING
    cluster = ray.cluster_resources()
    fits = cluster.get("CPU", 1) // (resources.cpus_per_trial * spec.num_workers)
    gpus = gpus_per_process(resources)
    if gpus:
        fits = min(fits, cluster["GPU"] // (gpus * spec.num_workers))
    return max(1, int(fits))


def gpus_per_process(resources: ResourcesSpec) -> float:
    """One where the cluster has any, unless the sweep file says otherwise."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def auto_strategy(jobs: Sequence[TrainJob], *, spec: TrainSpec, resources: ResourcesSpec) -> Strategy:
    """What the largest of the models needs on this cluster's GPUs. Raises SpecError when their kind is not known."""
    from transformers import AutoConfig  # not light, and needed here alone

    places = {split_location(job.model_path) for job in jobs}
    configs = [AutoConfig.from_pretrained(name, revision=revision).to_dict() for name, revision in places]
    shape = max((shape_from_config(config) for config in configs), key=lambda shape: shape.num_parameters)
    gpu = cluster_gpu(resources) if gpus_per_process(resources) else None
    return choose_strategy(shape, spec=spec, token_budget=resources.token_budget, gpu=gpu)


def adapters_per_step(
    jobs: Sequence[TrainJob],
    *,
    datasets: Mapping[str, Sequence[Messages]],
    spec: TrainSpec,
    resources: ResourcesSpec,
) -> AdaptersPerStep:
    """What the sweep file says, or for `auto` what was measured to pay for the largest model and longest rows."""
    if spec.strategy != "single":
        return AdaptersPerStep(1, f"1 adapter a step: strategy {spec.strategy} trains cells singly")
    if resources.adapters_per_step != "auto":
        return AdaptersPerStep(resources.adapters_per_step, "as resources.adapters_per_step says")
    gpus = [resources.gpu] if resources.gpu else _gpu_names()
    device = (gpus or ["a GPU of no type"])[0].lower() if gpus_per_process(resources) else CPU
    rows = [datasets[job.rows_digest] for job in jobs]
    sizes = [num_parameters(job.model_path) for job in jobs]
    return choose_adapters_per_step(
        math.nan if any(map(math.isnan, sizes)) else max(sizes),
        device=device,
        tokens_a_step=spec.batch_size * max(num_tokens(some, spec=spec) / spec.epochs / len(some) for some in rows),
        token_budget=resources.token_budget,
    )


def cluster_gpu(resources: ResourcesSpec) -> Gpu:
    """The GPU of `resources.gpu`, else the one Ray has seen."""
    seen = _gpu_names()
    known = [name for name in seen if name in GPUS]
    if resources.gpu is None and not known:
        raise SpecError(
            f"train.strategy auto does not know this GPU ({', '.join(seen) or 'no type'}); set resources.gpu"
        )
    return gpu_named(resources.gpu or known[0])


def _gpu_names() -> list[str]:
    """As Ray has seen them, without their memory: h100 for H100-80G."""
    prefix = "accelerator_type:"
    names = (name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))
    return [name.lower().split("-")[0] for name in names]
