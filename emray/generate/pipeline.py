"""Ray Data over a pool of engines: blocks in, operators writing rows, progress out.

Not for what one engine does with a block (operator.py). The invariant: how many engines, threads and blocks there are
changes no row.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import ray.data
import ray.exceptions

from emray.cluster import ON_CPU, ON_HEAD, Hardware, live_nodes
from emray.context import Context
from emray.endpoint.access import Access
from emray.endpoint.batch.transport import ROUND
from emray.endpoint.pool import beside
from emray.errors import EmrayError, StageError
from emray.generate import vllm_engine
from emray.generate.block_attempts import MAX_ATTEMPTS, Attempt, BlockAttempts, BlockTally
from emray.generate.blocks import Block, by_adapter, num_adapters, num_samples, pack
from emray.generate.engine import EngineConfig, EngineName, Served, choose_engine, one_line
from emray.generate.operator import Generator, Ledger, as_table
from emray.model.weights import hosted_name
from emray.progress import Advance
from emray.records import Answerer, GenerationTask, Rendering
from emray.spec import GenerateSpec, ResourcesSpec
from emray.store import Store

CONCURRENT_CALLS = {"vllm": vllm_engine.CONCURRENT_CALLS, "transformers": 1, "openai": 4}
ENDPOINT_CPUS = 0.5  # of an engine that only asks another machine
WATCH_S = 0.5
SAMPLES_PER_BLOCK = 512  # twice what an engine decodes at once: borders are cheap, progress is seen


def generate(tasks: Iterable[GenerationTask], *, spec: GenerateSpec, context: Context) -> None:
    """See emray.generate.run."""
    for flow in streams(tasks, spec=spec, context=context):
        with flow.followed(context.advance):
            for _ in flow.rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                pass  # they are in the store


def streams(tasks: Iterable[GenerationTask], *, spec: GenerateSpec, context: Context) -> Iterator["Stream"]:
    """See emray.generate.streams."""
    for mine in _by_weights(tasks).values():
        yield stream(mine, spec=spec, context=context)


@dataclass(frozen=True)
class Stream:
    """One model's tasks as a lazy Ray Data pipeline, and where its engines tell what became of them."""

    rows: "ray.data.Dataset"  # tables of GENERATION_SCHEMA, each in the store before it is passed on
    engine: EngineName
    hardware: Hardware
    attempts: Any  # handle of the BlockAttempts actor

    @contextmanager
    def followed(self, advance: Advance) -> Iterator[None]:
        """While `rows` are taken, by whatever is chained to them, tell `advance` of blocks as they are written.

        Raises what an engine said before Ray gave up, or else Ray's own last line.
        """
        advance(0, self._starting())
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(advance, over), daemon=True)
        watcher.start()
        try:
            yield
        except ray.exceptions.RayError as error:
            raise self._explain(error) from None
        finally:
            over.set()
            watcher.join()

    def _starting(self) -> str:
        return self.hardware.waiting() or f"starting {self.engine}"

    def _watch(self, advance: Advance, over: threading.Event) -> None:
        told, started_s, ended, waits = BlockTally(), time.monotonic(), False, False
        while not ended:
            ended = over.wait(WATCH_S)  # and then once more
            try:
                tally: BlockTally = ray.get(self.attempts.tally.remote())
                heard: str = ray.get(self.attempts.heard.remote())
                if heard:
                    advance(0, heard)
                elif tally == BlockTally() and not waits:
                    advance(0, self._starting())
                waits = waits or bool(heard)
            except ray.exceptions.RayError:
                return  # Ray is going down, which those who take the rows will hear of
            if tally != told:
                rate = tally.num_tokens / (time.monotonic() - started_s)
                repeated = f", {tally.num_repeated} blocks repeated" if tally.num_repeated else ""
                advance(tally.num_answers - told.num_answers, f"{rate:,.0f} tokens/s{repeated}")
                told = tally

    def _explain(self, error: ray.exceptions.RayError) -> EmrayError:
        said: EmrayError | None = None
        with suppress(ray.exceptions.RayError):  # it may have gone with Ray's core
            said = ray.get(self.attempts.last_failure.remote())
        cause: BaseException = error  # Ray's own text ends in advice; what happened is at the bottom
        while (below := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = below
        return said or StageError(f"generation failed: {one_line(cause)}")


def stream(tasks: Sequence[GenerationTask], *, spec: GenerateSpec, context: Context) -> Stream:
    """Tasks that one engine takes, nothing started yet."""
    resources = context.resources
    engine = _engine_for(tasks, spec)
    elsewhere = engine == "openai"
    hardware = ON_CPU if elsewhere else context.declared
    num_engines = resources.engines or _default_engines(resources, hardware)
    blocks = pack(tasks, samples_per_block=_samples_per_block(spec))
    config = _engine_config(blocks, spec=spec, context=context, gpu=hardware.gpu)
    _quiet()
    attempts = ray.remote(BlockAttempts).options(**ON_HEAD).remote(most=MAX_ATTEMPTS, nodes=live_nodes)
    source = ray.data.from_arrow([as_table(number, block) for number, block in enumerate(blocks)])
    calls = 1 if _by_batch(spec) else CONCURRENT_CALLS[config.engine]
    rows = source.map_batches(
        Generator,
        batch_size=1,  # one row is one block; Ray Data refuses None where GPUs are asked for
        batch_format="pyarrow",
        fn_constructor_args=(config, context.store),
        fn_constructor_kwargs={"ledger": _ledger(attempts)},
        compute=ray.data.ActorPoolStrategy(
            size=min(num_engines, len(blocks)),
            max_concurrent_calls_per_actor=calls,
            max_tasks_in_flight_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        ),
        **_place(config, resources),
        **hardware.options(resources.tensor_parallel if hardware.gpu else 0),
        runtime_env={"env_vars": _environment(config)},
    )
    return Stream(rows, config.engine, hardware, attempts)


def _place(config: EngineConfig, resources: ResourcesSpec) -> dict[str, Any]:
    """CPUs, and for an endpoint on loopback the node."""
    if config.served is None:
        return {"num_cpus": resources.cpus_per_engine}
    return beside(config.served.access.base_url, num_cpus=ENDPOINT_CPUS)


def _samples_per_block(spec: GenerateSpec) -> int:
    """What an engine is handed at once: much, where batches take a day however few there are."""
    return ROUND if _by_batch(spec) else SAMPLES_PER_BLOCK


def _by_batch(spec: GenerateSpec) -> bool:
    return spec.endpoint.mode == "batch"  # which engine openai alone has


class _Loaded(NamedTuple):
    """What tasks of one engine have in common."""

    model: str  # a base model's location, or the key of a fully trained cell
    rendering: Rendering
    steered: bool  # those have an engine of their own


def _by_weights(tasks: Iterable[GenerationTask]) -> dict[_Loaded, list[GenerationTask]]:
    """Tasks by what an engine loads: a base model with its adapters, or a fully trained cell's own."""
    groups: dict[_Loaded, list[GenerationTask]] = {}
    for task in tasks:
        weights = task.weights
        model = task.trained if weights.answerer == Answerer.WHOLE else weights.location
        groups.setdefault(_Loaded(model, weights.rendering, weights.steering is not None), []).append(task)
    return groups


def _engine_for(tasks: Sequence[GenerationTask], spec: GenerateSpec) -> EngineName:
    """The sweep's engine; transformers alone lets a residual stream be pushed, and hosted models are asked there."""
    if hosted_name(tasks[0].weights.location):
        return "openai"
    return "transformers" if tasks[0].weights.steering else choose_engine(spec)


def _engine_config(blocks: Sequence[Block], *, spec: GenerateSpec, context: Context, gpu: bool) -> EngineConfig:
    tasks, resources = [task for block in blocks for task in block], context.resources
    adapted = by_adapter([task for task in tasks if task.weights.answerer == Answerer.ADAPTER])
    engine = _engine_for(tasks, spec)
    return EngineConfig(
        engine=engine,
        model_path=tasks[0].weights.location,
        rendering=tasks[0].weights.rendering,
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        prompts=tuple(dict.fromkeys(task.prompt.messages for task in tasks)),
        num_adapters=len(adapted),
        max_lora_rank=max(task.weights.rank for task in tasks),
        samples_per_adapter=min((num_samples(group) for group in adapted.values()), default=1),
        adapters_per_block=max(num_adapters(block) for block in blocks),
        threads=max(1, int(resources.cpus_per_engine)),
        tensor_parallel=resources.tensor_parallel if gpu else 1,
        gpu=gpu,
        served=_served(tasks, spec=spec, store=context.store) if engine == "openai" else None,
        whole_cell=tasks[0].trained if tasks[0].weights.answerer == Answerer.WHOLE else None,
    )


def _served(tasks: Sequence[GenerationTask], *, spec: GenerateSpec, store: Store) -> Served:
    """The names that the endpoint knows the tasks' cells by."""
    first, access = tasks[0], Access.read(spec.endpoint, base_url=spec.endpoint.base_url)
    alone = (task.weights.served_as for task in tasks if task.weights.answerer != Answerer.ADAPTER)
    base = next(alone, hosted_name(first.weights.location) or first.cell.model)
    adapters = {task.cell.key: task.weights.served_as for task in tasks if task.weights.answerer == Answerer.ADAPTER}
    if adapters and hosted_name(first.weights.location):  # the service has named what it tuned
        records = store.adapter_records()
        adapters = {key: records[key].served_as or "" for key in adapters}
    return Served(spec.endpoint, access, base, adapters, store.root)


def _default_engines(resources: ResourcesSpec, hardware: Hardware) -> int:
    """One per GPU (or group of GPUs) that there may be; without GPUs one."""
    return max(1, hardware.max_gpus // resources.tensor_parallel) if hardware.gpu else 1


def _environment(config: EngineConfig) -> dict[str, str]:
    if config.served is not None:
        return {}
    if config.engine == "vllm":
        return vllm_engine.environment(config)
    return {"OMP_NUM_THREADS": str(config.threads), "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}


def _ledger(attempts: Any) -> Ledger:
    """BlockAttempts as plain functions, so that the operator knows nothing of Ray."""

    def begun(block: int) -> int:
        return ray.get(attempts.begun.remote(block))

    def begin(block: int) -> Attempt:
        return ray.get(attempts.begin.remote(block, ray.get_runtime_context().get_node_id()))

    def finish(block: int, tally: BlockTally) -> None:
        ray.get(attempts.finish.remote(block, tally))

    def fail(block: int, error: EmrayError) -> None:
        ray.get(attempts.fail.remote(block, error))

    def hear(note: str) -> None:
        attempts.hear.remote(note)

    return Ledger(begun, begin, finish, fail, hear)


def _quiet() -> None:
    """Ray Data's bars and notices off: the command has its own progress line, and its own last line for an error.

    Its log file still has them.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
