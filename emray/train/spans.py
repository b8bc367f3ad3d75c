"""Products of a pass in which each span of tokens has a matrix of its own: mixed adapters' LoRA arithmetic.

Three products, each of them an operator that a compiler takes as it is: on a GPU one kernel whatever the number of
spans (span_kernels.py), elsewhere a product a span. Not for gradients by autograd (lora.py calls each where it is due).
The invariant: a token's row depends on its own span's matrix alone; tokens past the last span get zeros, give nothing.

Shapes: T tokens, N columns, r rank, C spans; ends [C] int32 has where each span ends and the next begins, an empty one
ends where it begins.
"""

from collections.abc import Iterator

import torch


def _narrow(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x [T, N], w [C, r, N] -> x w' [T, r]."""
    if x.is_cuda:
        from emray.train import span_kernels

        return span_kernels.narrow(_rows(x), w, ends)
    out = x.new_zeros((len(x), w.shape[1]))
    for place, span in _spans(ends):
        out[span] = x[span] @ w[place].T
    return out


def _widen(low: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], w [C, r, N] -> low w [T, N]."""
    if low.is_cuda:
        from emray.train import span_kernels

        return span_kernels.widen(low.contiguous(), w, ends)
    out = low.new_zeros((len(low), w.shape[2]))
    for place, span in _spans(ends):
        out[span] = low[span] @ w[place]
    return out


def _gather(low: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], x [T, N] -> each span's low' x [C, r, N]."""
    if x.is_cuda:
        from emray.train import span_kernels

        return span_kernels.gather(low.contiguous(), _rows(x), ends)
    out = x.new_zeros((len(ends), low.shape[1], x.shape[1]))
    for place, span in _spans(ends):
        out[place] = low[span].T @ x[span]
    return out


# By hand: torch.library.custom_op adds 100 microseconds to a call, and a recorded pass makes two thousand.
_LIBRARY = torch.library.Library("emray", "FRAGMENT")
_LIBRARY.define("narrow(Tensor x, Tensor w, Tensor ends) -> Tensor")
_LIBRARY.define("widen(Tensor low, Tensor w, Tensor ends) -> Tensor")
_LIBRARY.define("gather(Tensor low, Tensor x, Tensor ends) -> Tensor")
for _name, _product in (("narrow", _narrow), ("widen", _widen), ("gather", _gather)):
    _LIBRARY.impl(_name, _product, "CPU")
    _LIBRARY.impl(_name, _product, "CUDA")
narrow, widen, gather = torch.ops.emray.narrow, torch.ops.emray.widen, torch.ops.emray.gather


@torch.library.register_fake("emray::narrow")
def _narrowed(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[1]))


@torch.library.register_fake("emray::widen")
def _widened(low: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return low.new_empty((low.shape[0], w.shape[2]))


@torch.library.register_fake("emray::gather")
def _gathered(low: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty((ends.shape[0], low.shape[1], x.shape[1]))


def _rows(x: torch.Tensor) -> torch.Tensor:
    """With columns side by side, as the kernels read them."""
    return x if x.stride(1) == 1 else x.contiguous()


def _spans(ends: torch.Tensor) -> Iterator[tuple[int, slice]]:
    first = 0
    for place, last in enumerate(ends.tolist()):
        yield place, slice(first, last)
        first = last
