"""Bootstraps on sufficient statistics: clusters, and seeds x questions together.

For: intervals and draws where no t interval fits. Not for: few units (a bootstrap of 3 seeds is too narrow; the
ranking module draws from the t instead). Invariant: a draw reweights whole clusters, never single answers.
"""

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats
from emray.stats.intervals import Interval, IntervalMethod, no_interval

MIN_TWO_WAY_SEEDS = 10  # below, the seed half of a two-way bootstrap is visibly too narrow (coverage simulation)


def cluster_bootstrap(
    sums_c: ArrayLike, counts_c: ArrayLike, *, rng: np.random.Generator, num_draws: int = 2000, level: float = 0.95
) -> Interval:
    """Percentile interval of sum(sums) / sum(counts), resampling clusters; shapes [C]. NaN below two clusters."""
    sums, counts = np.asarray(sums_c, dtype=float), np.asarray(counts_c, dtype=float)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if len(sums) == 0:
        return no_interval()
    estimate = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return no_interval(estimate, num_units=len(sums))
    weights = resampling_weights(len(sums), num_draws=num_draws, rng=rng)
    return _percentile(estimate, (weights @ sums) / (weights @ counts), len(sums), level=level)


def two_way_draws(
    sums_sq: ArrayLike, counts_sq: ArrayLike, *, rng: np.random.Generator, num_draws: int = 2000
) -> Floats:
    """Draws [B] of the overall mean, resampling seeds and questions independently (pigeonhole bootstrap, Owen 2007)."""
    sums, counts = np.asarray(sums_sq, dtype=float), np.asarray(counts_sq, dtype=float)
    seeds = resampling_weights(sums.shape[0], num_draws=num_draws, rng=rng)
    questions = resampling_weights(sums.shape[1], num_draws=num_draws, rng=rng)
    tops = np.einsum("bs,sq,bq->b", seeds, sums, questions, optimize=True)
    bottoms = np.einsum("bs,sq,bq->b", seeds, counts, questions, optimize=True)
    return np.divide(tops, bottoms, out=np.full(num_draws, np.nan), where=bottoms > 0)


def two_way_bootstrap(
    sums_sq: ArrayLike, counts_sq: ArrayLike, *, rng: np.random.Generator, num_draws: int = 2000, level: float = 0.95
) -> Interval:
    """Percentile interval over seeds and questions; NaN below two of either. Trust it from ten seeds on."""
    sums, counts = np.atleast_2d(np.asarray(sums_sq, dtype=float)), np.atleast_2d(np.asarray(counts_sq, dtype=float))
    if counts.sum() == 0:
        return no_interval()
    estimate = float(sums.sum() / counts.sum())
    if min(sums.shape) < 2:
        return no_interval(estimate, num_units=sums.shape[0])
    return _percentile(estimate, two_way_draws(sums, counts, rng=rng, num_draws=num_draws), sums.shape[0], level=level)


def resampling_weights(num_units: int, *, num_draws: int, rng: np.random.Generator) -> Floats:
    """Multinomial weights [B, units]: how often a draw takes each unit."""
    return rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_draws).astype(float)


def _percentile(estimate: float, draws: Floats, num_units: int, *, level: float) -> Interval:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    if not high > low:
        return no_interval(estimate, num_units=num_units)
    return Interval(estimate, float(low), float(high), num_units, IntervalMethod.BOOTSTRAP)
