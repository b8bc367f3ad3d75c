"""Does a rate rise or fall along ordered doses? Runs are the blocks: every dose was tried in each.

For: rates per run and dose [S, D]. Not for: doses in no order. Invariant: a run that lacks a dose is left out whole,
and what cannot be told (one dose, no run, nothing that differs) is NaN.
"""

import math
from collections import Counter
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats

MOST_EXACT_DOSES = 7  # 5,040 orders within a run; beyond, Page's normal approximation with the runs' own variances
_TIE = 1e-9


class Trend(NamedTuple):
    """Page's L, its standardised size (positive: rising), and the two-sided p."""

    statistic: float
    z: float
    p: float
    num_units: int
    exact: bool


def page_trend(values_sd: ArrayLike) -> Trend:
    """Page's test for ordered alternatives (1963), ranks within a run times the doses' order, ties at their mean rank.

    p is exact given the ties: under no effect of the dose every order of a run's own values is equally likely, whatever
    their distribution. Two-sided: as far from the mean of L either way. The least p of S runs and D doses without ties
    is 2 / (D!)^S.
    """
    from scipy import stats

    table = complete_runs(values_sd)
    if table.shape[0] == 0 or table.shape[1] < 2:
        return Trend(math.nan, math.nan, math.nan, len(table), False)
    ranks, order = stats.rankdata(table.round(12), axis=1), np.arange(1, table.shape[1] + 1)
    statistic = float((ranks @ order).sum())
    mean = table.shape[0] * table.shape[1] * (table.shape[1] + 1) ** 2 / 4
    variance = float((ranks.var(axis=1, ddof=1) * ((order - order.mean()) ** 2).sum()).sum())
    if variance <= _TIE:
        return Trend(statistic, math.nan, 1.0, len(table), True)
    z = (statistic - mean) / variance**0.5
    if table.shape[1] > MOST_EXACT_DOSES:
        return Trend(statistic, z, float(2 * stats.norm.sf(abs(z))), len(table), False)
    return Trend(statistic, z, _exact_p(ranks, abs(statistic - mean)), len(table), True)


def _exact_p(ranks_sd: Floats, distance: float) -> float:
    """Share of all orders within the runs whose L lies at least so far from its mean; runs are convolved."""
    num_doses = ranks_sd.shape[1]
    order = np.arange(1, num_doses + 1) - (num_doses + 1) / 2
    chances: dict[float, float] = {0.0: 1.0}
    for ranks in ranks_sd:
        sums = Counter((np.array(list(permutations(ranks))) @ order).round(6).tolist())
        total = sum(sums.values())
        grown: dict[float, float] = {}
        for reached, chance in chances.items():
            for step, number in sums.items():
                place = round(reached + step, 6)
                grown[place] = grown.get(place, 0.0) + chance * number / total
        chances = grown
    return min(1.0, sum(chance for reached, chance in chances.items() if abs(reached) >= distance - _TIE))


def slopes(values_sd: ArrayLike, doses: ArrayLike) -> Floats:
    """By run the least-squares slope over the doses; none below two distinct doses."""
    table, x = complete_runs(values_sd), np.asarray(doses, dtype=float)
    centred = x - x.mean() if len(x) else x
    if len(x) < 2 or not (centred @ centred) > 0:
        return np.empty(0)
    return np.asarray(table @ centred / (centred @ centred))


def complete_runs(values_sd: ArrayLike) -> Floats:
    """The runs that have a value at every dose."""
    table = np.atleast_2d(np.asarray(values_sd, dtype=float))
    return np.asarray(table[np.isfinite(table).all(axis=1)])
