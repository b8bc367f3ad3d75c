"""How the examples of a step are laid out for the compiled step: few shapes, every tensor in one copy to the device.

Pure arithmetic on rows (numpy); not for what runs on them (compiled.py). The invariant: every example stands once and
whole in one pass; what fills a pass up is examples of its own that nothing is trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from emray.model.packing import packed
from emray.model.rows import TokenRow
from emray.train.dropout import salts

SPAN = 16  # tokens; grouped products want each cell's tokens in multiples of eight, and at least some
BLOCK = 128  # tokens; what attention kernels work on
EXAMPLES = 64  # a pass has room for so many, or twice as many, ...
GRAIN = 256  # tokens; sizes of passes are multiples of it, or of a sixteenth of the budget where that is more


@dataclass(frozen=True)
class Shapes:
    """The sizes that passes may have: T and n in grains, examples none longer than `longest`."""

    token_budget: int
    longest: int
    grain: int

    @classmethod
    def of(cls, longest: int, *, token_budget: int) -> "Shapes":
        """For rows of up to `longest` tokens."""
        return cls(token_budget, _up(longest, BLOCK), _up(max(GRAIN, token_budget // 16), GRAIN))


class Cut(NamedTuple):
    """One cell's rows in a pass, with what its masks hang on and 1 / the trained tokens of its whole step."""

    rows: list[TokenRow]
    weight: float
    seed: int
    step: int
    micro: int


class Pass(NamedTuple):
    """Inputs of a pass on the device, T tokens of S examples and n trained ones of K cells; int32 but for weights."""

    ids: torch.Tensor  # [T]
    positions: torch.Tensor  # [T]
    salt: torch.Tensor  # [T]
    keep: torch.Tensor  # [n] places whose next token is trained on; places past the last hold 0, with weight 0
    targets: torch.Tensor  # [n]
    cells: torch.Tensor  # [n]
    weights: torch.Tensor  # [n] float32
    first: torch.Tensor  # [S+1]
    ends: torch.Tensor  # [K]
    whole: torch.Tensor  # all of them, one after another

    @classmethod
    def of(cls, whole: torch.Tensor, sizes: Sequence[int]) -> "Pass":
        """Views of one tensor."""
        parts = list(whole.split(list(sizes)))
        parts[6] = parts[6].view(torch.float32)
        return cls(*parts, whole=whole)  # type: ignore[misc]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all fields: passes of equal shape differ in values alone."""
        return tuple(len(field) for field in self[:-1])

    def copy(self) -> "Pass":
        """The same values elsewhere."""
        return Pass.of(self.whole.clone(), self.shape)


def balanced(lengths: Sequence[int], *, token_budget: int, grain: int) -> list[list[int]]:
    """Whole examples into as few passes as the budget asks for, all of about the same size."""
    fewest = packed(lengths, token_budget=token_budget)
    for size in range(_up(math.ceil(sum(lengths) / len(fewest)), grain), token_budget, grain):
        bins = packed(lengths, token_budget=size)
        if len(bins) <= len(fewest):
            return bins
    return fewest


def lay(cuts: Sequence[Cut], *, shapes: Shapes, device: torch.device) -> Pass:
    """One pass of these cells' rows, on the device with a single copy."""
    layout = _Layout(shapes)
    for number, cut in enumerate(cuts):
        layout.add(cut, last=number == len(cuts) - 1)
    return _on_device(layout.columns(), device=device)


class _Layout:
    """A pass while it is laid out, on the host."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._lengths: list[int] = []
        self._ids: list[np.ndarray] = []
        self._salt: list[np.ndarray] = []
        self._kept: list[tuple[np.ndarray, np.ndarray, float]] = []
        self._ends: list[int] = []
        self._used = 0

    def add(self, cut: Cut, *, last: bool) -> None:
        """A cell's rows, filled up to a multiple of SPAN, or after the last cell's to the pass's size."""
        begin = self._used
        kept: list[np.ndarray] = []
        for row in cut.rows:
            kept.append(np.arange(self._used + row.start - 1, self._used + len(row.ids) - 1))
            self._take(row.ids)
        targets = np.concatenate([row.ids[row.start :] for row in cut.rows]) if cut.rows else np.zeros(0, np.int64)
        self._kept.append((np.concatenate(kept) if kept else np.zeros(0, np.int64), targets, cut.weight))
        to = _up(self._used, self._shapes.grain) if last else max(_up(self._used, SPAN), begin + SPAN)
        self._fill(to - self._used)
        self._salt.append(salts(self._used - begin, seed=cut.seed, step=cut.step, micro=cut.micro))
        self._ends.append(self._used)

    def columns(self) -> list[np.ndarray]:
        """The fields of Pass in their order, all of 32 bits."""
        num_kept = _up(max(1, sum(len(keep) for keep, _, _ in self._kept)), 2 * self._shapes.grain)
        first = np.full(_up(len(self._lengths), EXAMPLES) + 1, self._used)
        first[: len(self._lengths) + 1] = np.cumsum([0, *self._lengths])
        weights = np.concatenate([np.full(len(keep), weight, np.float32) for keep, _, weight in self._kept])
        cells = np.concatenate([np.full(len(keep), cell) for cell, (keep, _, _) in enumerate(self._kept)])
        return [
            np.concatenate(self._ids),
            np.concatenate([np.arange(length) for length in self._lengths]),
            np.concatenate(self._salt),
            _filled(np.concatenate([keep for keep, _, _ in self._kept]), num_kept),
            _filled(np.concatenate([targets for _, targets, _ in self._kept]), num_kept),
            _filled(cells, num_kept),
            _filled(weights, num_kept),
            first,
            np.array(self._ends),
        ]

    def _take(self, ids: np.ndarray) -> None:
        self._ids.append(ids)
        self._lengths.append(len(ids))
        self._used += len(ids)

    def _fill(self, count: int) -> None:
        while count > 0:
            piece = min(count, self._shapes.longest)
            self._take(np.zeros(piece, np.int64))
            count -= piece


def _on_device(columns: Sequence[np.ndarray], *, device: torch.device) -> Pass:
    whole = [c.view(np.int32) if c.dtype == np.float32 else c.astype(np.int32, copy=False) for c in columns]
    host = torch.from_numpy(np.concatenate(whole))
    if device.type == "cuda":
        host = host.pin_memory()
    return Pass.of(host.to(device, non_blocking=True), [len(column) for column in columns])


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))


def _up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
