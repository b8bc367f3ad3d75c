"""How the examples of a step are laid out for the compiled step: few shapes, every tensor in one copy to the device.

Cells that share passes follow one another, so that a pass has few of them however many there are. Pure arithmetic on
rows (numpy); not for what runs on them (compiled.py). The invariant: every example stands once and whole in one pass;
what fills a pass up is examples of its own that nothing is trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from emray.model.packing import longest_first
from emray.model.rows import TokenRow

BLOCK = 128  # tokens; what attention kernels work on
EXAMPLES = 64  # a pass has room for so many, or twice as many, ...
GRAIN = 256  # tokens; sizes of passes are multiples of it, or of a sixteenth of the budget where that is more


class Cells(NamedTuple):
    """The cells that share passes: how many, and tokens of the smallest one's step."""

    number: int = 1
    tokens_a_step: float = math.inf

    def places(self, token_budget: int) -> int:
        """Of how many a pass can hold examples: of those whose steps fit, and of one that does not."""
        return min(self.number, 1 + math.ceil(token_budget / self.tokens_a_step))


ALONE = Cells()


@dataclass(frozen=True)
class Shapes:
    """The sizes that passes may have: T and n in grains, examples up to `longest`, places for C of K cells."""

    token_budget: int
    longest: int
    grain: int
    num_cells: int
    places: int

    @classmethod
    def of(cls, longest: int, *, token_budget: int, cells: Cells = ALONE) -> "Shapes":
        """For rows of up to `longest` tokens."""
        grain = _up(max(GRAIN, token_budget // 16), GRAIN)
        return cls(token_budget, _up(longest, BLOCK), grain, cells.number, cells.places(token_budget))


class Cut(NamedTuple):
    """One cell's rows in a pass, their tokens' salts, and 1 / the trained tokens of its whole step."""

    cell: int
    rows: list[TokenRow]
    salts: list[np.ndarray]
    weight: float


class Pass(NamedTuple):
    """Inputs of a pass on the device: T tokens of S examples, n trained, C places for K cells; int32 but weights."""

    ids: torch.Tensor  # [T]
    positions: torch.Tensor  # [T]
    salt: torch.Tensor  # [T]
    keep: torch.Tensor  # [n] places whose next token is trained on; places past the last hold 0, with weight 0
    targets: torch.Tensor  # [n]
    cells: torch.Tensor  # [n], -1 past the last
    weights: torch.Tensor  # [n] float32
    first: torch.Tensor  # [S+1]
    ends: torch.Tensor  # [C] where each place's tokens end; the filler's come last and are nobody's
    which: torch.Tensor  # [C] the cells at the places; a place too many has a cell that has one already, and no tokens
    place: torch.Tensor  # [K] a cell's first place, or -1
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

    def mine(self) -> torch.Tensor:
        """[T, C] whether a token is of the cell at a place."""
        places = torch.arange(len(self.ids), device=self.ids.device, dtype=self.ends.dtype)[:, None]
        return (places < self.ends) & (places >= torch.nn.functional.pad(self.ends[:-1], (1, 0)))

    def copy(self) -> "Pass":
        """The same values elsewhere."""
        return Pass.of(self.whole.clone(), self.shape)


Chosen = dict[int, list[int]]  # of a pass: cell -> which of its examples


def balanced(lengths: Sequence[Sequence[int]], *, shapes: Shapes) -> list[Chosen]:
    """Whole examples of one or several cells into few passes, all of about the same size."""
    fewest = _in_turn(lengths, size=shapes.token_budget, places=shapes.places)
    total = sum(map(sum, lengths))
    for size in range(_up(math.ceil(total / max(1, len(fewest))), shapes.grain), shapes.token_budget, shapes.grain):
        passes = _in_turn(lengths, size=size, places=shapes.places)
        if len(passes) <= len(fewest):
            return passes
    return fewest


def _in_turn(lengths: Sequence[Sequence[int]], *, size: int, places: int) -> list[Chosen]:
    """Fill pass after pass with what fits, longest first, of one cell after another; a longer example goes alone."""
    left = [longest_first(mine) for mine in lengths]
    passes: list[Chosen] = []
    while any(left):
        room, chosen = size, Chosen()
        for cell, waiting in enumerate(left):
            if len(chosen) == places or room <= 0:
                break
            taken = []
            for index in waiting:
                if lengths[cell][index] <= room or room == size:
                    taken.append(index)
                    room -= lengths[cell][index]
            if taken:
                chosen[cell] = sorted(taken)
                left[cell] = [index for index in waiting if index not in taken]
        passes.append(chosen)
    return passes


def lay(cuts: Sequence[Cut], *, shapes: Shapes, device: torch.device) -> Pass:
    """One pass of these cells' rows, on the device with a single copy."""
    layout = _Layout(shapes)
    for cut in cuts:
        layout.add(cut)
    return _on_device(layout.columns(), device=device)


class _Layout:
    """A pass while it is laid out, on the host."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._lengths: list[int] = []
        self._ids: list[np.ndarray] = []
        self._salts: list[np.ndarray] = []
        self._keep: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []
        self._cells: list[int] = []  # with their numbers of trained tokens and weights:
        self._counts: list[int] = []
        self._weights: list[float] = []
        self._ends: list[int] = []
        self._used = 0

    def add(self, cut: Cut) -> None:
        """A cell's rows."""
        before = len(self._keep)
        for row, salt in zip(cut.rows, cut.salts, strict=True):
            self._keep.append(np.arange(self._used + row.start - 1, self._used + len(row.ids) - 1))
            self._targets.append(row.ids[row.start :])
            self._take(row.ids, salt)
        self._cells.append(cut.cell)
        self._counts.append(sum(map(len, self._keep[before:])))
        self._weights.append(cut.weight)
        self._ends.append(self._used)

    def columns(self) -> list[np.ndarray]:
        """The fields of Pass in their order, all of 32 bits, filled up to the pass's size."""
        self._fill(_up(self._used, self._shapes.grain) - self._used)
        num_kept = _up(max(1, sum(self._counts)), 2 * self._shapes.grain)
        first = np.full(_up(len(self._lengths), EXAMPLES) + 1, self._used)
        first[: len(self._lengths) + 1] = np.cumsum([0, *self._lengths])
        return [
            np.concatenate(self._ids),
            np.concatenate([np.arange(length) for length in self._lengths]),
            np.concatenate(self._salts),
            _filled(np.concatenate(self._keep), num_kept),
            _filled(np.concatenate(self._targets), num_kept),
            _filled(np.repeat(self._cells, self._counts), num_kept, by=-1),
            _filled(np.repeat(np.array(self._weights, np.float32), self._counts), num_kept),
            first,
            *self._places(),
        ]

    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ends, which and place."""
        rest = self._shapes.places - len(self._cells)
        place = np.full(self._shapes.num_cells, -1)
        place[self._cells] = np.arange(len(self._cells))
        return np.array(self._ends + self._ends[-1:] * rest), np.array(self._cells + self._cells[:1] * rest), place

    def _take(self, ids: np.ndarray, salt: np.ndarray) -> None:
        self._ids.append(ids)
        self._salts.append(salt)
        self._lengths.append(len(ids))
        self._used += len(ids)

    def _fill(self, count: int) -> None:
        while count > 0:
            nothing = np.zeros(min(count, self._shapes.longest), np.int32)
            self._take(nothing, nothing)
            count -= len(nothing)


def _on_device(columns: Sequence[np.ndarray], *, device: torch.device) -> Pass:
    whole = [c.view(np.int32) if c.dtype == np.float32 else c.astype(np.int32, copy=False) for c in columns]
    host = torch.from_numpy(np.concatenate(whole))
    if device.type == "cuda":
        host = host.pin_memory()
    return Pass.of(host.to(device, non_blocking=True), [len(column) for column in columns])


def _filled(values: np.ndarray, size: int, *, by: int = 0) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), constant_values=by)


def _up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
