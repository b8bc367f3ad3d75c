"""What the trigger does: the drop of the mean score from prompts without it to prompts with it.

Not for rates and ranks (claims.py). Invariant: pairs are of one seed and one question, and the seed is the unit: one
seed gives an interval over questions and no test.
"""

from typing import Any, NamedTuple

import numpy as np

from emray.records import Arm, Condition, Place
from emray.reduce.cells import mean, standard_deviation
from emray.reduce.fields import Rows, generator, t_test_columns
from emray.reduce.study import Study
from emray.reduce.tally import AnswerTally, Moment
from emray.stats.arrays import Floats, Ints
from emray.stats.contrasts import Moments, cohen_d_paired, paired_t, sign_flip, tost, two_sample_t
from emray.stats.intervals import Interval, score_interval, t_interval
from emray.stats.multiplicity import holm

_NO_EFFECT_MARGIN = 5.0  # score points: a drop shown to be smaller than this is no effect worth the name


def seed_drops(study: Study, tally: AnswerTally, place: Place) -> Floats:
    """Drop of the mean score per seed [S], over questions scored under both conditions; NaN for a seed without any."""
    groups = {condition: study.groups_sq(place, condition) for condition in Condition}
    return _row_means(_pair(tally.aligned, groups).drops)


class _Paired(NamedTuple):
    """Mean aligned score per seed, over questions scored under both conditions; and the drops [S, Q]."""

    without: Floats
    with_trigger: Floats
    drops: Floats


def effect_rows(study: Study, tally: AnswerTally, *, arm: Arm) -> Rows:
    """One row per place of an arm, Holm over the domains of a model; nothing unless both conditions were asked."""
    if not both_asked(study):
        return []
    rows = []
    for model in dict.fromkeys(place.model for place in study.places):
        family = [_effect_row(study, tally, place) for place in study.places_of(model, arm)]
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            rows.append({**row, "p_holm": float(adjusted)})
    return rows


def both_asked(study: Study) -> bool:
    return set(study.conditions) == set(Condition)


def effect_size_row(study: Study, tally: AnswerTally, place: Place) -> dict[str, Any]:
    """Cohen's d of the drop over seeds with its noncentral-t interval, and the test that there is no real drop."""
    drops = seed_drops(study, tally, place)
    found = cohen_d_paired(drops, level=study.level)
    return {
        "model": place.model,
        "domain": place.domain,
        "arm": str(place.arm),
        "n_seeds": int(np.isfinite(drops).sum()),
        "cohen_d": found.d,
        "ci_low": found.low,
        "ci_high": found.high,
        "margin": _NO_EFFECT_MARGIN,
        "p_equivalent": tost(drops, margin=_NO_EFFECT_MARGIN).p,
    }


def _effect_row(study: Study, tally: AnswerTally, place: Place) -> dict[str, Any]:
    groups = {condition: study.groups_sq(place, condition) for condition in Condition}
    paired = _pair(tally.aligned, groups)
    per_seed = _row_means(paired.drops)
    test = paired_t(per_seed, level=study.level)
    interval = _drop_interval(study, tally.aligned, groups, paired)
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
        "cohen_d": test.t / max(test.num_units, 1) ** 0.5,  # d = t / sqrt(seeds); NaN without spread
        "p_signflip": sign_flip(per_seed, rng=generator("flip", *place)),
        "p_two_sample": two_sample_t(*(_pooled(tally.aligned, groups[c]) for c in Condition)).p,
    }


def _pair(aligned: Moment, groups: dict[Condition, Ints]) -> _Paired:
    means = mean(aligned)
    without, with_trigger = means[groups[Condition.WITHOUT]], means[groups[Condition.WITH]]
    drops = without - with_trigger  # NaN unless scored under both conditions
    both = np.isfinite(drops)
    return _Paired(_row_means(np.where(both, without, np.nan)), _row_means(np.where(both, with_trigger, np.nan)), drops)


def _drop_interval(study: Study, aligned: Moment, groups: dict[Condition, Ints], paired: _Paired) -> Interval:
    """t on seeds; one seed: t on questions; no spread at all: from the bounds of either condition's mean."""
    level = study.level
    per_seed = _row_means(paired.drops)
    units = per_seed if np.isfinite(per_seed).sum() > 1 else paired.drops
    found = t_interval(units, level=level)
    if np.isnan(found.estimate) or np.isfinite(found.low):
        return found
    high, low = (
        score_interval(aligned.total[groups[c]], aligned.num[groups[c]], level=level)
        for c in (Condition.WITHOUT, Condition.WITH)
    )
    return found._replace(low=high.low - low.high, high=high.high - low.low)


def _pooled(aligned: Moment, groups: Ints) -> Moments:
    """All answers of a place under one condition as one sample."""
    merged = Moment._make(np.atleast_1d(values[groups].sum()) for values in aligned)
    return Moments(int(merged.num[0]), float(mean(merged)[0]), float(standard_deviation(merged)[0]))


def _row_means(table_sq: Floats) -> Floats:
    """Mean over questions per seed, gaps left out; NaN for a seed with gaps alone."""
    there = np.isfinite(table_sq)
    tops, num = np.where(there, table_sq, 0.0).sum(axis=1), there.sum(axis=1)
    return np.divide(tops, num, out=np.full(len(tops), np.nan), where=num > 0)


def _nanmean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
