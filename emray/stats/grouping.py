"""Do units with an attribute differ from those without? The difference of two means under all ways to deal it out.

For: about ten domains, each one point. Not for: samples that carry their domain's attribute. Invariant: p is that of
the difference beside it over all groups of the same size; with few units it cannot be small, and `least_p` says so.
"""

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MOST_EXACT = 200_000  # groups that are all counted: those of 20 units in halves
_NUM_SAMPLES = 100_000
_TIE = 1e-9  # of the values' scale: equal up to rounding counts as equal


class GroupDifference(NamedTuple):
    """Mean of the units in the group minus mean of the others, two-sided p (Pitman 1937)."""

    estimate: float
    p: float
    least_p: float  # the smallest p that groups of these sizes can have
    num_in: int
    num_out: int
    exact: bool


def group_difference(values: ArrayLike, inside: ArrayLike, *, rng: np.random.Generator) -> GroupDifference:
    """NaN values are left out. Undefined, NaN, where either group is empty.

    p counts every group of this size up to MOST_EXACT of them; beyond, 100,000 drawn with `rng`, the one seen among
    them (Phipson and Smyth 2010).
    """
    y, flags = np.asarray(values, dtype=float).ravel(), np.asarray(inside, dtype=bool).ravel()
    there = np.isfinite(y)
    y, flags = y[there], flags[there]
    num_in, num_out = int(flags.sum()), int((~flags).sum())
    if not num_in or not num_out:
        return GroupDifference(math.nan, math.nan, math.nan, num_in, num_out, False)
    estimate = float(y[flags].mean() - y[~flags].mean())
    num_groups = math.comb(len(y), num_in)
    exact = num_groups <= MOST_EXACT
    sums = _every_sum(y, num_in) if exact else _some_sums(y, num_in, rng)
    differences = np.abs(sums / num_in - (y.sum() - sums) / num_out)
    extreme = int((differences >= abs(estimate) - _TIE * max(float(np.abs(y).max()), 1e-300)).sum())
    p = extreme / num_groups if exact else (extreme + 1) / (_NUM_SAMPLES + 1)
    return GroupDifference(estimate, p, _least_p(num_in, num_out, num_groups), num_in, num_out, exact)


def _least_p(num_in: int, num_out: int, num_groups: int) -> float:
    """Without ties: one group is the most extreme, and its complement where that has the same size."""
    return min(1.0, (2 if num_in == num_out else 1) / num_groups)


def _every_sum(y: np.ndarray, size: int) -> np.ndarray:
    return np.array([y[list(group)].sum() for group in combinations(range(len(y)), size)])


def _some_sums(y: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    rows = np.tile(y, (1000, 1))
    return np.concatenate([rng.permuted(rows, axis=1)[:, :size].sum(axis=1) for _ in range(_NUM_SAMPLES // 1000)])
