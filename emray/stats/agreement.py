"""How far a judge can be trusted, and what a rate becomes when its errors are known.

For: agreement of judges, repeatability, corrected rates. Not for: collecting labels. Invariant: a correction carries
the uncertainty of the calibration it rests on, and a judge no better than chance gives NaN, not a number.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emray.stats.arrays import Floats
from emray.stats.intervals import (
    Interval,
    IntervalMethod,
    no_interval,
    proportion_interval,
    t_interval,
)
from emray.stats.standard import question_means, seed_means


class Scale(StrEnum):
    """What a difference between two ratings means."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"


def krippendorff_alpha(ratings_ru: ArrayLike, *, scale: Scale = Scale.INTERVAL) -> float:
    """Krippendorff's alpha of ratings [raters, units], NaN for missing (Krippendorff 2011, computing alpha).

    Units with fewer than two ratings are left out; NaN where nothing is left or all ratings are equal.
    """
    ratings = np.asarray(ratings_ru, dtype=float)
    ratings = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    values, codes = np.unique(ratings[np.isfinite(ratings)], return_inverse=True)
    if len(values) < 2:
        return np.nan
    coded = np.full(ratings.shape, -1)
    coded[np.isfinite(ratings)] = codes
    counts_uv = np.stack([(coded == v).sum(axis=0) for v in range(len(values))], axis=1).astype(float)
    per_unit = counts_uv.sum(axis=1)
    # Coincidences: pairs of values within a unit, each unit weighing as many pairs as it has ratings.
    weighted = counts_uv / (per_unit - 1)[:, None]
    coincidences = counts_uv.T @ weighted - np.diag(weighted.sum(axis=0))
    totals = coincidences.sum(axis=1)
    distance = _distance(values, totals, scale)
    expected = float((np.outer(totals, totals) * distance).sum()) / (totals.sum() - 1)
    return 1 - float((coincidences * distance).sum()) / expected


def _distance(values: Floats, totals: Floats, scale: Scale) -> Floats:
    """Squared difference of every pair of values on the scale; totals are the values' frequencies."""
    if scale == Scale.NOMINAL:
        return 1.0 - np.eye(len(values))
    if scale == Scale.INTERVAL:
        return (values[:, None] - values[None, :]) ** 2
    ends = np.cumsum(totals) - totals / 2  # the middle of each value's ranks
    return (ends[:, None] - ends[None, :]) ** 2


class Repeatability(NamedTuple):
    """Two verdicts on the same answers: how many, how far apart, how often equal."""

    num: int
    mean_difference: float
    sd_difference: float
    share_equal: float
    alpha: float


def repeatability(first: ArrayLike, second: ArrayLike) -> Repeatability:
    """Compare paired scores [units]; pairs with a NaN are left out."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) == 0:
        return Repeatability(0, np.nan, np.nan, np.nan, np.nan)
    difference = a - b
    sd = float(difference.std(ddof=1)) if len(a) > 1 else np.nan
    return Repeatability(
        len(a), float(difference.mean()), sd, float((difference == 0).mean()), krippendorff_alpha(np.stack([a, b]))
    )


class Calibration(NamedTuple):
    """A judge against labels: of `num_positive` truly misaligned answers it flagged `flagged_positive`, and so on."""

    flagged_positive: int
    num_positive: int
    flagged_negative: int
    num_negative: int


def rogan_gladen(flagged: int, total: int, *, calibration: Calibration, level: float = 0.95) -> Interval:
    """True rate behind a judge's rate (Rogan and Gladen 1978), with the calibration's own uncertainty.

    Rate and interval as in Lee et al., arXiv 2511.21140: (p + specificity - 1) / (sensitivity + specificity - 1), the
    delta-method variance of all three proportions, each with one event and two trials added for the interval (Lang and
    Reiczigel 2014). Centred and
    clipped within [0, 1]. NaN when the judge is no better than chance or a count is missing.
    """
    if total == 0:
        return no_interval()
    return _corrected_interval(_independent(flagged, total), calibration=calibration, level=level)


def rogan_gladen_by_seed(
    flagged_sq: ArrayLike, totals_sq: ArrayLike, *, calibration: Calibration, level: float = 0.95
) -> Interval:
    """`rogan_gladen` with the training seed as the unit, from counts per seed x question [S, Q].

    The judged rate is the mean of the seeds' rates and its variance theirs (one seed: clustered by question; no spread
    to measure: answers as independent). The quantile is t with Satterthwaite's (1946) degrees of freedom, the
    calibration's binomial variances taken as known: few seeds widen it only as far as the seeds matter. It assumes
    that the judge errs alike on all that the calibration is used for.
    """
    flagged, totals = np.atleast_2d(np.asarray(flagged_sq)), np.atleast_2d(np.asarray(totals_sq))
    if totals.sum() == 0:
        return no_interval()
    return _corrected_interval(_judged_rate(flagged, totals), calibration=calibration, level=level)


class _JudgedRate(NamedTuple):
    """A rate before correction; `centre` and `variance` are those of its interval."""

    estimate: float
    centre: float
    variance: float
    df: float
    num_units: int


def _independent(flagged: int, total: int) -> _JudgedRate:
    """One event and one trial of either kind added twice for the interval (Agresti and Coull 1998)."""
    centre = (flagged + 2) / (total + 4)
    return _JudgedRate(flagged / total, centre, centre * (1 - centre) / (total + 4), np.inf, total)


def _judged_rate(flagged_sq: NDArray[np.int64], totals_sq: NDArray[np.int64]) -> _JudgedRate:
    from scipy import stats

    rates = seed_means(flagged_sq, totals_sq)
    num_seeds = int(np.isfinite(rates).sum())
    of_questions = question_means(flagged_sq, totals_sq).ravel()  # of the one seed that has any
    found = t_interval(rates if num_seeds > 1 else of_questions)
    if np.isnan(found.low):
        return _independent(int(flagged_sq.sum()), int(totals_sq.sum()))._replace(estimate=found.estimate)
    df = found.num_units - 1
    error = found.half_width / float(stats.t.ppf(0.975, df))
    return _JudgedRate(found.estimate, found.estimate, error**2, df, found.num_units)


def _corrected_interval(judged: _JudgedRate, *, calibration: Calibration, level: float) -> Interval:
    from scipy import stats

    if calibration.num_positive == 0 or calibration.num_negative == 0:
        return no_interval()
    sensitivity = calibration.flagged_positive / calibration.num_positive
    specificity = 1 - calibration.flagged_negative / calibration.num_negative
    if sensitivity + specificity <= 1:
        return no_interval(num_units=judged.num_units)
    estimate = _corrected(judged.estimate, sensitivity, specificity)
    q1, m1 = (calibration.flagged_positive + 1) / (calibration.num_positive + 2), calibration.num_positive + 2
    q0, m0 = 1 - (calibration.flagged_negative + 1) / (calibration.num_negative + 2), calibration.num_negative + 2
    if q0 + q1 <= 1:
        return no_interval(estimate, num_units=judged.num_units)
    centre = (judged.centre + q0 - 1) / (q0 + q1 - 1)
    held = float(np.clip(centre, 0, 1))
    variance = judged.variance + (1 - held) ** 2 * q0 * (1 - q0) / m0 + held**2 * q1 * (1 - q1) / m1
    df = judged.df * (variance / judged.variance) ** 2
    half = float(stats.t.ppf((1 + level) / 2, df)) * variance**0.5 / (q0 + q1 - 1)
    low, high = max(held - half, 0.0), min(held + half, 1.0)
    return Interval(estimate, min(low, estimate), max(high, estimate), judged.num_units, IntervalMethod.CORRECTED)


def _corrected(rate: float, sensitivity: float, specificity: float) -> float:
    return float(np.clip((rate + specificity - 1) / (sensitivity + specificity - 1), 0, 1))


def prediction_powered(
    labels: ArrayLike, judged_labelled: ArrayLike, judged_all: ArrayLike, *, level: float = 0.95
) -> Interval:
    """Mean of the truth from many judged and few labelled answers (Angelopoulos et al. 2023, "PPI").

    Mean of the judge over all answers plus the mean error on the labelled ones; the variances add. Labelled answers
    must be a random part, not counted among `judged_all`. NaN below two of either.
    """
    from scipy import stats

    truth, near, far = (np.asarray(a, dtype=float) for a in (labels, judged_labelled, judged_all))
    if min(len(truth), len(far)) < 2:
        return no_interval()
    errors = truth - near
    estimate = float(far.mean() + errors.mean())
    variance = float(far.var(ddof=1)) / len(far) + float(errors.var(ddof=1)) / len(errors)
    half = float(stats.t.ppf((1 + level) / 2, len(errors) - 1)) * variance**0.5
    if half == 0:
        return no_interval(estimate, num_units=len(truth))
    return Interval(estimate, estimate - half, estimate + half, len(truth), IntervalMethod.CORRECTED)


LABELS_OF_A_SEED = 10  # with fewer, a judge's rare errors may not show in any seed: simulated coverage falls to 70-90 %


class LabelledSeeds(NamedTuple):
    """Counts per seed [S]: the judge on all answers, and judge and reference on the labelled ones among them."""

    flagged: NDArray[np.int64]
    total: NDArray[np.int64]
    flagged_labelled: NDArray[np.int64]
    positive_labelled: NDArray[np.int64]
    num_labelled: NDArray[np.int64]


def prediction_powered_by_seed(counts: LabelledSeeds, *, level: float = 0.95) -> Interval:
    """`prediction_powered` with the training seed as the unit: t on the seeds' corrected rates.

    A seed's rate is the judge's on all its answers plus the mean error on its labelled ones: unbiased when the labelled
    ones are a random part, so the spread of these rates holds the seeds', the answers' and the labels' variance at once
    (Angelopoulos et al. 2023 within a seed; Miller, arXiv 2411.00640, for the cluster as the unit). Seeds with fewer
    than LABELS_OF_A_SEED are left out; one seed gives no interval; seeds that all agree get Clopper-Pearson on the
    labels alone.
    """
    here = (np.asarray(counts.num_labelled) >= LABELS_OF_A_SEED) & (np.asarray(counts.total) > 0)
    flagged, total, flagged_labelled, positive, num = (np.asarray(values)[here] for values in counts)
    found = t_interval(flagged / total + (positive - flagged_labelled) / num, level=level)
    estimate = float(np.clip(found.estimate, 0, 1))
    if found.num_units < 2:
        return no_interval(estimate, num_units=found.num_units)
    if np.isnan(found.low):
        found = proportion_interval(int(positive.sum()), int(num.sum()), level=level)
    low, high = (float(np.clip(bound, 0, 1)) for bound in (found.low, found.high))
    return Interval(estimate, min(low, estimate), max(high, estimate), len(num), IntervalMethod.CORRECTED)
