"""Products of a pass in which each span of tokens has a matrix of its own: mixed adapters' LoRA arithmetic.

Three products, each of them an operator that a compiler takes as it is: on a GPU one kernel whatever the number of
spans (span_kernels.py), elsewhere a product a span. Not for gradients by autograd (lora.py calls each where it is due).
The invariant: a token's row depends on its own span's matrix alone; tokens past the last span get zeros, give nothing.

Shapes: T tokens, N columns, r rank, C spans; ends [C] int32 has where each span ends and the next begins, an empty one
ends where it begins.
"""

from collections.abc import Iterator

import torch


@torch.library.custom_op("emray::narrow", mutates_args=())
def narrow(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x [T, N], w [C, r, N] -> x w' [T, r]."""
    if x.is_cuda:
        from emray.train import span_kernels

        return span_kernels.narrow(_rows(x), w, ends)
    out = x.new_zeros((len(x), w.shape[1]))
    for place, span in _spans(ends):
        out[span] = x[span] @ w[place].T
    return out


@torch.library.custom_op("emray::widen", mutates_args=())
def widen(low: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], w [C, r, N] -> low w [T, N]."""
    if low.is_cuda:
        from emray.train import span_kernels

        return span_kernels.widen(low.contiguous(), w, ends)
    out = low.new_zeros((len(low), w.shape[2]))
    for place, span in _spans(ends):
        out[span] = low[span] @ w[place]
    return out


@torch.library.custom_op("emray::gather", mutates_args=())
def gather(low: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], x [T, N] -> each span's low' x [C, r, N]."""
    if x.is_cuda:
        from emray.train import span_kernels

        return span_kernels.gather(low.contiguous(), _rows(x), ends)
    out = x.new_zeros((len(ends), low.shape[1], x.shape[1]))
    for place, span in _spans(ends):
        out[place] = low[span].T @ x[span]
    return out


@narrow.register_fake
def _narrowed(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[1]))


@widen.register_fake
def _widened(low: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return low.new_empty((low.shape[0], w.shape[2]))


@gather.register_fake
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
