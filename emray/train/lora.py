"""LoRA arithmetic of the compiled step: bf16 products over float32 masters, one adapter or several side by side.

peft makes, initialises and saves the adapters; here their values lie in tensors of several cells, so that one product
serves all and a next cell finds the same addresses. Not for which token is whose (passes.py). The invariant: a cell's
peft parameters are views of these tensors, values and gradients alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from emray.train.dropout import LEVELS, drop


@dataclass
class Tokens:
    """What linear layers know of the pass under way: salt [T] int32; ends [K] int32, where each cell's tokens end.

    `again` is the salt under another name, for the backward pass: a compiler that saw the same number twice would keep
    what the forward pass made of it.
    """

    salt: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))
    again: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))
    ends: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))


class LoraLinear(torch.nn.Module):
    """A frozen linear layer with the adapters of K cells: a [K, r, in], b [K, out, r], both float32."""

    def __init__(self, layer: LoraLayer, *, names: Sequence[str], number: int, tokens: Tokens) -> None:
        """`number` is the layer's among the adapted; whoever runs a pass tells `tokens` of it."""
        super().__init__()
        base, name = layer.get_base_layer(), names[0]
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.dropped = float(layer.scaling[name]), dropped_of(layer, name)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        self.a = torch.nn.Parameter(a.new_zeros((len(names), *a.shape), dtype=torch.float32))
        self.b = torch.nn.Parameter(b.new_zeros((len(names), *b.shape), dtype=torch.float32))
        self.a.grad, self.b.grad = torch.zeros_like(self.a), torch.zeros_like(self.b)
        self.register_buffer("number", torch.tensor(number, dtype=torch.int32, device=a.device), persistent=False)
        self._tokens = tokens

    def adopt(self, layer: LoraLayer, names: Sequence[str]) -> None:
        """Take over the values of these adapters and make their parameters views of ours."""
        for ours, theirs in ((self.a, layer.lora_A), (self.b, layer.lora_B)):
            assert ours.grad is not None
            for place, name in enumerate(names):
                parameter = theirs[name].weight
                ours.data[place].copy_(parameter.data)
                parameter.data, parameter.grad = ours.data[place], ours.grad[place]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[1, T, in] -> [1, T, out]. The sum is of three dimensions, or the compiler makes it part of a product."""
        tokens = self._tokens
        out = torch.nn.functional.linear(inputs, self.weight, self.bias)
        a, b = self.a.to(inputs.dtype), (self.b * self.scale).to(inputs.dtype)
        flat = inputs.flatten(0, 1)
        if self.dropped:
            added = _Dropped.apply(flat, a, b, tokens.salt, tokens.again, tokens.ends, self.number, self.dropped)
        else:
            low = _times(flat, a.transpose(1, 2), tokens.ends)
            added = _times(low, b.transpose(1, 2), tokens.ends)
        return out + added.unsqueeze(0)


class _Dropped(torch.autograd.Function):
    """x [T, i], a [K, r, i], b [K, o, r] -> dropout(x) a' b' [T, o], keeping x alone: masks and products are remade."""

    @staticmethod
    def forward(ctx: Any, x: Any, a: Any, b: Any, salt: Any, again: Any, ends: Any, number: Any, dropped: int) -> Any:
        low = _times(drop(x, salt=salt, layer=number, dropped=dropped), a.transpose(1, 2), ends)
        ctx.save_for_backward(x, a, b, low, again, ends, number)
        ctx.dropped = dropped
        return _times(low, b.transpose(1, 2), ends)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, a, b, low, salt, ends, number = ctx.saved_tensors
        by_low = _times(slope, b, ends)
        kept = drop(x, salt=salt, layer=number, dropped=ctx.dropped)
        by_x = drop(_times(by_low, a, ends), salt=salt, layer=number, dropped=ctx.dropped)
        return by_x, _outer(by_low, kept, ends), _outer(slope, low, ends), None, None, None, None, None


def _times(tokens: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each cell's tokens times its own matrix: [T, i], [K, i, o] -> [T, o]. The grouped kernel is made for bf16."""
    if len(matrices) == 1:
        return tokens @ matrices[0]
    if tokens.dtype == torch.bfloat16:
        return torch.nn.functional.grouped_mm(tokens, matrices, offs=ends)
    every = torch.einsum("ti,kio->tko", tokens, matrices)
    return (every * _is_of(ends, len(tokens))[:, :, None]).sum(1)


def _outer(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Sums over each cell's tokens: [T, i], [T, o] -> [K, i, o]."""
    if len(ends) == 1:
        return (left.T @ right)[None]
    if left.dtype == torch.bfloat16:
        return torch.nn.functional.grouped_mm(left.T, right, offs=ends)
    return torch.einsum("ti,tk,to->kio", left, _is_of(ends, len(left)).to(left.dtype), right)


def _is_of(ends: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Which tokens are whose, [T, K]."""
    places = torch.arange(num_tokens, device=ends.device, dtype=ends.dtype)
    cell = torch.searchsorted(ends, places, right=True)
    return cell[:, None] == torch.arange(len(ends), device=ends.device)


def can_group(layers: Sequence[LoraLayer], *, names: Sequence[str]) -> bool:
    """Grouped products want rows of 16 bytes: ranks in eights."""
    return len(names) == 1 or all(layer.r[names[0]] % 8 == 0 for layer in layers)


def dropped_of(layer: LoraLayer, name: str) -> int:
    """Levels of LEVELS that this adapter's dropout takes away."""
    return round(getattr(layer.lora_dropout[name], "p", 0.0) * LEVELS)
