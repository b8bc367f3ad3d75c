"""vLLM: many LoRA adapters in one engine, n samples of a prompt in one request, calls that overlap.

Not for placing engines (pipeline.py). vLLM is imported when an engine starts, never with this module. The invariant:
only the serving thread touches the engine; callers hand it work and wait for their own results.
"""

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emray.errors import StageError
from emray.generate.engine import Adapter, EngineConfig, EngineDied, Finished, Sample, SampleRequest, failed, one_line
from emray.model.chat import Chat
from emray.model.facts import num_parameters
from emray.model.weights import NO_CODE
from emray.records import FinishReason

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's LoRAConfig allows (0.32)
MAX_SEQUENCES = 256  # sequences decoded together
BATCHED_TOKENS = 8192  # prompt tokens prefilled in one step
MAX_LORA_SLOTS = 32  # adapters in one batch; each slot costs the memory of the largest adapter
CONCURRENT_CALLS = 2  # one block decodes while the next is admitted, so batches stay full at block borders
MIN_KV_BYTES = 64 << 20
EAGER_MAX_PARAMETERS = 1e8  # below, compiling and recording take longer than a study's answers
# Batches recorded as CUDA graphs, and one recording serves answers with and without an adapter: left to itself, vLLM
# records 172 (51 sizes, with and without adapters, decoding alone and mixed with prompts), most of an engine's start.
GRAPHS = {
    "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256],
    "cudagraph_specialize_lora": False,
}


def environment(config: EngineConfig) -> dict[str, str]:
    """Variables the engine's process must be born with.

    The engine stays in the actor's own process: a second one would import torch and vllm again (about 10 s). OpenMP
    threads are neither pinned nor spinning: pinned spinning threads that share a core with any other process made
    decoding ten times slower here.
    """
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    private = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
    cpu = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(config.threads),
        "OMP_WAIT_POLICY": "passive",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }
    process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    return {**quiet, **private, **process, **({} if config.gpu else cpu)}


def allowed_rank(rank: int) -> int:
    """The smallest max_lora_rank vLLM allows for an adapter of this rank. Raises StageError."""
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise StageError(f"LoRA rank {rank} is more than vllm serves ({LORA_RANKS[-1]}); use generate.engine: transformers")


@dataclass
class _Call:
    """One caller's requests and the queue its results come back on."""

    requests: Sequence[SampleRequest]
    results: "queue.SimpleQueue[Finished | EngineDied]" = field(default_factory=queue.SimpleQueue)


class VllmEngine:
    """An Engine around vLLM's LLMEngine."""

    name = "vllm"

    def __init__(self, config: EngineConfig) -> None:
        import vllm

        self.version: str = vllm.__version__
        self._config = config
        self._chat = Chat(config.model_path, rendering=config.rendering)
        self._window = self._chat.window(config.prompts, max_tokens=config.max_tokens)
        self._engine = _load(config, window=self._window)
        self._lora_ids: dict[str, int] = {}
        self._unloadable: dict[str, str] = {}
        self._waiting: dict[str, tuple[_Call, int]] = {}  # request id -> whose, and its position there
        self._queue: deque[tuple[_Call, int]] = deque()  # taken over, not yet submitted
        self._serving_base = False  # whether the requests under way are the base model's
        self._num_requests = 0
        self._inbox: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="vllm", daemon=True).start()

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        """See Engine.generate. May be called from several threads at once."""
        call = _Call(requests)
        self._inbox.put(call)
        for _ in requests:
            result = call.results.get()
            if isinstance(result, EngineDied):
                raise result
            yield result

    # The serving thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while True:
                self._admit()
                for output in self._engine.step() if self._waiting else ():
                    self._deliver(output)
        except Exception as error:  # noqa: BLE001  whatever an engine raises, it cannot be trusted afterwards
            self._refuse(EngineDied(f"vllm: {one_line(error)}"))

    def _refuse(self, death: EngineDied) -> None:
        """Tell every caller, the waiting ones and those still to come."""
        for call in {id(call): call for call, _ in (*self._waiting.values(), *self._queue)}.values():
            call.results.put(death)
        while True:
            self._inbox.get().results.put(death)

    def _admit(self) -> None:
        """Take over new calls and submit what may run now; with nothing to do, wait for a call."""
        while True:
            try:
                call = self._inbox.get(block=not self._waiting and not self._queue)
            except queue.Empty:
                break
            self._queue.extend((call, index) for index in range(len(call.requests)))
            for adapter in {request.adapter for request in call.requests if request.adapter}:
                _read_ahead(adapter)
        self._submit_allowed()

    def _submit_allowed(self) -> None:
        """Submit queued requests in order, base model and adapters never together on a CPU.

        vLLM's CPU operations index adapter slots with -1 for requests without an adapter, which is the last slot: in
        a mixed batch the base model answered as whatever adapter lay there (0.32; seen against transformers).
        DenseLora mends that for linear layers; this keeps the control clean for every kind of layer.
        """
        while self._queue:
            call, index = self._queue[0]
            is_base = call.requests[index].adapter is None
            if self._waiting and is_base != self._serving_base and not self._config.gpu:
                return
            self._queue.popleft()
            self._serving_base = is_base
            self._submit(call, index, call.requests[index])

    def _submit(self, call: _Call, index: int, request: SampleRequest) -> None:
        ids = self._chat.encode(request.messages)
        if len(ids) >= self._window:
            error = f"the prompt has {len(ids)} tokens, the model's context {self._chat.context}"
            call.results.put(failed(index, request, FinishReason.OVERSIZED, error=error, prompt_tokens=len(ids)))
            return
        lora, error = self._lora(request.adapter) if request.adapter else (None, "")
        if error:
            call.results.put(failed(index, request, FinishReason.ERROR, error=error, prompt_tokens=len(ids)))
            return
        self._num_requests += 1
        params = self._sampling(request, max_tokens=min(self._config.max_tokens, self._window - len(ids)))
        # add_request makes the id unique by a suffix, which outputs do not carry: they come back under ours.
        name = str(self._num_requests)
        self._waiting[name] = (call, index)
        self._engine.add_request(name, {"prompt_token_ids": ids}, params, lora_request=lora)

    def _sampling(self, request: SampleRequest, *, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        greedy = self._config.temperature == 0  # one answer stands for all: vLLM refuses n > 1 there
        return SamplingParams(
            n=1 if greedy else len(request.seeds),
            seed=request.seeds[0],  # vLLM gives child i the seed + i
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            max_tokens=max_tokens,
            stop_token_ids=list(self._chat.stop_ids),
            detokenize=False,  # answers are decoded once, when they are complete
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _lora(self, adapter: Adapter) -> tuple[Any, str]:
        """The adapter, read from disk when it is new; and what is wrong with it."""
        from vllm.lora.request import LoRARequest

        if adapter.name in self._unloadable:
            return None, self._unloadable[adapter.name]
        number = self._lora_ids.get(adapter.name)
        new = number is None
        if number is None:
            number = self._lora_ids[adapter.name] = len(self._lora_ids) + 1
        lora = LoRARequest(adapter.name, number, str(adapter.folder))
        if new:
            try:
                self._engine.add_lora(lora)
            except Exception as error:  # noqa: BLE001  whatever a file makes it raise, only this adapter is lost
                self._unloadable[adapter.name] = f"vllm cannot load the adapter: {one_line(error)}"
                return None, self._unloadable[adapter.name]
        return lora, ""

    def _deliver(self, output: Any) -> None:
        call, index = self._waiting.pop(output.request_id)
        texts = self._chat.decode([completion.token_ids for completion in output.outputs])
        ordered = sorted(zip(output.outputs, texts, strict=True), key=lambda pair: pair[0].index)
        samples = tuple(_sample(completion, text) for completion, text in ordered)
        if len(samples) == 1:
            samples *= len(call.requests[index].seeds)
        call.results.put(Finished(index, samples, len(output.prompt_token_ids)))


def _read_ahead(adapter: Adapter) -> None:
    """Have the system read the adapter into memory by the time it is needed: no step then waits for a disk."""
    for path in adapter.folder.glob("*.safetensors") if hasattr(os, "posix_fadvise") else ():
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)


def _sample(completion: Any, text: str) -> Sample:
    reasons = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
    return Sample(text, reasons.get(completion.finish_reason, FinishReason.ERROR), len(completion.token_ids))


def _load(config: EngineConfig, *, window: int) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments: dict[str, Any] = {
        "model": config.model_path,
        "load_format": "safetensors",  # and no code of the model's own: trust_remote_code is False
        "max_model_len": window,
        "generation_config": "vllm",  # its own neutral defaults, not the model's
        "max_num_seqs": MAX_SEQUENCES,
        "tensor_parallel_size": config.tensor_parallel,
        # The GPUs are this actor's: left to itself, vLLM sees Ray and asks it for others.
        "distributed_executor_backend": "mp" if config.tensor_parallel > 1 else None,
        "enable_prefix_caching": True,
        # A prompt prefilled in pieces draws from its generator once a piece; vLLM rewinds that only approximately on
        # a GPU and dies on a CPU ("CPU Generator does not use offset", 0.32). Prompts are short: take them whole.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(BATCHED_TOKENS, window),
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "seed": 0,
        **_lora_arguments(config),
    }
    if config.tensor_parallel == 1:
        _register_without_subprocess(config.model_path)
    if config.gpu:
        arguments |= _gpu_arguments(config)
    else:
        from emray.generate.vllm_cpu_lora import use_in_this_process

        use_in_this_process()
        kv_bytes = _kv_bytes(config.model_path, num_tokens=MAX_SEQUENCES * window)
        arguments |= {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": kv_bytes}
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _gpu_arguments(config: EngineConfig) -> Mapping[str, Any]:
    """What makes an engine start sooner. What vLLM compiles for a model stays in its cache for the next engine."""
    if num_parameters(config.model_path) < EAGER_MAX_PARAMETERS:
        return {"enforce_eager": True, "enable_flashinfer_autotune": False}
    return {"compilation_config": GRAPHS, "enable_flashinfer_autotune": False}


def _lora_arguments(config: EngineConfig) -> Mapping[str, Any]:
    """Slots for the adapters of a full batch and its neighbours, and a cache for those of all blocks under way."""
    if config.num_adapters == 0:
        return {"enable_lora": False}
    in_batch = math.ceil(MAX_SEQUENCES / config.samples_per_adapter) + 1
    slots = min(config.num_adapters, in_batch, MAX_LORA_SLOTS)
    under_way = (CONCURRENT_CALLS + 1) * config.adapters_per_block
    return {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": max(slots, min(config.num_adapters, under_way)),
        "max_lora_rank": allowed_rank(config.max_lora_rank),
    }


def _register_without_subprocess(model_path: str) -> None:
    """Register the model's class as loaded: otherwise vLLM inspects it in a fresh interpreter (about 12 s once).

    It does so to keep CUDA out of a parent that forks, which an engine in its own process need not fear.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    for name in AutoConfig.from_pretrained(model_path, **NO_CODE).architectures or ():
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def _kv_bytes(model_path: str, *, num_tokens: int) -> int:
    """Bytes of a float32 key-value cache for so many tokens, at most a quarter of the memory."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path, **NO_CODE).get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    need = num_tokens * 2 * config.num_hidden_layers * kv_heads * head_dim * 4
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MIN_KV_BYTES, min(need, memory // 4))
