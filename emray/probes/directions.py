"""Directions as arithmetic: from mean activations to directions, and how far the directions of two finetunes agree.

Numbers in, numbers out; not for reading activations (activations.py) or for steering (steering.py). L are layers, H the
width of the residual stream, N finetunes. The invariant: what is undefined is NaN (a direction without answers of both
kinds is absent), never zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from emray.model.direction_files import Directions, Vectors
from emray.records import Difference
from emray.stats.arrays import Floats

HALVES = 2
ALIGNED, MISALIGNED = 0, 1  # the answers' kinds, as groups count them
FEWEST = 5  # answers of a kind: the mean of fewer says what these answers are about, not of which kind they are


class GroupMeans(NamedTuple):
    """Mean activations of groups of answers, each answer weighing the same: `means` [G, L, H], `counts` [G]."""

    means: Floats
    counts: NDArray[np.int64]

    def of(self, groups: Sequence[int]) -> Floats:
        """The mean [L, H] over these groups together; NaN where they are empty."""
        counts = self.counts[list(groups)]
        if not counts.sum():
            return np.full(self.means.shape[1:], math.nan)
        some = [group for group, count in zip(groups, counts, strict=True) if count]
        return np.average(self.means[some], axis=0, weights=self.counts[some])


def group_of(kind: int, half: int) -> int:
    """The group of an answer's kind and half, 0 to 3."""
    return HALVES * kind + half


def directions_of(finetune: GroupMeans, base: GroupMeans) -> Directions:
    """The directions of one finetune from the means of its answers' groups, as it and as its base model read them."""
    whole: dict[Difference, Vectors] = {}
    halves: dict[Difference, tuple[Vectors, Vectors]] = {}
    for kind in Difference:
        first, second, both = (_difference(kind, finetune, base, half) for half in ((0,), (1,), (0, 1)))
        if np.isnan(both).any():
            continue
        whole[kind] = both.astype(np.float32)
        if not (np.isnan(first).any() or np.isnan(second).any()):
            halves[kind] = first.astype(np.float32), second.astype(np.float32)
    return Directions(whole, halves, _facts(finetune.counts))


def _difference(kind: Difference, finetune: GroupMeans, base: GroupMeans, halves: Sequence[int]) -> Floats:
    misaligned, aligned = ([group_of(answers, half) for half in halves] for answers in (MISALIGNED, ALIGNED))
    if kind == Difference.DATA and min(_num_answers(finetune.counts)) < FEWEST:
        return np.full(finetune.means.shape[1:], math.nan)
    if kind == Difference.DATA:
        return finetune.of(misaligned) - finetune.of(aligned)
    return finetune.of([*misaligned, *aligned]) - base.of([*misaligned, *aligned])


def _num_answers(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Aligned and misaligned ones."""
    aligned, misaligned = (int(counts[[group_of(kind, 0), group_of(kind, 1)]].sum()) for kind in (ALIGNED, MISALIGNED))
    return aligned, misaligned


def _facts(counts: NDArray[np.int64]) -> dict[str, int | str]:
    aligned, misaligned = _num_answers(counts)
    facts: dict[str, int | str] = {"num_aligned": aligned, "num_misaligned": misaligned}
    if not aligned + misaligned:
        return facts | {"note": "no answers with both scores, so no direction"}
    few, kind = min((aligned, "aligned"), (misaligned, "misaligned"))
    return facts | ({"note": f"{few} {kind} answers of {FEWEST} needed for a data direction"} if few < FEWEST else {})


def lengths(vectors: Vectors) -> Floats:
    """Of the directions of every layer, [L]."""
    return np.asarray(np.linalg.norm(vectors.astype(np.float64), axis=-1))


def cosines(one: Vectors, other: Vectors) -> Floats:
    """Per layer [L]; NaN where either is zero."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    scale = lengths(one) * lengths(other)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (a * b).sum(-1) / scale, math.nan)


def reliability(halves: tuple[Vectors, Vectors]) -> Floats:
    """How well a direction is known, per layer [L], 0 to 1: the halves' cosine, stepped up to all of the answers.

    Spearman and Brown, r = 2c / (1 + c): two directions from as many answers as there are would agree so far. NaN
    where a half is zero; 0 where the halves do not agree at all.
    """
    half = np.maximum(cosines(*halves), 0.0)
    return 2 * half / (1 + half)


def ceiling(one: tuple[Vectors, Vectors], other: tuple[Vectors, Vectors]) -> Floats:
    """The cosine [L] that noise would leave of two equal directions: the geometric mean of their reliabilities.

    Spearman's correction for attenuation, read the other way round.
    """
    return np.sqrt(reliability(one) * reliability(other))


def random_cosine(width: int, *, level: float = 0.95) -> float:
    """What |cosine| of two random directions stays below with this probability: cos^2 is Beta(1/2, (H - 1)/2)."""
    if width < 2:
        return 1.0
    return float(math.sqrt(betaincinv(0.5, (width - 1) / 2, level)))


class Agreement(NamedTuple):
    """How far the directions of two domains agree at every layer [L], over all pairs of their runs."""

    num_pairs: int
    mean: Floats
    lowest: Floats
    highest: Floats
    ceiling: Floats  # mean over the pairs that have one


def agreement(one: Mapping[int, Directions], other: Mapping[int, Directions], kind: Difference) -> Agreement | None:
    """Between the runs (by seed) of two domains; None where no pair has both directions.

    Of one domain with itself, its runs are paired with each other, each pair once. Runs of equal seeds share their
    order of examples at most, so they count like others.
    """
    pairs = _pairs(one, other, kind)
    if not pairs:
        return None
    found = np.stack([cosines(a.whole[kind], b.whole[kind]) for a, b in pairs])
    limits = [ceiling(a.halves[kind], b.halves[kind]) for a, b in pairs if kind in a.halves and kind in b.halves]
    limit = np.mean(limits, axis=0) if limits else np.full(found.shape[1], math.nan)
    return Agreement(len(pairs), found.mean(0), found.min(0), found.max(0), limit)


def _pairs(
    one: Mapping[int, Directions], other: Mapping[int, Directions], kind: Difference
) -> list[tuple[Directions, Directions]]:
    mine, theirs = ({seed: d for seed, d in runs.items() if kind in d.whole} for runs in (one, other))
    if one is other:
        return [(mine[a], mine[b]) for a in mine for b in mine if a < b]
    return [(a, b) for a in mine.values() for b in theirs.values()]
