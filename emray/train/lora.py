"""LoRA arithmetic of the compiled step: bf16 products over float32 masters, one adapter or several side by side.

peft makes, initialises and saves the adapters; here their values lie in tensors of several cells, so that one product
serves all and a next cell finds the same addresses. Not for which token is whose (passes.py). The invariant: a cell's
peft parameters are views of these tensors, values and gradients alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer

from emray.train.dropout import LEVELS, drop


@dataclass
class Tokens:
    """What linear layers know of the pass under way: salt [T] int32; ends [K] int32, where each cell's tokens end."""

    salt: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))
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
        tokens, flat = self._tokens, inputs[0]
        out = torch.nn.functional.linear(flat, self.weight, self.bias)
        if self.dropped:
            flat = drop(flat, salt=tokens.salt, layer=self.number, dropped=self.dropped)
        a, b = self.a.to(flat.dtype), self.b.to(flat.dtype)
        if len(a) == 1:
            low = torch.nn.functional.linear(flat, a[0]) * self.scale
            return (out + torch.nn.functional.linear(low, b[0]))[None]
        low = _grouped(flat, a.transpose(1, 2), tokens.ends) * self.scale
        return (out + _grouped(low, b.transpose(1, 2), tokens.ends))[None]


def _grouped(tokens: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Each cell's tokens times its own matrix: [T, i], [K, i, o] -> [T, o]. The kernel is made for bf16."""
    if tokens.dtype == torch.bfloat16:
        return torch.nn.functional.grouped_mm(tokens, matrices, offs=ends)
    places = torch.arange(len(tokens), device=ends.device, dtype=ends.dtype)
    cell = torch.searchsorted(ends, places, right=True)
    every = torch.einsum("ti,kio->tko", tokens, matrices)
    return every.gather(1, cell[:, None, None].expand(-1, 1, every.shape[2]))[:, 0]


def can_group(layers: Sequence[LoraLayer], *, names: Sequence[str]) -> bool:
    """Grouped products want rows of 16 bytes: ranks in eights."""
    return len(names) == 1 or all(layer.r[names[0]] % 8 == 0 for layer in layers)


def dropped_of(layer: LoraLayer, name: str) -> int:
    """Levels of LEVELS that this adapter's dropout takes away."""
    return round(getattr(layer.lora_dropout[name], "p", 0.0) * LEVELS)
