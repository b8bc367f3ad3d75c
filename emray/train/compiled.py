"""The compiled training step: decoder layers through torch.compile, a few shapes, one CUDA graph a shape if small.

The layers are transformers' own, run as twins that share every weight but have lora.py's linear layers and varlen.py's
attention. Not for batches, clipping or schedules (group.py, loop.py). The invariant: gradients equal those of the eager
step up to the rounding of bf16; a model for which a first pass shows otherwise is left to the eager step.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch.utils.checkpoint import checkpoint

from emray.model.micro_batch import logits_of, pack
from emray.model.rows import TokenRow
from emray.train.adapter import lora_layers
from emray.train.cost import HEAD_TOKENS
from emray.train.lora import LoraLinear, Tokens, dropped_of
from emray.train.passes import Cut, Pass, Shapes, lay
from emray.train.varlen import VARLEN, Bounds, has_flash

GRAPH_MAX_PARAMETERS = 3e9  # above, a layer's kernels outlast their launches
TINY = 1e8  # parameters; below, compiling takes longer than a study's steps, and a graph alone makes them fast
MAX_WIDTH = 96  # ranks side by side; above, they cost more than products by spans (lora.py)
PROBE_TOLERANCE = 0.1  # of the logits' norm: by other kernels bf16 gives 0.04 at 28 layers of random weights


class Unsuitable(Exception):
    """Why this model or adapter cannot take the compiled step."""


class Execution(NamedTuple):
    """How passes are run: through the compiler, as CUDA graphs, with activations recomputed in the backward pass."""

    compiled: bool
    graphs: bool
    recompute: bool


def engine_for(model: Any, *, device: torch.device, recompute: bool) -> Execution | None:
    """What this device takes; None: the eager step, whose float32 is exact, is the fast one on a CPU."""
    if not has_flash(device):
        return None
    parameters = model.num_parameters()
    return Execution(parameters >= TINY, parameters <= GRAPH_MAX_PARAMETERS and not recompute, recompute)


class CompiledStep:
    """A base with places for K adapters. `adopt` some, then `add` passes: gradients gather in their parameters."""

    def __init__(self, model: Any, *, names: Sequence[str], engine: Execution, device: torch.device) -> None:
        """`model` is a PeftModel with fresh adapters of these names. Raises Unsuitable."""
        self.signature = signature(model, names=names, engine=engine)
        self._engine, self._device, self._tokens = engine, device, Tokens()
        adapted = lora_layers(model)
        self._linears = [LoraLinear(lora, names=names, number=n, tokens=self._tokens) for n, lora in enumerate(adapted)]
        self._decoder, self._head = _parts(model.get_base_model())
        ours = {id(lora): linear for lora, linear in zip(adapted, self._linears, strict=True)}
        config = _varlen_config(self._decoder.config)
        self._layers = [_twin(layer, ours, config) for layer in self._decoder.layers]
        self._first = next(n for n, layer in enumerate(self._layers) if _is_adapted(layer))
        self._run_layer: Callable[..., torch.Tensor] = torch.compile(_run_layer) if engine.compiled else _run_layer
        self._run_head = torch.compile(_head_gradient, dynamic=False) if engine.compiled else _head_gradient
        self._losses = torch.zeros(len(names), device=device)
        self._graphs = _Graphs(self._pass) if engine.graphs else None

    def adopt(self, model: Any, names: Sequence[str]) -> None:
        """Train these adapters: their parameters become views of this step's."""
        for linear, lora in zip(self._linears, lora_layers(model), strict=True):
            linear.adopt(lora, names)
        self.clear()

    def add(self, one: Pass, *, longest: int) -> None:
        """Forward and backward; the gradients of the pass's weighted loss are added to the parameters'."""
        if self._graphs is None:
            self._pass(one, longest)
        else:
            self._graphs.run(one, longest)

    def take_losses(self, *also: torch.Tensor) -> Callable[[], list[float]]:
        """Each cell's weighted loss since this was last asked, and these scalars; calling what it returns waits for
        the device."""
        values = torch.cat([self._losses, *(scalar.reshape(1).to(self._losses.dtype) for scalar in also)])
        self._losses.zero_()
        if self._device.type != "cuda":
            return values.tolist
        host, copied = torch.empty(len(values), pin_memory=True), torch.cuda.Event()
        host.copy_(values, non_blocking=True)
        copied.record()
        return lambda: (copied.synchronize(), host.tolist())[1]

    def clear(self) -> None:
        """Forget what passes have added."""
        torch._foreach_zero_([p.grad for linear in self._linears for p in (linear.a, linear.b)])
        self._losses.zero_()

    def forget_graphs(self) -> None:
        """Let go of the memory that recorded passes hold."""
        if self._graphs is not None:
            self._graphs = _Graphs(self._pass)

    def logits(self, one: Pass, *, longest: int) -> torch.Tensor:
        """Of the kept places, by the layers as they are."""
        with torch.no_grad():
            return self._head(self._hidden(one, longest, run=_run_layer))

    def _pass(self, one: Pass, longest: int) -> None:
        hidden = self._hidden(one, longest, run=self._run_layer)
        gradient = torch.empty_like(hidden)
        for first in range(0, len(hidden), HEAD_TOKENS):
            part = slice(first, first + HEAD_TOKENS)
            losses, gradient[part] = self._run_head(
                hidden[part].detach(), self._head.weight, one.targets[part], one.weights[part]
            )
            mine = one.cells[part, None] == torch.arange(len(self._losses), device=losses.device)
            self._losses += torch.where(mine, losses[:, None], 0.0).sum(0)
        hidden.backward(gradient)

    def _hidden(self, one: Pass, longest: int, *, run: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Normalised hidden states of the kept places, [n, H]."""
        self._tell(one)
        states = self._decoder.embed_tokens(one.ids)[None]
        angles = self._decoder.rotary_emb(states, one.positions[None])
        _mark((angles[0], 1), (angles[1], 1), (one.first, 0))
        bounds = Bounds(one.first, longest)
        for number, layer in enumerate(self._layers):
            if number == self._first:  # below it nothing is trained; one kind of input, one compilation
                states = states.detach().requires_grad_(torch.is_grad_enabled())
            _mark((states, 1))
            if self._engine.recompute and states.requires_grad:
                states = checkpoint(run, layer, states, *angles, bounds, use_reentrant=False, preserve_rng_state=False)
            else:
                states = run(layer, states, *angles, bounds)
        return self._decoder.norm(states[0].index_select(0, one.keep))

    def _tell(self, one: Pass) -> None:
        """The linear layers what they have to know."""
        tokens = self._tokens
        tokens.salt, tokens.again, tokens.which, tokens.place = one.salt, one.salt.view(-1), one.which, one.place
        width = len(one.which) * self._linears[0].a.shape[1]
        tokens.ends, beside = one.ends, len(one.which) > 1 and width <= MAX_WIDTH
        tokens.mine = one.mine() if beside else one.which
        _mark((tokens.salt, 0), (tokens.again, 0))
        if beside:
            _mark((tokens.mine, 0))


def signature(model: Any, *, names: Sequence[str], engine: Execution) -> tuple[Any, ...]:
    """What a compiled step is made for: adapters of an equal one fit into its places."""
    kinds = [
        (lora.get_base_layer(), lora.r[name], lora.scaling[name], dropped_of(lora, name))
        for name in names[:1]
        for lora in lora_layers(model)
    ]
    return (len(names), engine, *((id(base), *rest) for base, *rest in kinds))


def check(step: CompiledStep, model: Any, *, shapes: Shapes, vocabulary: int, device: torch.device) -> None:
    """Compare the logits of two short examples with the model's own. Raises Unsuitable when they differ."""
    rng = np.random.default_rng(0)
    rows = [TokenRow(rng.integers(0, vocabulary, length), 1) for length in (19, 40)]
    cut = Cut(0, rows, [np.zeros(len(row.ids), np.int32) for row in rows], 0.0)
    with torch.no_grad():
        theirs = logits_of(model, pack(rows, device=device)).float()
    ours = step.logits(lay([cut], shapes=shapes, device=device), longest=shapes.longest)[: len(theirs)].float()
    error = ((ours - theirs).norm() / theirs.norm()).item()
    if not error <= PROBE_TOLERANCE:
        raise Unsuitable(f"its logits differ from the model's own by {error:.3g} of their norm")


def _run_layer(layer: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    out = layer.forward(states, attention_mask=None, position_embeddings=(cos, sin), bounds=bounds)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def _head_gradient(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy [n] and its gradient by the hidden states [n, H]: a frozen head needs nothing kept."""
    logits = torch.nn.functional.linear(hidden, head).float()
    wanted = targets.long()[:, None]
    norm = logits.logsumexp(-1, keepdim=True)
    losses = (norm - logits.gather(1, wanted))[:, 0] * weights
    is_target = torch.arange(logits.shape[1], device=logits.device) == wanted
    slope = torch.exp(logits - norm) - is_target.to(logits.dtype)
    return losses, (slope * weights[:, None]).to(head.dtype) @ head


class _Graphs:
    """Passes recorded as CUDA graphs: the first of a shape runs as it is, the second is recorded, later ones replay."""

    def __init__(self, run: Callable[[Pass, int], None]) -> None:
        self._run = run
        self._seen: set[tuple[int, ...]] = set()
        self._recorded: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Pass]] = {}
        self._pool: Any = None

    def run(self, one: Pass, longest: int) -> None:
        key = (*one.shape, longest)
        if key not in self._seen:
            self._seen.add(key)
            self._run(one, longest)
            return
        if key not in self._recorded:
            self._recorded[key] = self._record(one, longest)
        graph, inputs = self._recorded[key]
        inputs.whole.copy_(one.whole)
        graph.replay()

    def _record(self, one: Pass, longest: int) -> tuple[torch.cuda.CUDAGraph, Pass]:
        inputs = one.copy()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return recorded(lambda: self._run(inputs, longest), pool=self._pool), inputs


def recorded(run: Callable[[], object], *, pool: Any = None) -> torch.cuda.CUDAGraph:
    """What this does on the device, to be replayed. torch.cuda.graph would give all cached memory back each time, which
    a pass then takes anew; here that happens only where little is left."""
    if torch.cuda.mem_get_info()[0] < torch.cuda.max_memory_allocated():
        torch.cuda.empty_cache()
    graph, stream = torch.cuda.CUDAGraph(), _recording_stream()
    torch.cuda.synchronize()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(*((pool,) if pool else ()))
        try:
            run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


@functools.cache
def _recording_stream() -> torch.cuda.Stream:
    """One for all: recordings find each other's memory by their stream."""
    return torch.cuda.Stream()


def _mark(*dims: tuple[torch.Tensor, int]) -> None:
    """Tell the compiler that these sizes vary, so that one compilation serves all passes."""
    for tensor, dim in dims:
        torch._dynamo.maybe_mark_dynamic(tensor, dim)


def _parts(base: Any) -> tuple[Any, Any]:
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    missing = [name for name in ("embed_tokens", "rotary_emb", "layers", "norm") if not hasattr(decoder, name)]
    if missing:
        raise Unsuitable(f"its decoder has no {missing[0]}")
    if head.bias is not None or getattr(base.config, "final_logit_softcapping", None):
        raise Unsuitable("its output head is more than a product")
    return decoder, head


def _varlen_config(config: Any) -> Any:
    ours = copy.copy(config)
    ours._attn_implementation = VARLEN
    return ours


def _twin(module: torch.nn.Module, linears: dict[int, LoraLinear], config: Any) -> torch.nn.Module:
    """A module that shares all parameters with this one but has other linear layers and another configuration."""
    if isinstance(module, LoraLayer):
        return linears[id(module)]
    twin = copy.copy(module)
    twin.__dict__ = module.__dict__.copy()
    twin._modules = {
        name: None if child is None else _twin(child, linears, config) for name, child in module._modules.items()
    }
    if "config" in twin.__dict__:
        twin.config = config
    return twin


def _is_adapted(layer: torch.nn.Module) -> bool:
    return any(isinstance(module, LoraLinear) for module in layer.modules())
