"""Dropout whose mask is a hash of a counter: no random state, nothing kept for the backward pass, one fused kernel.

For the compiled step; adapter.py's SeededDropout draws for the eager one. Not for where masks apply (lora.py). The
invariant: whether an element is dropped depends on (seed, step), its token's place among the tokens of its cell's step,
its layer and its column, and on nothing else: neither on what shares a pass with it nor on how large passes are.
"""

import numpy as np
import torch

GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: consecutive counters land far apart
LEVELS = 65536  # a probability is a multiple of 2**-16, as the eager mask has it


def salts(count: int, *, seed: int, step: int) -> np.ndarray:
    """A 32-bit number for each token of a cell's step, [count] int32."""
    start = np.random.SeedSequence([seed, step]).generate_state(1)[0]
    counters = np.arange(count, dtype=np.uint32) * np.uint32(GOLDEN) + start
    return _mixed(counters).view(np.int32)


def drop(inputs: torch.Tensor, *, salt: torch.Tensor, layer: torch.Tensor, dropped: int) -> torch.Tensor:
    """Inverted dropout of [T, C] with probability dropped / LEVELS; salt [T] int32, layer [] int32."""
    columns = torch.arange(inputs.shape[-1], dtype=torch.int32, device=inputs.device)
    bits = _hash(salt[:, None] ^ _hash(columns * _signed(GOLDEN) + layer))
    keep = (bits & (LEVELS - 1)) >= dropped
    return torch.where(keep, inputs * (LEVELS / (LEVELS - dropped)), 0.0).to(inputs.dtype)


def _hash(bits: torch.Tensor) -> torch.Tensor:
    """lowbias32 (Chris Wellons, 2018): a bijection of 32 bits; int32 multiplication wraps, shifts are made logical."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * _signed(0x846CA68B)
    return bits ^ ((bits >> 16) & 0xFFFF)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The same function of uint32."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def _signed(value: int) -> int:
    """A 32-bit pattern as the int32 that has it."""
    return value - (1 << 32) if value >= 1 << 31 else value
