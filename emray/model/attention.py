"""Attention over packed examples: each token sees only its own example, and no linear layer sees padding.

A packed row [1, T] holds whole examples one after another. Inside attention alone they are laid out as [B, L] with the
longest L, so that the plain causal kernel applies and no T x T mask exists. Not for models with windows, sinks or
recurrent layers: `facts.can_pack` says no and the caller pads. The invariant: outputs equal those of right-padded rows.
"""

from typing import Any, NamedTuple

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from emray.model.facts import can_pack

PACKED = "emray_packed"


class Layout(NamedTuple):
    """Where packed tokens lie in the padded view: `spread` [B*L] gathers from T, `gather` [T] reads them back."""

    num_rows: int
    longest: int
    spread: torch.Tensor
    gather: torch.Tensor


def pack_attention(model: Any) -> bool:
    """Give the model attention over packed rows; False (nothing changed) where it must be padded instead."""
    if not (can_pack(model.config) and getattr(model, "_supports_attention_backend", False)):
        return False
    model.set_attn_implementation(PACKED)
    return True


def layout_of(lengths: list[int], *, device: torch.device) -> Layout:
    """The layout of examples with these lengths. Padding slots repeat the example's first token: causal, so unread."""
    longest = max(lengths)
    sizes = torch.tensor(lengths)
    first = torch.cumsum(sizes, 0) - sizes
    column = torch.arange(longest)
    real = column[None, :] < sizes[:, None]
    spread = torch.where(real, first[:, None] + column[None, :], first[:, None]).flatten()
    gather = real.flatten().nonzero().squeeze(1)
    return Layout(len(lengths), longest, spread.to(device), gather.to(device))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example. Shapes: query [B, H, T, D], key and value [B, G, T, D] -> [B, T, H, D].

    With a `layout` among the options (besides `dropout` and `scaling`), B is 1 and T holds all examples; without, rows
    are examples and padding is on the right.
    """
    assert attention_mask is None, "right padding needs no mask under causal attention"
    layout: Layout | None = options.get("layout")
    if layout is not None:
        query, key, value = (_spread(states, layout) for states in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=options.get("dropout", 0.0), scale=options.get("scaling"), is_causal=True,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    out = out.transpose(1, 2)
    if layout is not None:
        out = out.flatten(0, 1).index_select(0, layout.gather).unsqueeze(0)
    return out.contiguous(), None


def _spread(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """[1, H, T, D] -> [B, H, L, D]."""
    tokens = states[0].transpose(0, 1).index_select(0, layout.spread)
    return tokens.unflatten(0, (layout.num_rows, layout.longest)).transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
