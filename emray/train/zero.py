"""One cell over several processes: DeepSpeed's ZeRO engine under Ray Train.

Not for scheduling (schedule.py), and the step's arithmetic is loop.py's. The invariant: the same examples make up each
optimizer step as on one worker, and every gradient is that of their mean loss per trained token.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import deepspeed
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from transformers.integrations import HfDeepSpeedConfig

from emray.errors import EmrayError
from emray.model.rows import RowForm
from emray.records import TrainJob
from emray.spec import TrainSpec
from emray.store import Store
from emray.train import adapter, builds
from emray.train.cell import CellRun, Lesson
from emray.train.cost import PREFETCHED, USUAL_PASS
from emray.train.loop import check_finite, num_trained
from emray.train.losses import pass_loss
from emray.train.order import shares
from emray.train.warm import WarmBase
from emray.train.zero_states import ShardedStates

if TYPE_CHECKING:
    from emray.train.trial import Shared

SCRATCH = ".ray-train"  # Ray Train's own folder, under the store because every node must see it


def train_cell(job: TrainJob, *, shared: "Shared", examples: Any) -> None:
    """Train one cell on `spec.num_workers` processes and publish it; `examples` is an ObjectRef.

    Raises the worker's EmrayError when the cell itself is at fault, and Ray's TrainingFailedError for the rest.
    """
    spec, resources, store = shared.spec, shared.resources, shared.store
    use_gpu = shared.on_gpu
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "examples": examples, "shared": replace(shared, jobs=(), row_refs={})},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=spec.num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": resources.cpus_per_trial}
            | shared.hardware.demand(1 if use_gpu else 0),
        ),
        run_config=ray.train.RunConfig(
            name=job.cell.key, storage_path=f"{store.root}/{SCRATCH}",
            worker_runtime_env={"env_vars": {} if use_gpu else {"DS_ACCELERATOR": "cpu"}},
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        ours = next((e for e in error.worker_failures.values() if isinstance(e, EmrayError)), None)
        if ours is None:
            raise
        raise ours from error
    finally:
        store.delete(f"{SCRATCH}/{job.cell.key}")
        if not store.folders(SCRATCH):
            store.delete(SCRATCH)


def train_worker(config: Mapping[str, Any]) -> None:
    """What each process does: load, shard, step, and on rank 0 publish."""
    shared: Shared = config["shared"]
    job: TrainJob = config["job"]
    spec = shared.spec
    torch.set_num_threads(shared.num_threads)
    device = ray.train.torch.get_device()
    builds.end_abandoned(builds.build_root())
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    settings = engine_settings(spec, on_gpu=device.type == "cuda")
    # transformers loads straight into ZeRO-3's shards while this object lives
    sharding = HfDeepSpeedConfig(settings) if settings["zero_optimization"]["stage"] == 3 else None
    base = WarmBase(
        job.model_path,
        device=device,
        gradient_checkpointing=spec.gradient_checkpointing,
        rendering=job.rendering,
    )
    rows = base.rows(job.rows_digest, examples={job.rows_digest: ray.get(config["examples"])}, form=RowForm.of(spec))
    (one,) = adapter.attach(base.model, spec=spec, seeds=[job.cell.seed]).each()
    budget = USUAL_PASS if shared.resources.token_budget == "auto" else shared.resources.token_budget
    run = CellRun(Lesson.of(job, rows, store=shared.store), one=one, base=base, spec=spec, token_budget=budget)
    del sharding
    train_sharded(run, settings=settings, store=shared.store, checkpoint_every=shared.resources.checkpoint_every)


def train_sharded(run: CellRun, *, settings: Mapping[str, Any], store: Store, checkpoint_every: int | None) -> None:
    """Every process calls this: all steps from the last kept state on, and what is to be published."""
    engine = _engine(run, settings=settings)
    sharded = ShardedSteps(run, engine=engine)
    states = ShardedStates(run, engine=engine, stage=settings["zero_optimization"]["stage"], store=store)
    states.resume()
    while not run.finished:
        sharded.step()
        keys = run.keys_due()
        if keys:
            publish(run, keys=keys, counts=sharded.counts(), gather=base_is_sharded(settings), store=store)
        if checkpoint_every and not run.finished and run.steps.done % checkpoint_every == 0:
            states.keep()
    states.forget()


def publish(run: CellRun, *, keys: Sequence[str], counts: Mapping[str, int], gather: bool, store: Store) -> None:
    """Every process calls this; rank 0 puts the adapter as it is now under the keys. With `gather` it is sharded."""
    told = {"num_workers": dist.get_world_size(), **counts}
    with deepspeed.zero.GatheredParameters(run.parameters) if gather else nullcontext():
        if dist.get_rank() == 0:
            for key in keys:
                run.publish(store, key=key, timing=told)
    dist.barrier()


def base_is_sharded(settings: Mapping[str, Any]) -> bool:
    return settings["zero_optimization"]["stage"] == 3


def engine_settings(spec: TrainSpec, *, on_gpu: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, under the user's JSON."""
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # micro-batches are ours: the engine is told where a step ends
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": on_gpu},
        "zero_optimization": {"stage": spec.zero_stage} | _prefetching(spec) | _offload(spec),
    }
    return _merge(ours, spec.deepspeed_settings())


def _prefetching(spec: TrainSpec) -> dict[str, Any]:
    """Layers come whole and ahead of their turn; what is as small as an adapter's matrix stays on every process: one
    collective for each of some four hundred took longer than a layer's products."""
    if spec.zero_stage != 3:
        return {}
    return {
        "overlap_comm": True,
        "stage3_param_persistence_threshold": 2_000_000,  # parameters
        "stage3_prefetch_bucket_size": PREFETCHED // 4,
        "stage3_max_live_parameters": PREFETCHED,
    }


def _offload(spec: TrainSpec) -> dict[str, Any]:
    optimizer = {"offload_optimizer": {"device": "cpu"}} if spec.offload != "none" else {}
    return optimizer | ({"offload_param": {"device": "cpu"}} if spec.offload == "parameters" else {})


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs over ours, section by section; "auto" (transformers' word) leaves it to us."""
    merged = dict(ours)
    for name, value in theirs.items():
        if isinstance(value, Mapping):
            merged[name] = _merge(merged.get(name, {}), value)
        elif value != "auto":
            merged[name] = value
    return merged


class ShardedSteps:
    """The optimizer steps of one cell, this process's share of each."""

    def __init__(self, run: CellRun, *, engine: Any) -> None:
        self._steps, self._engine, self._spec = run.steps, engine, run.spec
        self._rank, self._num_workers = dist.get_rank(), dist.get_world_size()

    def step(self) -> float:
        """One optimizer step; returns its mean loss per trained token over all workers."""
        started = time.perf_counter()
        steps = self._steps
        rows = steps.batch()
        num_targets = num_trained(rows)
        micros = shares([len(row.ids) for row in rows], num_workers=self._num_workers, token_budget=steps.token_budget)
        mine = micros[self._rank]
        local = torch.zeros(2, dtype=torch.float64, device=steps.device)  # cross-entropy, KL towards the base
        for number, chosen in enumerate(mine):
            steps.on_micro(steps.done, number * self._num_workers + self._rank)
            self._engine.set_gradient_accumulation_boundary(number == len(mine) - 1)
            # a worker without examples still runs a pass, at weight 0: ZeRO's collectives count them
            weight = 1.0 if chosen else 0.0
            micro = steps.lay([rows[index] for index in chosen or [0]])
            share = pass_loss(self._engine, micro, num_targets=num_targets, pull=steps.pull)
            self._engine.backward(share.total * weight * self._num_workers)  # the engine averages over workers
            local += torch.stack([share.entropy, share.divergence]).detach() * weight
        dist.all_reduce(local)
        loss, divergence = local.tolist()
        self._apply(loss + divergence)
        steps.count(loss, num_targets=num_targets, wall_s=time.perf_counter() - started, divergence=divergence)
        return loss

    def counts(self) -> dict[str, int]:
        """Tokens so far, of all workers."""
        tally = self._steps.tally
        counts = torch.tensor([tally.num_tokens_real, tally.num_tokens_padded], device=self._steps.device)
        dist.all_reduce(counts)
        return dict(zip(("num_tokens_real", "num_tokens_padded"), counts.tolist(), strict=True))

    def _apply(self, loss: float) -> None:
        check_finite(loss, step=self._steps.done, spec=self._spec)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._steps.learning_rate()
        self._engine.step()


def _engine(run: CellRun, *, settings: Mapping[str, Any]) -> Any:
    engine, *_ = deepspeed.initialize(
        model=run.model, optimizer=run.steps.optimizer, model_parameters=run.parameters, config=dict(settings)
    )
    return engine
