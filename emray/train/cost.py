"""What training takes before it is tried: GPU-hours from FLOPs, memory from shapes, and the strategy that fits.

Pure arithmetic on configurations; imports neither torch nor Ray. Not for measurements (records hold those). The
invariant: every number comes with its formula, which ARCHITECTURE.md repeats.

    FLOPs      a trained token costs 4 P: 2 P forward, 2 P for gradients of activations; frozen weights need none of
               their own. With gradient checkpointing 6 P, as the forward pass runs twice. With a KL towards the
               base 2 P more, a forward pass of the bare base; such steps are not compiled.
    GPU-hours  tokens x FLOPs / (peak x utilisation)
    memory     weights + adapters (16 bytes a parameter: value, gradient, two moments) + what the layers of the compiled
               step keep of a pass + the most of what one layer's backward pass or the output head takes meanwhile
               + a gibibyte and a half for the runtime; benchmarks/gpu_memory.py measures it
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from emray.errors import SpecError
from emray.model.facts import ModelShape
from emray.records import USUAL_COURSE, Course, Messages
from emray.spec import ALL_LINEAR, TrainSpec

GIB = 2**30
CHARACTERS_PER_TOKEN = 4.0  # English, byte-level BPE
EAGER = 0.16  # of peak, of a step that is not compiled: 7B, passes of 4,096 tokens on an H100, 2026-11-25
UTILISATION = 0.40  # of peak, assumed of GPUs that nobody has measured; benchmarks/gpu_train.py measures it
SMALL = 2e9  # parameters: below, passes of a step's few thousand tokens do not fill a card
RUNTIME_BYTES = 1.5 * GIB
USABLE = 0.92  # of a GPU's memory, the rest is lost to fragmentation
HEAD_TOKENS = 1024  # whose logits exist at a time: [1024, 152k] in bf16 are 0.3 GiB
MAX_PASS = 16_384  # tokens; larger ones were no faster on an H100
MIN_PASS = 2048  # below, recomputing activations of larger ones is faster
USUAL_PASS = 8192  # on a CPU, and where weights are sharded
PREFETCHED = 1_000_000_000  # parameters that a process holds whole of a sharded model
TRAINED_SHARE = 0.5  # of tokens whose logits are computed: answers, not prompts
MAX_WORKERS = 64
CPU = "cpu"  # beside the names of GPUs


class Gpu(NamedTuple):
    """A GPU as its data sheet has it: dense bf16 FLOP/s and memory; of what share of the peak training makes use."""

    flops: float
    memory_bytes: float
    utilisation: float = UTILISATION
    utilisation_small: float = UTILISATION  # of models below SMALL

    def used(self, parameters: float) -> float:
        """The share for a model of this size."""
        return self.utilisation_small if parameters < SMALL else self.utilisation


GPUS = {
    "h100": Gpu(989e12, 80 * GIB, 0.47, 0.18),  # 7B and 0.5B, 16 examples a step, dropout .05, 2026-11-25
    "h200": Gpu(989e12, 141 * GIB),
    "a100": Gpu(312e12, 80 * GIB),
    "l40s": Gpu(362e12, 48 * GIB),
    "rtx4090": Gpu(165e12, 24 * GIB),
}


class Mixing(NamedTuple):
    """Where several adapters a step were faster than one: so many, on models of up to so many parameters."""

    adapters: int
    max_parameters: float


# By device. One gets a line when its benchmark shows at least a fifth more adapters per hour: benchmarks/train.py
# --mixed on a CPU, where a toy step is bound by arithmetic already, benchmarks/gpu_train.py on a GPU.
MIXING: dict[str, Mixing] = {}


class Strategy(NamedTuple):
    """How a cell is spread, tokens of a pass (None: as without it), and the sentence that says why."""

    spec: TrainSpec
    token_budget: int | None
    reason: str


def gpu_named(name: str) -> Gpu:
    """Raises SpecError for a GPU whose data sheet is not here."""
    if name.lower() not in GPUS:
        raise SpecError(f"resources.gpu: {name!r} is not known; allowed: {', '.join(GPUS)}")
    return GPUS[name.lower()]


def num_tokens(examples: Sequence[Messages], *, spec: TrainSpec) -> float:
    """Tokens a cell trains on over all epochs, by the usual characters per token."""
    lengths = (sum(len(m.content) for m in example) / CHARACTERS_PER_TOKEN for example in examples)
    return spec.epochs * sum(min(length, spec.max_length) for length in lengths)


def gpu_hours(tokens: float, *, parameters: float, spec: TrainSpec, gpu: Gpu, course: Course = USUAL_COURSE) -> float:
    """Hours of one GPU for these tokens at the share of its peak that was measured."""
    used = min(gpu.used(parameters), EAGER) if course.kl else gpu.used(parameters)
    return tokens * flops_a_token(spec, course) * parameters / (gpu.flops * used) / 3600


def flops_a_token(spec: TrainSpec, course: Course = USUAL_COURSE) -> int:
    """Of training, for each parameter."""
    return (6 if spec.gradient_checkpointing else 4) + (2 if course.kl else 0)


def adapter_parameters(shape: ModelShape, *, spec: TrainSpec) -> int:
    """Trained parameters of one adapter: r x (inputs + outputs) of every adapted module."""
    layers = len(spec.layers) if spec.layers is not None else shape.num_layers
    targets = shape.linears if spec.target_modules == ALL_LINEAR else spec.target_modules
    sizes = (shape.linears[name] for name in targets if name in shape.linears)
    return layers * spec.lora_rank * sum(inputs + outputs for inputs, outputs in sizes)


def memory_bytes(shape: ModelShape, *, spec: TrainSpec, token_budget: int) -> float:
    """Of one GPU training in bf16 with the compiled step: what its tensors take at most, and the runtime."""
    return allocated_bytes(shape, spec=spec, token_budget=token_budget) + RUNTIME_BYTES


def allocated_bytes(shape: ModelShape, *, spec: TrainSpec, token_budget: int) -> float:
    """The peak of torch's allocator in a step whose passes hold `token_budget` tokens."""
    own = 2 * shape.num_parameters + 16 * adapter_parameters(shape, spec=spec)
    layer = token_budget * _kept_bytes(shape, spec=spec)
    at_work = token_budget * 2 * (4 if spec.lora_dropout else 3) * shape.intermediate  # gradients within a layer
    head = HEAD_TOKENS * 4 * shape.vocabulary  # logits and their gradient
    num_layers = shape.num_layers - min(spec.layers or [0])  # nothing is kept below the first adapted one
    if spec.gradient_checkpointing:
        return own + token_budget * 2 * shape.hidden * num_layers + max(layer + at_work, head)
    return own + layer * num_layers + max(at_work, head)


def _kept_bytes(shape: ModelShape, *, spec: TrainSpec) -> int:
    """What a layer keeps of a token for its backward pass: inputs of norms, attention's, the MLP's two factors, and
    the inputs of adapted modules."""
    every = shape.linears
    adapted = set(every if spec.target_modules == ALL_LINEAR else spec.target_modules) & set(every)
    width = every["q_proj"][1]
    values = 2 * shape.hidden + 2 * width + 2 * shape.kv_width + 2 * shape.intermediate + spec.lora_rank * len(adapted)
    blocks = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]
    values += sum((2 if spec.lora_dropout else 1) * shape.hidden for block in blocks if block & adapted)
    values += shape.intermediate if "down_proj" in adapted else 0
    return 2 * values + 4 * (shape.num_heads + 2)


def sharded_bytes(shape: ModelShape, *, spec: TrainSpec, token_budget: int, num_workers: int) -> float:
    """Of one GPU of several that share the weights (ZeRO-3) and take the eager step."""
    whole = min(PREFETCHED, shape.num_parameters)  # the layers at work and those to come
    weights = 2 * (shape.num_parameters / num_workers + whole)
    layer = 2 * (10 * shape.hidden + 4 * shape.kv_width + 5 * shape.intermediate)  # bytes a token, bf16
    kept = 2 * shape.hidden * shape.num_layers + layer if spec.gradient_checkpointing else layer * shape.num_layers
    logits = TRAINED_SHARE * shape.vocabulary * (2 + 4 + 4)  # bf16, float32 and its gradient
    return weights + 16 * adapter_parameters(shape, spec=spec) + token_budget * (kept + logits) + RUNTIME_BYTES


def pass_size(token_budget: int | Literal["auto"], *, shape: ModelShape, spec: TrainSpec, gpu_bytes: float) -> int:
    """Tokens of a pass on this GPU (`gpu_bytes` 0: a CPU). Where nothing is known to fit, the smallest is tried."""
    if token_budget != "auto":
        return token_budget
    if not gpu_bytes:
        return USUAL_PASS
    return largest_pass(shape, spec=spec, room_bytes=USABLE * gpu_bytes) or MIN_PASS


def largest_pass(shape: ModelShape, *, spec: TrainSpec, room_bytes: float, at_most: int = MAX_PASS) -> int | None:
    """Tokens of the largest pass that fits: `at_most`, half of it, a quarter ...; None: not even MIN_PASS does."""
    size = at_most
    while size >= min(MIN_PASS, at_most):
        if memory_bytes(shape, spec=spec, token_budget=size) <= room_bytes:
            return size
        size //= 2
    return None


def choose_strategy(shape: ModelShape, *, spec: TrainSpec, token_budget: int | None, gpu: Gpu | None) -> Strategy:
    """In this order: one GPU with a pass that fits, one that recomputes activations, ZeRO-3 over the fewest that hold
    the model. `token_budget` None: as large a pass as pays. Raises SpecError when none do."""
    if gpu is None:
        return Strategy(_single(spec), token_budget, "single: there is no GPU")
    room, at_most = USABLE * gpu.memory_bytes, token_budget or MAX_PASS
    for recompute in sorted({spec.gradient_checkpointing, True}):
        tried = spec.model_copy(update={"gradient_checkpointing": recompute})
        size = largest_pass(shape, spec=tried, room_bytes=room, at_most=at_most)
        if size is not None:
            needed = memory_bytes(shape, spec=tried, token_budget=size)
            how = ", activations recomputed" if recompute else ""
            told = f"{_gib(needed)} of {_gib(gpu.memory_bytes)} a GPU, weights {_gib(2 * shape.num_parameters)}"
            return Strategy(_single(tried), size, f"single: passes of {size:,} tokens{how}: {told}")
    return _sharded(shape, spec=spec, token_budget=token_budget or USUAL_PASS, gpu=gpu)


def _sharded(shape: ModelShape, *, spec: TrainSpec, token_budget: int, gpu: Gpu) -> Strategy:
    ways = [
        (spec.model_copy(update={"gradient_checkpointing": recompute}), workers)
        for recompute in sorted({spec.gradient_checkpointing, True})
        for workers in range(2, MAX_WORKERS + 1)
    ]
    for spec, workers in ways:
        needed = sharded_bytes(shape, spec=spec, token_budget=token_budget, num_workers=workers)
        if needed <= USABLE * gpu.memory_bytes:
            break
    else:
        raise SpecError(
            f"one pass of {token_budget} tokens needs {_gib(needed)} on each of {MAX_WORKERS} GPUs of "
            f"{_gib(gpu.memory_bytes)}; lower resources.token_budget"
        )
    told = f"{_gib(needed)} of {_gib(gpu.memory_bytes)} a GPU, weights {_gib(2 * shape.num_parameters)} shared"
    sharded = {"strategy": "deepspeed", "num_workers": workers, "zero_stage": 3}
    return Strategy(spec.model_copy(update=sharded), token_budget, f"ZeRO-3 over {workers} GPUs: {told}")


def _single(spec: TrainSpec) -> TrainSpec:
    return spec.model_copy(update={"strategy": "single", "num_workers": 1})


class AdaptersPerStep(NamedTuple):
    """How many adapters share a step, and the sentence that says why."""

    number: int
    reason: str


def choose_adapters_per_step(
    parameters: float,
    *,
    device: str,
    tokens_a_step: float,
    token_budget: int,
    measured: Mapping[str, Mixing] = MIXING,
) -> AdaptersPerStep:
    """What `resources.adapters_per_step: auto` takes: more than one only where that was measured to pay.

    `parameters` of the base model (NaN: unknown), `tokens_a_step` of one cell's optimizer step. Steps that fill a pass
    of `token_budget` tokens have no room for another cell's.
    """
    mixing = measured.get(device)
    if mixing is None:
        return AdaptersPerStep(1, f"1 adapter a step: no gain from more is measured on {device}")
    if not parameters <= mixing.max_parameters:
        return AdaptersPerStep(
            1, f"1 adapter a step: more pay up to {mixing.max_parameters:.2g} parameters on {device}"
        )
    number = min(mixing.adapters, int(token_budget / tokens_a_step))
    if number < 2:
        return AdaptersPerStep(1, f"1 adapter a step: its {tokens_a_step:,.0f} tokens fill a pass of {token_budget:,}")
    return AdaptersPerStep(number, f"{number} adapters a step: measured to pay on {device}")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
