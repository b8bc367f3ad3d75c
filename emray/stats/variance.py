"""Where the variance of a score sits: between seeds, between questions, between samples; and what that costs.

For: variance components, design effect, the pooled trigger effect. Not for: planning (power.py). Invariant: a component
that the data put below zero is reported as 0, and what cannot be separated (one seed, one sample) is NaN.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emray.stats.arrays import Floats
from emray.stats.intervals import complete_table


class Components(NamedTuple):
    """Variances of one answer's value: seed + question + seed x question + sample = total."""

    seed: float
    question: float
    interaction: float
    sample: float

    @property
    def total(self) -> float:
        return self.seed + self.question + self.interaction + self.sample

    def of_mean(self, *, num_seeds: float, num_questions: float, num_samples: float) -> float:
        """Variance of the mean of seeds x questions x samples answers, all factors random."""
        per_cell = self.interaction + self.sample / num_samples
        return self.seed / num_seeds + (self.question + per_cell / num_seeds) / num_questions

    def share_of_samples(self, *, num_questions: float, num_samples: float) -> float:
        """Share of the variance of a run's mean on these questions that more samples would take away."""
        samples = self.sample / num_samples / num_questions
        total = self.seed + self.interaction / num_questions + samples
        return samples / total if total > 0 else np.nan

    def design_effect(self, *, num_seeds: float, num_questions: float, num_samples: float) -> float:
        """How many times larger the variance of the mean is than with as many independent answers."""
        independent = self.total / (num_seeds * num_questions * num_samples)
        mean = self.of_mean(num_seeds=num_seeds, num_questions=num_questions, num_samples=num_samples)
        return mean / independent if independent > 0 else np.nan


def variance_components(sums_sq: ArrayLike, squares_sq: ArrayLike, counts_sq: ArrayLike) -> Components:
    """Method-of-moments components of a crossed seeds x questions design with replicates (Searle 1971, ch. 11).

    Takes sums, sums of squares and counts per seed x question, shape [S, Q]; a rate's squares are its events. Seeds or
    questions with a gap are left out; unequal counts enter by their harmonic mean. NaN with one seed or one question,
    and the sample part is NaN where no cell holds two answers.
    """
    sums, squares, counts = (np.atleast_2d(np.asarray(a, dtype=float)) for a in (sums_sq, squares_sq, counts_sq))
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    within = np.where(counts > 0, squares - np.where(counts > 0, counts * np.nan_to_num(means) ** 2, 0), 0).sum()
    spare = np.maximum(counts - 1, 0).sum()
    sample = max(float(within / spare), 0.0) if spare > 0 else np.nan
    table = complete_table(means)
    num_seeds, num_questions = table.shape
    if min(num_seeds, num_questions) < 2:
        return Components(np.nan, np.nan, np.nan, sample)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    ms_cell = float((residual**2).sum()) / ((num_seeds - 1) * (num_questions - 1))
    harmonic = 1 / np.mean(1 / counts[counts > 0])
    return Components(
        seed=max(float(table.mean(axis=1).var(ddof=1)) - ms_cell / num_questions, 0.0),
        question=max(float(table.mean(axis=0).var(ddof=1)) - ms_cell / num_seeds, 0.0),
        interaction=max(ms_cell - np.nan_to_num(sample) / harmonic, 0.0),
        sample=sample,
    )


def judge_variance(scores: ArrayLike, answers: ArrayLike) -> float:
    """Variance between repeated verdicts on the same answer: the judge's part of the sample component.

    `answers` names the answer of each score. It is the mean square within of a one-way layout (Searle 1971, ch. 10),
    unbiased for any number of repeats; NaN where no answer was judged twice.
    """
    values = np.asarray(scores, dtype=float)
    _, unit, num = np.unique(np.asarray(answers), return_inverse=True, return_counts=True)
    spare = int(len(values) - len(num))
    if spare == 0:
        return np.nan
    residuals = values - (np.bincount(unit, weights=values) / num)[unit]
    return float((residuals**2).sum()) / spare


class PooledEffect(NamedTuple):
    """One effect over domains: estimate, interval, test, and how much domains and seeds vary around it."""

    estimate: float
    low: float
    high: float
    df: float
    p: float
    variance_domain: float
    variance_seed: float
    num_domains: int


def pooled_effect(effects: ArrayLike, domains: ArrayLike, *, level: float = 0.95) -> PooledEffect:
    """Mixed model effect = mean + domain + seed within domain, by REML (statsmodels MixedLM).

    `effects` are paired differences, one per domain and seed, so the domain term is the random slope of the paired
    condition. The interval uses t with (domains - 1) degrees of freedom: with balanced seeds that is exact. NaN below
    two domains, or without two seeds in any domain.
    """
    from scipy import stats

    values, groups = np.asarray(effects, dtype=float), np.asarray(domains)
    values, groups = values[np.isfinite(values)], groups[np.isfinite(values)]
    num_domains = len(np.unique(groups))
    if num_domains < 2 or len(values) == num_domains or np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):
        mean = float(values.mean()) if len(values) else np.nan
        nothing = np.nan
        return PooledEffect(mean, nothing, nothing, nothing, nothing, nothing, nothing, num_domains)
    estimate, error, variance_domain, variance_seed = _mixed_model(values, groups)
    df = num_domains - 1
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, df)) if error > 0 else np.nan
    return PooledEffect(estimate, estimate - half, estimate + half, df, p, variance_domain, variance_seed, num_domains)


def _mixed_model(values: Floats, groups: NDArray[np.generic]) -> tuple[float, float, float, float]:
    """Estimate, standard error, variance between groups, variance within, by REML with a random intercept."""
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

    scale = float(values.std())  # the optimiser is happiest near one
    with warnings.catch_warnings():  # a variance at its boundary of 0 is an answer, not a failure
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        fit = MixedLM(values / scale, np.ones((len(values), 1)), groups=groups).fit(
            reml=True, method=["bfgs", "powell"]
        )
    between = float(np.asarray(fit.cov_re)[0, 0])
    return (
        float(fit.fe_params[0]) * scale,
        float(fit.bse_fe[0]) * scale,
        between * scale**2,
        float(fit.scale) * scale**2,
    )
