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

MASKED_MAX = 1.3e6  # elements of all cells' matrices; on an H100 a grouped product takes 12 us however small it is


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
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        x, a, b, salt, again, ends, number, dropped = given
        low = _times(drop(x, salt=salt, layer=number, dropped=dropped), a.transpose(1, 2), ends)
        ctx.save_for_backward(x, a, b, low, again, ends, number)
        ctx.dropped = dropped
        return _times(low, b.transpose(1, 2), ends)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        x, a, b, low, salt, ends, number = ctx.saved_tensors
        by_low = _times(slope, b, ends)
        kept = drop(x, salt=salt, layer=number, dropped=ctx.dropped)
        by_x = drop(_times(by_low, a, ends), salt=salt, layer=number, dropped=ctx.dropped)
        return by_x, _outer(by_low, kept, ends), _outer(slope, low, ends), None, None, None, None, None


def _times(tokens: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each cell's tokens times its own matrix: [T, i], [K, i, o] -> [T, o]."""
    num_cells, inputs, outputs = matrices.shape
    if num_cells == 1:
        return tokens @ matrices[0]
    if _grouped(tokens.dtype, num_cells, inputs, outputs):
        return torch.nn.functional.grouped_mm(tokens, matrices, offs=ends)
    mine = _is_of(ends, len(tokens)).to(tokens.dtype)
    if inputs > outputs:  # every cell's products side by side, of which one is taken
        side = matrices.transpose(0, 1).flatten(1)
        return ((tokens @ side).unflatten(1, (num_cells, outputs)) * mine[:, :, None]).sum(1)
    wide = (tokens[:, None, :] * mine[:, :, None]).flatten(1)
    return wide @ matrices.flatten(0, 1)


def _outer(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Sums over each cell's tokens: [T, i], [T, o] -> [K, i, o]."""
    if len(ends) == 1:
        return (left.T @ right)[None]
    if _grouped(left.dtype, len(ends), left.shape[1], right.shape[1]):
        return torch.nn.functional.grouped_mm(left.T, right, offs=ends)
    mine = _is_of(ends, len(left)).to(left.dtype)[:, :, None]
    if left.shape[1] < right.shape[1]:
        return ((left[:, None, :] * mine).flatten(1).T @ right).unflatten(0, (len(ends), -1))
    return (left.T @ (right[:, None, :] * mine).flatten(1)).unflatten(1, (len(ends), -1)).transpose(0, 1)


def _grouped(dtype: torch.dtype, num_cells: int, inputs: int, outputs: int) -> bool:
    """Whether the grouped kernel takes it and beats a plain product with every cell's matrix."""
    fits = dtype == torch.bfloat16 and inputs % 8 == 0 and outputs % 8 == 0
    return fits and num_cells * inputs * outputs > MASKED_MAX


def _is_of(ends: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Which tokens are whose, [T, K]."""
    places = torch.arange(num_tokens, device=ends.device, dtype=ends.dtype)[:, None]
    return (places < ends) & (places >= torch.nn.functional.pad(ends[:-1], (1, 0)))


def dropped_of(layer: LoraLayer, name: str) -> int:
    """Levels of LEVELS that this adapter's dropout takes away."""
    return round(getattr(layer.lora_dropout[name], "p", 0.0) * LEVELS)
