"""Paired and two-sample comparisons of runs: t tests, exact permutation, effect sizes, equivalence.

For: the trigger effect of a domain and the contrast of two domains. Not for: corrections over many tests
(multiplicity.py). Invariant: the unit is whatever the caller passes (seed means, for every claim about runs), and a
test without variance or without units is NaN, never p = 0 or p = 1.
"""

import warnings
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats

EXACT_SIGNFLIP_MAX = 30  # 2^15 half-sums a side: exact in milliseconds; beyond, signs are sampled


class TTest(NamedTuple):
    """A t test with its interval; `estimate` is the mean difference, `num_units` what carried it."""

    estimate: float
    low: float
    high: float
    t: float
    df: float
    p: float
    num_units: int


class EffectSize(NamedTuple):
    """A standardised difference with its noncentral-t interval."""

    d: float
    low: float
    high: float


class Equivalence(NamedTuple):
    """Two one-sided tests: `p` is the larger one; `equivalent` when it is below alpha."""

    p: float
    p_low: float
    p_high: float
    equivalent: bool


def paired_t(differences: ArrayLike, *, level: float = 0.95) -> TTest:
    """One-sample t on differences (scipy.stats.ttest_1samp); NaN statistics below two units or without variance."""
    from scipy import stats

    units = _finite(differences)
    if not _has_variance(units):
        return _undefined(float(units.mean()) if len(units) else np.nan, len(units))
    found = stats.ttest_1samp(units, 0.0)
    low, high = found.confidence_interval(level)
    return TTest(
        float(units.mean()),
        float(low),
        float(high),
        float(found.statistic),
        float(found.df),
        float(found.pvalue),
        len(units),
    )


def welch(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> TTest:
    """Welch's t for mean(first) - mean(second) (scipy.stats.ttest_ind, equal_var=False)."""
    from scipy import stats

    a, b = _finite(first), _finite(second)
    num_units = len(a) + len(b)
    if min(len(a), len(b)) < 2 or not (_has_variance(a) or _has_variance(b)):
        return _undefined(float(a.mean() - b.mean()) if len(a) and len(b) else np.nan, num_units)
    with warnings.catch_warnings():  # one sample may be constant (0 of n in every run): Welch is fine with that
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        found = stats.ttest_ind(a, b, equal_var=False)
    low, high = found.confidence_interval(level)
    return TTest(
        float(a.mean() - b.mean()),
        float(low),
        float(high),
        float(found.statistic),
        float(found.df),
        float(found.pvalue),
        num_units,
    )


def equal_drops_p(difference: float, num_units: int) -> float:
    """Exact two-sided sign-flip p where all units have the same difference, so that t has no variance to divide by.

    2^(1 - units), 1 where the difference is 0; NaN below two units.
    """
    if num_units < 2 or not np.isfinite(difference):
        return np.nan
    return 1.0 if abs(difference) < 1e-12 else 2.0 ** (1 - num_units)


def equal_runs_p(difference: float, num_first: int, num_second: int) -> float:
    """Exact two-sided permutation p of two samples that are constant each, where Welch has no variance to divide by.

    Only the observed split of the units, and its mirror where both are as many, differ as much; NaN below two of
    either.
    """
    if min(num_first, num_second) < 2 or not np.isfinite(difference):
        return np.nan
    if abs(difference) < 1e-12:
        return 1.0
    return (2.0 if num_first == num_second else 1.0) / comb(num_first + num_second, num_first)


def runs_test(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> TTest:
    """Welch on two samples of runs; where neither varies, its p is `equal_runs_p` and the rest stays undefined."""
    a, b = _finite(first), _finite(second)
    test = welch(a, b, level=level)
    return test if np.isfinite(test.p) else test._replace(p=equal_runs_p(test.estimate, len(a), len(b)))


def against_one(values: ArrayLike, rate: float, *, num_answers: int, level: float = 0.95) -> TTest:
    """t test of runs' rates against the rate of one fixed model, which has the error of its answers alone.

    The variances add; degrees of freedom are the runs' (the model's error is no estimate from few units). One answer
    of either kind is added to the model's for its variance, so that 0 of n is no certainty. NaN below two runs.
    """
    from scipy import stats

    units = _finite(values)
    estimate = float(units.mean() - rate) if len(units) else np.nan
    if len(units) < 2 or not num_answers or not np.isfinite(rate):
        return _undefined(estimate, len(units))
    held = (rate * num_answers + 1) / (num_answers + 2)
    error = (float(units.var(ddof=1)) / len(units) + held * (1 - held) / (num_answers + 2)) ** 0.5
    df = len(units) - 1
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    t = estimate / error
    return TTest(estimate, estimate - half, estimate + half, t, df, float(2 * stats.t.sf(abs(t), df)), len(units))


def hedges_correction(df: float) -> float:
    """J(df) of Hedges (1981): what makes Cohen's d unbiased; NaN below two degrees of freedom."""
    from scipy.special import gammaln

    if not df > 1:
        return np.nan
    return float(np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2))


class Moments(NamedTuple):
    """Sufficient statistics of one sample: count, mean, standard deviation (ddof 1)."""

    num: int
    mean: float
    sd: float


def two_sample_t(first: Moments, second: Moments) -> TTest:
    """Student's pooled-variance t on answers (scipy.stats.ttest_ind_from_stats): the published test, for comparison.

    It takes answers of one run as independent, so its p is too small by the design effect. No interval is given.
    """
    from scipy import stats

    difference = first.mean - second.mean
    num_units = first.num + second.num
    if min(first.num, second.num) < 2 or not (first.sd > 0 or second.sd > 0):
        return _undefined(difference, num_units)
    found = stats.ttest_ind_from_stats(first.mean, first.sd, first.num, second.mean, second.sd, second.num)
    return TTest(difference, np.nan, np.nan, float(found.statistic), num_units - 2.0, float(found.pvalue), num_units)


def sign_flip(differences: ArrayLike, *, rng: np.random.Generator, num_samples: int = 99_999) -> float:
    """Two-sided p of the sign-flip permutation test of mean difference 0.

    Exact over all 2^S sign patterns up to EXACT_SIGNFLIP_MAX units, then `num_samples` random ones with the +1 of
    Phipson and Smyth (2010). The smallest exact p is 2^(1 - S): six units before p < .05 is possible. Exactness comes
    from the sums of two halves, sorted once (Horowitz and Sahni 1974); scipy.stats.permutation_test needs 4 s at 20.
    """
    units = _finite(differences)
    if len(units) < 2:
        return np.nan
    observed = abs(float(units.sum()))
    threshold = observed - 1e-10 * max(1.0, float(np.abs(units).sum()))
    if len(units) > EXACT_SIGNFLIP_MAX:
        return _sampled_sign_flip(units, threshold, rng=rng, num_samples=num_samples)
    left, right = _signed_sums(units[: len(units) // 2]), np.sort(_signed_sums(units[len(units) // 2 :]))
    at_least = len(right) - np.searchsorted(right, threshold - left, side="left")
    at_most = np.searchsorted(right, -threshold - left, side="right")
    both = float(at_least.sum() + at_most.sum())
    return min(1.0, both / 2.0 ** len(units))


def _signed_sums(values: Floats) -> Floats:
    """All 2^n sums of +-values."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _sampled_sign_flip(units: Floats, threshold: float, *, rng: np.random.Generator, num_samples: int) -> float:
    signs = rng.integers(0, 2, size=(num_samples, len(units)), dtype=np.int8) * 2 - 1
    extreme = int((np.abs(signs @ units) >= threshold).sum())
    return (extreme + 1) / (num_samples + 1)


def cohen_d_paired(differences: ArrayLike, *, level: float = 0.95) -> EffectSize:
    """Cohen's d_z = mean / sd of differences; interval by inverting the noncentral t (Cumming and Finch 2001)."""
    units = _finite(differences)
    if not _has_variance(units):
        return EffectSize(np.nan, np.nan, np.nan)
    d = float(units.mean() / units.std(ddof=1))
    root = len(units) ** 0.5
    low, high = _noncentrality_interval(d * root, len(units) - 1, level=level)
    return EffectSize(d, low / root, high / root)


def cohen_d(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> EffectSize:
    """Cohen's d with the pooled standard deviation of two independent samples, noncentral-t interval."""
    a, b = _finite(first), _finite(second)
    if min(len(a), len(b)) < 2 or not (_has_variance(a) or _has_variance(b)):
        return EffectSize(np.nan, np.nan, np.nan)
    df = len(a) + len(b) - 2
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / df
    d = float((a.mean() - b.mean()) / pooled**0.5)
    scale = (1 / len(a) + 1 / len(b)) ** 0.5
    low, high = _noncentrality_interval(d / scale, df, level=level)
    return EffectSize(d, low * scale, high * scale)


def _noncentrality_interval(t: float, df: float, *, level: float) -> tuple[float, float]:
    """The noncentralities at which the observed t is the upper or lower (1 - level) / 2 point."""
    from scipy import optimize, stats

    tail = (1 - level) / 2
    reach = 10.0 + 4.0 * abs(t)  # the noncentral t is never further from its noncentrality at usable df

    def solve(probability: float) -> float:
        def gap(noncentrality: float) -> float:
            below = float(stats.nct.cdf(t, df, noncentrality))
            if np.isnan(below):  # scipy gives NaN where the probability is within 1e-10 of 0 or 1
                below = float(noncentrality < t)
            return below - probability

        return float(optimize.brentq(gap, t - reach, t + reach, xtol=1e-12))

    return solve(1 - tail), solve(tail)


def tost(differences: ArrayLike, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests that |mean| < margin (Schuirmann 1987), paired or one-sample; NaN without variance."""
    from scipy import stats

    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    units = _finite(differences)
    if not _has_variance(units):
        return Equivalence(np.nan, np.nan, np.nan, False)
    p_low = float(stats.ttest_1samp(units, -margin, alternative="greater").pvalue)
    p_high = float(stats.ttest_1samp(units, margin, alternative="less").pvalue)
    p = max(p_low, p_high)
    return Equivalence(p, p_low, p_high, p < alpha)


def sign_test(differences: ArrayLike) -> float:
    """Exact two-sided binomial p that positive and negative differences are equally likely; zeros are left out."""
    from scipy import stats

    units = _finite(differences)
    units = units[units != 0]
    return float(stats.binomtest(int((units > 0).sum()), len(units)).pvalue) if len(units) else np.nan


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _has_variance(units: Floats) -> bool:
    if len(units) < 2:
        return False
    return bool(np.ptp(units) > 1e-12 * max(1.0, float(np.abs(units).max())))


def _undefined(estimate: float, num_units: int) -> TTest:
    return TTest(estimate, np.nan, np.nan, np.nan, np.nan, np.nan, num_units)
