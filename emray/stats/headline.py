"""The interval beside every rate and mean score, from counts per seed x question.

For: choosing what an interval may rest on: runs, one run's questions, or its answers alone. Not for the model itself
(runs.py). Invariant: estimate and interval are of one estimand, question-standardised (standard.py), over runs of the
recipe on these questions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emray.stats.arrays import Floats
from emray.stats.intervals import (
    MIN_SEEDS,
    Interval,
    IntervalMethod,
    equal_scores_interval,
    no_interval,
    proportion_interval,
    t_interval,
)
from emray.stats.runs import runs_interval
from emray.stats.standard import mean_over_seeds, question_means, rate_runs, score_runs, seed_means


def rate_interval(
    events_sq: ArrayLike, totals_sq: ArrayLike, *, level: float = 0.95, prior: Floats | None = None
) -> Interval:
    """Several seeds: runs as random effects, `prior` being the spread's weights where other places lend them (runs.py).

    One seed: t over its questions, which says nothing of other runs; one question or no spread: Clopper-Pearson.
    """
    runs = rate_runs(events_sq, totals_sq)
    if len(runs.share) >= MIN_SEEDS:
        return runs_interval(runs, level=level, prior=prior)
    events, totals = np.atleast_2d(np.asarray(events_sq)), np.atleast_2d(np.asarray(totals_sq))
    found = t_interval(_questions(events, totals), level=level, method=IntervalMethod.T_QUESTIONS)
    if np.isfinite(found.estimate) and np.isnan(found.low):
        pooled = proportion_interval(int(events.sum()), int(totals.sum()), level=level)
        return pooled._replace(estimate=found.estimate)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0)) if found.low == found.low else found


class ScoreCells(NamedTuple):
    """Sums, sums of squares and counts of scores per seed x question [S, Q]."""

    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    totals: NDArray[np.int64]

    @property
    def seed_means(self) -> Floats:
        return seed_means(self.sums, self.totals)

    @property
    def mean(self) -> float:
        return mean_over_seeds(self.sums, self.totals)


def score_interval(
    cells: ScoreCells,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 100.0),
    prior: Floats | None = None,
) -> Interval:
    """As `rate_interval`, for a mean score (default 0-100); where nothing varies, `equal_scores_interval`."""
    runs = score_runs(*cells, bounds=bounds)
    width = bounds[1] - bounds[0]
    if len(runs.share) >= MIN_SEEDS:
        found = runs_interval(runs, level=level, prior=prior)
        estimate, low, high = (bounds[0] + width * value for value in found[:3])
        return found._replace(estimate=estimate, low=low, high=high)
    found = t_interval(_questions(cells.sums, cells.totals), level=level, method=IntervalMethod.T_QUESTIONS)
    if np.isfinite(found.estimate) and np.isnan(found.low):
        return equal_scores_interval(found.estimate, int(np.sum(cells.totals)), level=level, bounds=bounds)
    return found._replace(low=max(found.low, bounds[0]), high=min(found.high, bounds[1]))


def _questions(sums_sq: ArrayLike, totals_sq: ArrayLike) -> Floats:
    """Means per question of the one seed that has any."""
    table = question_means(sums_sq, totals_sq)
    return table[np.isfinite(table)]


def t_rate_interval(events_sq: ArrayLike, totals_sq: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t on the seeds' rates, for comparison: cut to 0-1, NaN below two seeds or where all are equal."""
    found = t_interval(seed_means(events_sq, totals_sq), level=level)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0)) if np.isfinite(found.low) else found


RUN_MISALIGNED_FROM = 0.05  # rate of a run that counts as misaligned when runs are counted


class RunCount(NamedTuple):
    """How many of the usable runs are misaligned, and the Clopper-Pearson interval of that share of runs."""

    num: int
    total: int
    low: float
    high: float


def count_runs(events_sq: ArrayLike, totals_sq: ArrayLike, *, level: float = 0.95) -> RunCount:
    """What the runs alone say, each a yes or no: 0 of 3 leave up to 71 % of runs possible."""
    rates = seed_means(events_sq, totals_sq)
    rates = rates[np.isfinite(rates)]
    num = int((rates >= RUN_MISALIGNED_FROM).sum())
    found = proportion_interval(num, len(rates), level=level) if len(rates) else no_interval()
    return RunCount(num, len(rates), found.low, found.high)
