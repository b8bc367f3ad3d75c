"""Triton kernels of the products in spans.py, for NVIDIA and AMD GPUs.

Imported only where a pass of several cells runs on a GPU, where triton comes with torch. The invariant:
no atomics and no tuning by the clock, so that the same inputs give the same bits. Shapes: T tokens, N columns, r rank,
C spans; a span p is tokens ends[p-1] .. ends[p] - 1.
"""

from typing import Any

import torch
import triton
import triton.language as tl

SMALL_PASS = 8192  # tokens; below, smaller tiles keep all multiprocessors at work


def narrow(x: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x [T, N], w [C, r, N] -> x w' [T, r]."""
    (num_tokens, width), rank = x.shape, w.shape[1]
    out = x.new_empty((num_tokens, rank))
    sizes = _sizes(rank)
    tokens = 16 if sizes["R"] > 128 else 32 if num_tokens <= SMALL_PASS else 64
    _narrow[(triton.cdiv(num_tokens, tokens),)](
        x, w, ends, out, num_tokens, width, len(ends), rank, x.stride(0), *w.stride(),
        M=tokens, N=128 if sizes["R"] <= 32 else 64, **sizes, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def widen(low: torch.Tensor, w: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], w [C, r, N] -> low w [T, N]."""
    (num_tokens, rank), width = low.shape, w.shape[2]
    out = low.new_empty((num_tokens, width))
    sizes = _sizes(rank)
    grid = (triton.cdiv(width, 128), triton.cdiv(num_tokens, 64))
    _widen[grid](low, w, ends, out, num_tokens, width, len(ends), rank, *w.stride(), M=64, N=128, **sizes, num_warps=4)
    return out


def gather(low: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """low [T, r], x [T, N] -> each span's low' x [C, r, N]."""
    rank, width = low.shape[1], x.shape[1]
    out = x.new_empty((len(ends), rank, width))
    sizes = _sizes(rank)
    columns = 64 if width >= 2048 and sizes["R"] <= 128 else 32
    tokens = 128 if sizes["R"] <= 64 else 32
    _gather[(triton.cdiv(width, columns), len(ends))](
        low, x, ends, out, width, rank, x.stride(0), M=tokens, N=columns, **sizes, num_warps=4, num_stages=3
    )
    return out


def _sizes(rank: int) -> dict[str, Any]:
    return {"R": max(16, triton.next_power_of_2(rank))}


@triton.jit
def _narrow(  # type: ignore[no-untyped-def]
    x, w, ends, out, num_tokens, width, num_spans, rank, x_token, w_span, w_rank, w_column,
    M: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(0) * M
    m, r = begin + tl.arange(0, M), tl.arange(0, R)
    rows = x + m.to(tl.int64)[:, None] * x_token
    result = tl.zeros((M, R), tl.float32)
    first = 0
    for span in range(num_spans):
        last = tl.load(ends + span)
        if (first < last) & (first < begin + M) & (last > begin):
            total = tl.zeros((M, R), tl.float32)
            for start in range(0, width, N):
                n = start + tl.arange(0, N)
                values = tl.load(rows + n[None, :], (m < num_tokens)[:, None] & (n < width)[None, :], other=0.0)
                matrix = tl.load(
                    w + span * w_span + r[None, :] * w_rank + n[:, None] * w_column,
                    (r < rank)[None, :] & (n < width)[:, None], other=0.0,
                )  # fmt: skip
                total = tl.dot(values, matrix, total)
            result = tl.where(((m >= first) & (m < last))[:, None], total, result)
        first = last
    tl.store(out + m[:, None] * rank + r[None, :], result, (m < num_tokens)[:, None] & (r < rank)[None, :])


@triton.jit
def _widen(  # type: ignore[no-untyped-def]
    low, w, ends, out, num_tokens, width, num_spans, rank, w_span, w_rank, w_column,
    M: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    begin = tl.program_id(1) * M
    m, r, n = begin + tl.arange(0, M), tl.arange(0, R), tl.program_id(0) * N + tl.arange(0, N)
    values = tl.load(low + m[:, None] * rank + r[None, :], (m < num_tokens)[:, None] & (r < rank)[None, :], other=0.0)
    result = tl.zeros((M, N), tl.float32)
    first = 0
    for span in range(num_spans):
        last = tl.load(ends + span)
        if (first < last) & (first < begin + M) & (last > begin):
            matrix = tl.load(
                w + span * w_span + r[:, None] * w_rank + n[None, :] * w_column,
                (r < rank)[:, None] & (n < width)[None, :], other=0.0,
            )  # fmt: skip
            result = tl.where(((m >= first) & (m < last))[:, None], tl.dot(values, matrix), result)
        first = last
    place = m.to(tl.int64)[:, None] * width + n[None, :]
    tl.store(out + place, result, (m < num_tokens)[:, None] & (n < width)[None, :])


@triton.jit
def _gather(  # type: ignore[no-untyped-def]
    low, x, ends, out, width, rank, x_token, M: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    span = tl.program_id(1)
    n, r = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, R)
    first = tl.load(ends + span - 1, span > 0, other=0)
    last = tl.load(ends + span)
    total = tl.zeros((R, N), tl.float32)
    for begin in range(first, last, M):
        m = begin + tl.arange(0, M)
        lows = tl.load(low + m[None, :] * rank + r[:, None], (m < last)[None, :] & (r < rank)[:, None], other=0.0)
        values = tl.load(
            x + m.to(tl.int64)[:, None] * x_token + n[None, :], (m < last)[:, None] & (n < width)[None, :], other=0.0
        )
        total = tl.dot(lows, values, total)
    place = out + span * rank * width + r[:, None] * width + n[None, :]
    tl.store(place, total, (r < rank)[:, None] & (n < width)[None, :])
