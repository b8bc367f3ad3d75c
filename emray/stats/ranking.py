"""Ranks of domains with their uncertainty, and tiers where the data separate them.

For: the taxonomy. Not for: deciding which rate is ranked. Invariant: rank 1 is the largest value, NaN is unranked
and takes no place, and a tier starts only at a domain that a test separates from the first one of the tier above.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats, Ints

_DIGITS = 12  # sums of fractions in another order differ below
UNRANKED = 0  # rank or tier of a domain whose value is undefined


class Ranking(NamedTuple):
    """Ranks [D] (1 = largest, UNRANKED for NaN), bounds of their interval [D], and P(rank = k + 1) as [D, D]."""

    rank: Ints
    low: Ints
    high: Ints
    p_rank: Floats


class Tiers(NamedTuple):
    """Tier [D] (1 = top, UNRANKED for NaN) and the share of draws [D] in which a domain stays in its tier's places."""

    tier: Ints
    stability: Floats


def rank_intervals(values_d: ArrayLike, draws_bd: ArrayLike, *, level: float = 0.95) -> Ranking:
    """Rank of each value and the percentile interval of its rank over the draws; shapes [D], [B, D].

    Values equal up to rounding share the better place. A domain with a value but without draws (one run) is ranked
    only where all are like that, and then without an interval; beside domains with several runs it is left out.
    """
    values, draws = np.asarray(values_d, dtype=float), np.asarray(draws_bd, dtype=float)
    num_domains = len(values)
    drawn = np.isfinite(values) & np.isfinite(draws).all(axis=0)
    rank = _ranks(np.where(drawn | ~drawn.any(), values, np.nan)[None, :])[0]
    low, high = np.zeros(num_domains, dtype=np.int64), np.zeros(num_domains, dtype=np.int64)
    p_rank = np.full((num_domains, num_domains), np.nan)
    if not drawn.any():
        return Ranking(rank, low, high, p_rank)
    drawn_ranks = _ranks(draws[:, drawn])
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = np.quantile(drawn_ranks, tails, axis=0, method="inverted_cdf")
    low[drawn], high[drawn] = bounds[0], bounds[1]
    places = np.arange(1, num_domains + 1)
    p_rank[drawn] = (drawn_ranks[:, :, None] == places).mean(axis=0)
    return Ranking(rank, low, high, p_rank)


def tiers(values_d: ArrayLike, p_adjusted_dd: ArrayLike, draws_bd: ArrayLike, *, alpha: float = 0.05) -> Tiers:
    """Walk down the ranked list; start a tier at each domain that differs (p_adjusted < alpha) from its tier's first.

    So domains of one tier are those that the data do not separate from the tier's first. A noisy domain may stand in
    the tier above a precise one that it is not itself separated from: `stability` shows such places.
    """
    values, p_adjusted = np.asarray(values_d, dtype=float), np.asarray(p_adjusted_dd, dtype=float)
    values = np.where(np.isfinite(np.asarray(draws_bd, dtype=float)).all(axis=0), values, np.nan)
    order = [d for d in np.argsort(-values, kind="stable") if np.isfinite(values[d])]
    tier = np.full(len(values), UNRANKED, dtype=np.int64)
    current, first = 1, order[0] if order else None
    for domain in order:
        if p_adjusted[first, domain] < alpha:
            current, first = current + 1, domain
        tier[domain] = current
    return Tiers(tier, _stability(tier, np.asarray(draws_bd, dtype=float)))


def _stability(tier_d: Ints, draws_bd: Floats) -> Floats:
    """Share of draws in which each domain's rank lies among the places its tier takes."""
    stability = np.full(len(tier_d), np.nan)
    ranked = tier_d != UNRANKED
    if not ranked.any() or not np.isfinite(draws_bd[:, ranked]).all():
        return stability
    drawn_ranks = _ranks(draws_bd[:, ranked])
    for position, domain in enumerate(np.flatnonzero(ranked)):
        first = int((tier_d[ranked] < tier_d[domain]).sum()) + 1
        last = int((tier_d[ranked] <= tier_d[domain]).sum())
        inside = (drawn_ranks[:, position] >= first) & (drawn_ranks[:, position] <= last)
        stability[domain] = float(inside.mean())
    return stability


def _ranks(values_bd: Floats) -> Ints:
    """Rank per row, 1 = largest, ties share the better place, NaN UNRANKED."""
    from scipy import stats

    ranks = stats.rankdata(-np.round(values_bd, _DIGITS), method="min", axis=1, nan_policy="omit")
    return np.nan_to_num(ranks, nan=UNRANKED).astype(np.int64)
