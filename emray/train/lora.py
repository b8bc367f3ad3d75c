"""LoRA arithmetic of the compiled step: bf16 products over float32 masters, with one adapter or with several.

peft makes, initialises and saves the adapters; here their values lie in tensors of several cells, so that a next cell
finds the same addresses. A pass of few cells multiplies with their matrices side by side, as with one adapter of a
higher rank, and blanks what is not a token's own in between; in one of many each span of tokens meets its own cell's
matrices (spans.py). Not for which token is whose (passes.py). The invariant: a cell's peft parameters are views of
these tensors, values and gradients alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from emray.train.dropout import LEVELS, drop
from emray.train.spans import gather, narrow, widen


def _none() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.int32)


@dataclass
class Tokens:
    """What linear layers know of the pass under way, which has places for C of the K cells.

    salt [T] int32; `again` is the salt under another name, for the backward pass: a compiler that saw the same number
    twice would keep what the forward pass made of it. Of several cells also: which [C] int32, the cells that have a
    place; place [K] int32, each cell's or -1; ends [C] int32, where the tokens of each place end; mine [T, C] bool,
    whether a token is of the cell at a place, where matrices stand side by side.
    """

    salt: torch.Tensor = field(default_factory=_none)
    again: torch.Tensor = field(default_factory=_none)
    which: torch.Tensor = field(default_factory=_none)
    place: torch.Tensor = field(default_factory=_none)
    ends: torch.Tensor = field(default_factory=_none)
    mine: torch.Tensor = field(default_factory=_none)


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
        flat = inputs.flatten(0, 1)
        salts = (tokens.salt, tokens.again, self.number, self.dropped)
        if len(self.a) > 1 and tokens.mine.dim() == 1:
            added = _Spanned.apply(flat, *self._placed(inputs.dtype), tokens.ends, *salts)
        elif self.dropped:
            added = _Dropped.apply(flat, *self._side_by_side(inputs.dtype), tokens.mine, *salts)
        else:
            a, b = self._side_by_side(inputs.dtype)
            added = _own(flat @ a.T, tokens.mine) @ b.T
        return out + added.unsqueeze(0)

    def _side_by_side(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The one adapter, or those that have a place as one of rank C r: [C r, in], [out, C r]."""
        if len(self.a) == 1:
            return self.a.to(dtype)[0], (self.b * self.scale).to(dtype)[0]
        a, b = self._placed(dtype)
        return a.flatten(0, 1), b.transpose(0, 1).flatten(1)

    def _placed(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The adapters that have a place: [C, r, in], [C, out, r]."""
        a, b = (_Placed.apply(values, self._tokens.which, self._tokens.place) for values in (self.a, self.b))
        return a.to(dtype), (b * self.scale).to(dtype)


class _Placed(torch.autograd.Function):
    """[K, ...] -> [C, ...]: the cells that have a place. Gradients are gathered, not scattered: in a fixed order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, which: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(place)
        return values.index_select(0, which)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        (place,) = ctx.saved_tensors
        placed = slope.index_select(0, place.clamp(min=0))
        return torch.where((place >= 0)[:, None, None], placed, 0.0), None, None


class _Dropped(torch.autograd.Function):
    """x [T, i], a [R, i], b [o, R] -> own(dropout(x) a') b' [T, o], keeping x alone: masks and products are remade."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        x, a, b, mine, salt, again, number, dropped = given
        low = _own(drop(x, salt=salt, layer=number, dropped=dropped) @ a.T, mine)
        ctx.save_for_backward(x, a, b, low, mine, again, number)
        ctx.dropped = dropped
        return low @ b.T

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        x, a, b, low, mine, salt, number = ctx.saved_tensors
        by_low = _own(slope @ b, mine)
        kept = drop(x, salt=salt, layer=number, dropped=ctx.dropped)
        by_x = drop(by_low @ a, salt=salt, layer=number, dropped=ctx.dropped)
        return by_x, by_low.T @ kept, slope.T @ low, None, None, None, None, None


class _Spanned(torch.autograd.Function):
    """The same with a [C, r, i] and b [C, o, r]: each span of tokens with its own."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        x, a, b, ends, salt, again, number, dropped = given
        low = narrow(_kept(x, salt, number, dropped), a, ends)
        ctx.save_for_backward(x, a, b, low, ends, again, number)
        ctx.dropped = dropped
        return widen(low, b.transpose(1, 2), ends)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[Any, ...]:
        x, a, b, low, ends, salt, number = ctx.saved_tensors
        by_low = narrow(slope, b.transpose(1, 2), ends)
        by_a = gather(by_low, _kept(x, salt, number, ctx.dropped), ends)
        by_b = gather(low, slope, ends).transpose(1, 2)
        by_x = _kept(widen(by_low, a, ends), salt, number, ctx.dropped)
        return by_x, by_a, by_b, None, None, None, None, None


def _own(low: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """[T, C r] without what other cells' matrices made of a token; a pass of one cell has no `mine`."""
    if mine.dim() == 1:
        return low
    return torch.where(mine[:, :, None], low.unflatten(1, (mine.shape[1], -1)), 0.0).flatten(1)


def _kept(values: torch.Tensor, salt: torch.Tensor, number: torch.Tensor, dropped: int) -> torch.Tensor:
    return drop(values, salt=salt, layer=number, dropped=dropped) if dropped else values


def dropped_of(layer: LoraLayer, name: str) -> int:
    """Levels of LEVELS that this adapter's dropout takes away."""
    return round(getattr(layer.lora_dropout[name], "p", 0.0) * LEVELS)
