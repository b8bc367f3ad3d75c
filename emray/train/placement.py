"""What a trial asks Ray for: which nodes, how many GPUs, how many processes, how many adapters a step.

Not for what hardware there is (cluster/hardware.py), the order of cells (queue.py) or arithmetic (cost.py). The
invariant: a cell meant for a GPU asks for one, whatever is there at the moment.
"""

import math
from collections.abc import Mapping, Sequence

from ray.tune.execution.placement_groups import PlacementGroupFactory

from emray.cluster import Hardware
from emray.errors import SpecError
from emray.model.facts import num_parameters, shape_from_config
from emray.model.weights import NO_CODE, split_location
from emray.records import Messages, TrainJob
from emray.spec import ResourcesSpec, TrainSpec
from emray.train.cost import (
    CPU,
    GPUS,
    USUAL_PASS,
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


def bundles(
    spec: TrainSpec, resources: ResourcesSpec, hardware: Hardware, *, avoid: Sequence[str] = ()
) -> PlacementGroupFactory:
    """What one trial asks Ray for, on any node but those to avoid; nothing where Ray Train's workers ask themselves.

    A trial that avoids a node gets a worker of its own: Tune hands a warm one on only to trials that ask for the same.
    """
    if spec.strategy == "deepspeed":
        return PlacementGroupFactory([{"memory": WAITING_TRIAL_BYTES}])
    bundle = {"CPU": resources.cpus_per_trial} | hardware.demand(gpus_per_process(resources, hardware))
    if not avoid:
        return PlacementGroupFactory([bundle])
    return PlacementGroupFactory([bundle], bundle_label_selector=[{NODE_LABEL: f"!in({', '.join(avoid)})"}])


def concurrency(spec: TrainSpec, resources: ResourcesSpec, hardware: Hardware) -> int:
    """Trials under way at a time: with DeepSpeed as many as the cluster may ever hold, so that few groups queue."""
    if spec.strategy != "deepspeed":
        return MAX_PENDING
    fits = hardware.max_cpus // (resources.cpus_per_trial * spec.num_workers)
    gpus = gpus_per_process(resources, hardware)
    if gpus:
        fits = min(fits, hardware.max_gpus // (gpus * spec.num_workers))
    return max(1, int(fits))


def gpus_per_process(resources: ResourcesSpec, hardware: Hardware) -> float:
    """One where the run is meant for GPUs, unless the sweep file says otherwise."""
    if not hardware.gpu:
        return 0.0
    return 1.0 if resources.gpus_per_trial is None else resources.gpus_per_trial


def auto_strategy(
    jobs: Sequence[TrainJob], *, spec: TrainSpec, resources: ResourcesSpec, hardware: Hardware
) -> Strategy:
    """What the largest of the models needs on the declared GPUs. Raises SpecError when their kind is not known."""
    from transformers import AutoConfig  # not light, and needed here alone

    places = {split_location(job.model_path) for job in jobs}
    configs = [AutoConfig.from_pretrained(name, revision=revision, **NO_CODE).to_dict() for name, revision in places]
    shape = max((shape_from_config(config) for config in configs), key=lambda shape: shape.num_parameters)
    gpu = smallest_gpu(resources, hardware) if gpus_per_process(resources, hardware) else None
    budget = None if resources.token_budget == "auto" else resources.token_budget
    return choose_strategy(shape, spec=spec, token_budget=budget, gpu=gpu)


def adapters_per_step(
    jobs: Sequence[TrainJob],
    *,
    datasets: Mapping[str, Sequence[Messages]],
    spec: TrainSpec,
    resources: ResourcesSpec,
    hardware: Hardware,
) -> AdaptersPerStep:
    """What the sweep file says, or for `auto` what was measured to pay for the largest model and longest rows."""
    if spec.strategy != "single":
        return AdaptersPerStep(1, f"1 adapter a step: strategy {spec.strategy} trains cells singly")
    if resources.adapters_per_step != "auto":
        return AdaptersPerStep(resources.adapters_per_step, "as resources.adapters_per_step says")
    gpus = [resources.gpu] if resources.gpu else sheet_names(hardware)
    device = (gpus or ["a GPU of no type"])[0].lower() if gpus_per_process(resources, hardware) else CPU
    rows = [datasets[job.rows_digest] for job in jobs]
    sizes = [num_parameters(job.model_path) for job in jobs]
    return choose_adapters_per_step(
        math.nan if any(map(math.isnan, sizes)) else max(sizes),
        device=device,
        tokens_a_step=spec.batch_size * max(num_tokens(some, spec=spec) / spec.epochs / len(some) for some in rows),
        token_budget=USUAL_PASS if resources.token_budget == "auto" else resources.token_budget,
    )


def smallest_gpu(resources: ResourcesSpec, hardware: Hardware) -> Gpu:
    """The GPU of `resources.gpu`, else the one with the least memory that the work may meet."""
    if resources.gpu is not None:
        return gpu_named(resources.gpu)
    names = sheet_names(hardware)
    unknown = [name for name in names if name not in GPUS]
    if unknown or not names:
        raise SpecError(
            f"train.strategy auto does not know this GPU ({', '.join(unknown) or 'no type'}); set resources.gpu"
        )
    return min((GPUS[name] for name in names), key=lambda gpu: gpu.memory_bytes)


def sheet_names(hardware: Hardware) -> list[str]:
    """The declared GPUs as data sheets are filed, without their memory: h100 for H100-80G."""
    return [name.lower().split("-")[0] for name in hardware.types]
