"""Intervals in closed form: Student's t, Clopper-Pearson, crossed random effects.

For: what the headline (headline.py, runs.py) falls back on or is compared with. Not for: tests (contrasts.py) or
bootstraps (resampling.py).
Invariant: an interval is NaN or has a positive width, and it names the method that made it.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats

MIN_SEEDS = 2  # below this there is no between-run variance to speak of


class IntervalMethod(StrEnum):
    """What an interval is allowed to claim."""

    RUNS = "runs_posterior"  # between training runs, random effects on a bounded scale (runs.py)
    T_SEEDS = "t_seeds"  # between training runs, taken as normal
    T_QUESTIONS = "t_questions"  # one run: between questions only
    CROSSED = "crossed_seeds_questions"  # seeds and questions both random
    CLOPPER_PEARSON = "clopper_pearson"  # all runs equal (0 of n, n of n): answers as independent
    WILSON = "wilson"
    SCORE_BOUND = "score_bound"  # all scores equal: distribution-free bound for a bounded score
    BOOTSTRAP = "bootstrap"
    CORRECTED = "judge_errors_corrected"
    NONE = "none"


class Interval(NamedTuple):
    """A two-sided confidence interval; `num_units` counts what it was computed over (seeds, questions, answers)."""

    estimate: float
    low: float
    high: float
    num_units: int
    method: IntervalMethod

    @property
    def half_width(self) -> float:
        """Half of high - low; NaN when undefined."""
        return (self.high - self.low) / 2


def no_interval(estimate: float = np.nan, *, num_units: int = 0) -> Interval:
    """The undefined interval around an estimate that may itself be undefined."""
    return Interval(float(estimate), np.nan, np.nan, num_units, IntervalMethod.NONE)


def t_interval(values: ArrayLike, *, level: float = 0.95, method: IntervalMethod = IntervalMethod.T_SEEDS) -> Interval:
    """Student t interval for the mean of independent units; NaN units are left out.

    NaN bounds for fewer than two units or when all units are equal (the caller then has a better bound).
    """
    from scipy import stats

    units = np.asarray(values, dtype=float)
    units = units[np.isfinite(units)]
    if len(units) == 0:
        return no_interval()
    mean = float(units.mean())
    if len(units) < MIN_SEEDS or _all_equal(units):
        return no_interval(mean, num_units=len(units))
    half = float(stats.t.ppf((1 + level) / 2, len(units) - 1) * stats.sem(units))
    return Interval(mean, mean - half, mean + half, len(units), method)


def proportion_interval(
    successes: int,
    total: int,
    *,
    level: float = 0.95,
    method: IntervalMethod = IntervalMethod.CLOPPER_PEARSON,
) -> Interval:
    """Clopper-Pearson or Wilson interval for independent answers (scipy.stats.binomtest); NaN for total = 0."""
    from scipy import stats

    if total == 0:
        return no_interval()
    scipy_name = {IntervalMethod.CLOPPER_PEARSON: "exact", IntervalMethod.WILSON: "wilson"}[method]
    found = stats.binomtest(int(successes), int(total)).proportion_ci(level, method=scipy_name)
    # Wilson's bounds are exact 0 and 1 up to rounding; keep them inside.
    low, high = float(np.clip(found.low, 0, 1)), float(np.clip(found.high, 0, 1))
    return Interval(successes / total, low, high, int(total), method)


def difference_interval(first: Interval, second: Interval) -> tuple[float, float]:
    """Bounds of first - second from the two intervals (square-and-add; Newcombe 1998, "MOVER")."""
    difference = first.estimate - second.estimate
    below = np.hypot(first.estimate - first.low, second.high - second.estimate)
    above = np.hypot(first.high - first.estimate, second.estimate - second.low)
    return float(difference - below), float(difference + above)


def equal_scores_interval(
    value: float, total: int, *, level: float = 0.95, bounds: tuple[float, float] = (0.0, 100.0)
) -> Interval:
    """Interval for the mean of a bounded score when all `total` independent answers gave the same `value`.

    By Clopper-Pearson at most q = 1 - ((1 - level) / 2)^(1 / total) of the population may differ from `value`, and
    what differs may lie anywhere in `bounds`.
    """
    if total == 0:
        return no_interval()
    other = proportion_interval(0, total, level=level).high
    low = value - other * (value - bounds[0])
    high = value + other * (bounds[1] - value)
    return Interval(value, low, high, total, IntervalMethod.SCORE_BOUND)


def crossed_interval(means_sq: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval for the mean over runs *and* questions like these, both random and crossed; shape [S, Q].

    Var(mean) = (MS_seed + MS_question - MS_residual) / (S Q), with Satterthwaite's degrees of freedom (Cornfield and
    Tukey 1956; Satterthwaite 1946). Questions or seeds with a gap are left out (questions first). Needs two of each.
    """
    from scipy import stats

    table = complete_table(np.atleast_2d(np.asarray(means_sq, dtype=float)))
    num_seeds, num_questions = table.shape
    if table.size == 0:
        return no_interval()
    grand = float(table.mean())
    if min(num_seeds, num_questions) < 2 or _all_equal(table):
        return no_interval(grand, num_units=num_seeds)
    ms_seed = num_questions * float(table.mean(axis=1).var(ddof=1))
    ms_question = num_seeds * float(table.mean(axis=0).var(ddof=1))
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + grand
    df_residual = (num_seeds - 1) * (num_questions - 1)
    ms_residual = float((residual**2).sum()) / df_residual
    # The sum can come out below either part's own share; then the larger single factor is the bound.
    total = max(ms_seed + ms_question - ms_residual, ms_seed, ms_question)
    spread = ms_seed**2 / (num_seeds - 1) + ms_question**2 / (num_questions - 1) + ms_residual**2 / df_residual
    df = total**2 / spread
    half = float(stats.t.ppf((1 + level) / 2, df)) * (total / table.size) ** 0.5
    return Interval(grand, grand - half, grand + half, num_seeds, IntervalMethod.CROSSED)


def complete_table(table_sq: Floats) -> Floats:
    """Drop seeds with no value at all, then questions with any gap, so that what is left is balanced."""
    table = table_sq[np.isfinite(table_sq).any(axis=1)]
    return table[:, np.isfinite(table).all(axis=0)]


def _all_equal(values: Floats) -> bool:
    """Equal up to rounding: 0.1 + 0.2 style differences are no variance."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
