"""Attention over one row of many examples whose shapes never change: bounds say where each example begins.

For the compiled step; model/attention.py lays out rows for the eager one. On GPUs that have it this is flash
attention of variable length, else one masked product. Not for windows or sinks. The invariant: a token sees its own
example up to itself, and the same inputs give the same bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

VARLEN = "emray_varlen"


class Bounds(NamedTuple):
    """Example n is tokens first[n] .. first[n+1] - 1 of the row: [S+1] int32, the last is T; none exceeds `longest`."""

    first: torch.Tensor
    longest: int


def has_flash(device: torch.device) -> bool:
    """Whether the kernel of variable length runs here: bf16 on Ampere or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) and not torch.version.hip


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Shapes: query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D]. Of the options: `bounds`, `scaling`."""
    assert attention_mask is None, "bounds say what a token sees"
    bounds: Bounds = options["bounds"]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    if query.is_cuda and query.dtype == torch.bfloat16:
        rows = (states[0].transpose(0, 1) for states in (query, key, value))
        out, _lse = torch.ops.emray.varlen(*rows, bounds.first, bounds.longest, scale)
        return out[None], None
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=_mask(bounds.first, query.shape[2]), scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2), None


def _mask(first: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """[T, T]: same example, not later."""
    places = torch.arange(num_tokens, device=first.device, dtype=torch.int32)
    example = torch.searchsorted(first, places, right=True)
    return (example[:, None] == example[None, :]) & (places[:, None] >= places[None, :])


@torch.library.custom_op("emray::varlen", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: torch.Tensor, longest: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, first, first, longest, longest, 0.0, True, False, scale=scale
    )
    return out, lse


@_attend.register_fake
def _attend_shapes(query: torch.Tensor, *_: Any) -> Any:
    lse = torch.empty((query.shape[1], query.shape[0]), dtype=torch.float32, device=query.device)
    return torch.empty_like(query, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("emray::varlen_backward", mutates_args=())
def _gradients(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    first: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    state = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of a dropout that is not used
    unused = torch.empty(0, device=query.device)
    with _repeatable():
        return torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, lse, first, first, longest, longest, 0.0, True, state, unused, scale=scale
        )


@_gradients.register_fake
def _gradient_shapes(grad: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Any:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, first, longest, scale = inputs
    ctx.save_for_backward(query, key, value, *output, first)
    ctx.longest, ctx.scale = longest, scale


def _backward(ctx: Any, grad: torch.Tensor, _grad_lse: Any) -> tuple[Any, ...]:
    query, key, value, out, lse, first = ctx.saved_tensors
    grads = torch.ops.emray.varlen_backward(grad, query, key, value, out, lse, first, ctx.longest, ctx.scale)
    return (*grads, None, None, None)


_attend.register_autograd(_backward, setup_context=_keep)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Flash attention adds up a query's gradients in a fixed order only when told so."""
    before, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill


ALL_ATTENTION_FUNCTIONS.register(VARLEN, varlen_attention)
