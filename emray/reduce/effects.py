"""What the trigger does: the drop of the mean score from prompts without it to prompts with it.

Not for rates and ranks (claims.py). Invariant: pairs are of one seed and one question, and the seed is the unit: one
seed gives an interval over questions and no test.
"""

from typing import Any, NamedTuple

import numpy as np

from emray.records import USUAL_CONDITIONS, Arm, Condition, Place
from emray.reduce.cells import mean, standard_deviation
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, generator, t_test_columns
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import Moment
from emray.stats.arrays import Floats, Ints
from emray.stats.contrasts import (
    Moments,
    cohen_d_paired,
    equal_drops_p,
    hedges_correction,
    paired_t,
    sign_flip,
    sign_test,
    tost,
    two_sample_t,
)
from emray.stats.intervals import Interval, IntervalMethod, t_interval
from emray.stats.multiplicity import holm
from emray.stats.standard import filled, row_means

_NO_DROP = 1e-9  # score points: sums in another order


def seed_drops(estimates: Estimates, place: Place) -> Floats:
    """Drop of the mean score per seed [S], over questions scored under both conditions; NaN for a seed without any."""
    return _Paired.of(estimates, place).per_seed


class _Paired(NamedTuple):
    """Mean aligned score per seed under either condition [S], and the drops [S, Q] of questions scored under both."""

    without: Floats
    with_trigger: Floats
    drops: Floats

    @classmethod
    def of(cls, estimates: Estimates, place: Place) -> "_Paired":
        means = mean(estimates.tally.aligned)
        without, with_trigger = (means[groups] for groups in _groups(estimates.study, place).values())
        both = np.isfinite(without - with_trigger)
        first, second = (row_means(filled(np.where(both, side, np.nan))) for side in (without, with_trigger))
        return cls(first, second, np.where(both, without - with_trigger, np.nan))

    @property
    def per_seed(self) -> Floats:
        """Question-standardised drops."""
        return row_means(filled(self.drops))


def _groups(study: Study, place: Place) -> dict[Condition, Ints]:
    return {condition: study.groups_sq(place, condition) for condition in (Condition.WITHOUT, Condition.WITH)}


def effect_rows(estimates: Estimates, *, arm: Arm) -> Rows:
    """One row per place of an arm, Holm over the domains of a model; nothing unless both conditions were asked."""
    study = estimates.study
    if not both_asked(study, arm):
        return []
    rows = []
    for model in dict.fromkeys(place.model for place in study.places):
        family = [_effect_row(estimates, place) for place in study.places_of(model, arm)]
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            rows.append({**row, "p_holm": float(adjusted)})
    return rows


def both_asked(study: Study, arm: Arm) -> bool:
    """Whether an arm was asked without and with the trigger."""
    return set(USUAL_CONDITIONS) <= set(study.conditions_of(arm))


def effect_size_row(estimates: Estimates, place: Place) -> dict[str, Any]:
    """Hedges' g of the drop over seeds with its noncentral-t interval, and the test that there is no real drop."""
    drops = seed_drops(estimates, place)
    found, num = cohen_d_paired(drops, level=estimates.study.level), int(np.isfinite(drops).sum())
    correction, margin = hedges_correction(num - 1), estimates.study.sweep.margins.drop
    return {
        "model": place.model,
        "domain": place.domain,
        "arm": str(place.arm),
        "n_seeds": num,
        "cohen_d": correction * found.d,
        "ci_low": correction * found.low,
        "ci_high": correction * found.high,
        "margin": margin,
        "p_equivalent": tost(drops, margin=margin).p,
    }


def _effect_row(estimates: Estimates, place: Place) -> dict[str, Any]:
    paired = _Paired.of(estimates, place)
    per_seed = paired.per_seed
    test = paired_t(per_seed, level=estimates.study.level)
    if np.isnan(test.p):
        test = test._replace(p=equal_drops_p(test.estimate, test.num_units))
    interval = _drop_interval(estimates, place, paired)
    groups = _groups(estimates.study, place)
    return {
        "model": place.model,
        "domain": place.domain,
        "n_seeds": int(np.isfinite(per_seed).sum()),
        "mean_without": _nanmean(paired.without),
        "mean_with": _nanmean(paired.with_trigger),
        "drop": test.estimate,
        **t_test_columns(test),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "cohen_d": hedges_correction(test.df) * test.t / max(test.num_units, 1) ** 0.5,  # d = t / sqrt(seeds)
        "p_signflip": sign_flip(per_seed, rng=generator("flip", *place)),
        "p_two_sample": two_sample_t(*(_pooled(estimates.tally.aligned, groups[c]) for c in groups)).p,
    }


def _drop_interval(estimates: Estimates, place: Place, paired: _Paired) -> Interval:
    """t on seeds; one seed: t on questions; no spread at all: from the bounds of either condition's mean."""
    per_seed = paired.per_seed
    several = np.isfinite(per_seed).sum() > 1
    method = IntervalMethod.T_SEEDS if several else IntervalMethod.T_QUESTIONS
    found = t_interval(per_seed if several else paired.drops, level=estimates.study.level, method=method)
    if np.isnan(found.estimate) or np.isfinite(found.low):
        return found
    high, low = (estimates.score(Prompted(place, c)) for c in (Condition.WITHOUT, Condition.WITH))
    return found._replace(low=high.low - low.high, high=high.high - low.low)


class SignTest(NamedTuple):
    """How many domains of one model drop, of those with several runs, and how surprising that many is."""

    num_domains: int
    num_lower: int
    num_equal: int  # left out of the test
    p: float


def sign_tests(effects: Rows) -> dict[str, SignTest]:
    """By model; a domain whose drop is 0 up to rounding says nothing, one run makes no claim."""
    found = {}
    for model in dict.fromkeys(row["model"] for row in effects):
        drops = np.array([row["drop"] for row in effects if row["model"] == model and row["n_seeds"] > 1])
        drops = np.where(np.abs(drops) < _NO_DROP, 0.0, drops)
        lower, equal = int((drops > 0).sum()), int((drops == 0).sum())
        found[model] = SignTest(len(drops), lower, equal, sign_test(drops))
    return found


def _pooled(aligned: Moment, groups: Ints) -> Moments:
    """All answers of a place under one condition as one sample."""
    merged = Moment._make(np.atleast_1d(values[groups].sum()) for values in aligned)
    return Moments(int(merged.num[0]), float(mean(merged)[0]), float(standard_deviation(merged)[0]))


def _nanmean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
