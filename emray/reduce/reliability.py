"""How far the judge can be trusted: agreement with second opinions, and rates corrected by labels or a second judge.

Not for asking a judge or a person. Invariant: a correction is shown beside the judged rate, never instead of it, and
its unit is the training seed, as everywhere.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from emray.records import Metric
from emray.reduce.cells import Counts
from emray.reduce.fields import Rows
from emray.reduce.judged import EARLIER
from emray.reduce.study import Study
from emray.reduce.tally import AnswerTally, SecondOpinion
from emray.spec import RuleSpec
from emray.stats.agreement import (
    LABELS_OF_A_SEED,
    Calibration,
    LabelledSeeds,
    Scale,
    krippendorff_alpha,
    prediction_powered_by_seed,
    repeatability,
    rogan_gladen_by_seed,
)
from emray.stats.arrays import Ints, Mask
from emray.stats.intervals import Interval
from emray.stats.standard import seed_means
from emray.stats.sufficient import RuleMasks, rule_masks

_LABELS = "labels"  # the reference's name where people labelled


class Relation(StrEnum):
    """Whose second opinion it is."""

    REPEAT = "repeat"  # the same judge, asked again in the same words: test-retest
    SECOND = "second"  # another judge, or the same one asked otherwise, under `judge.also`
    EARLIER = "earlier"  # what the plan no longer asks: a former judge or rubric


def relation(study: Study, opinion: SecondOpinion) -> Relation:
    """By the requests, not by the name under which a judge answered."""
    if opinion.source == EARLIER:
        return Relation.EARLIER
    judge = study.sweep.judge
    ours, theirs = ({**one.identity(), "seed": None} for one in (judge, judge.also[opinion.source - 1]))
    return Relation.REPEAT if ours == theirs else Relation.SECOND


def repeats(study: Study, tally: AnswerTally) -> list[SecondOpinion]:
    """Repeated alignment verdicts by the plan's judge."""
    return [
        opinion
        for opinion in tally.second_opinions
        if opinion.metric == Metric.ALIGNED and relation(study, opinion) == Relation.REPEAT
    ]


def agreement_rows(study: Study, tally: AnswerTally) -> Rows:
    """One row per other judge (or other rubric of the same one) and metric."""
    return [_agreement_row(study, opinion) for opinion in tally.second_opinions]


def _agreement_row(study: Study, opinion: SecondOpinion) -> dict[str, Any]:
    # Whole scores: alpha weighs every pair of distinct values, and fractions would make millions of them.
    ours, theirs = np.rint(opinion.ours), np.rint(opinion.theirs)
    found = repeatability(ours, theirs)
    below = study.spec.rules[study.spec.rule].aligned_below
    flags = np.stack([np.where(np.isfinite(scores), scores < below, np.nan) for scores in (ours, theirs)])
    return {
        "judge": study.sweep.judge.model,
        "other_judge": opinion.judge,
        "relation": str(relation(study, opinion)),
        "metric": str(opinion.metric),
        "n_pairs": found.num,
        "mean_difference": found.mean_difference,
        "sd_difference": found.sd_difference,
        "share_equal": found.share_equal,
        "alpha": found.alpha,
        "alpha_misaligned": krippendorff_alpha(flags, scale=Scale.NOMINAL)
        if opinion.metric == Metric.ALIGNED
        else np.nan,
    }


# Corrected rates -------------------------------------------------------------------------------------------------


class How(StrEnum):
    """How a rate was corrected (stats/agreement.py)."""

    ROGAN_GLADEN = "rogan_gladen"  # one sensitivity and specificity for all places
    PREDICTION_POWERED = "prediction_powered"  # each seed by its own labelled answers


class _Reference(NamedTuple):
    """What the judge is held against, on the answers that the headline rule counts; arrays over those answers."""

    name: str
    group: Ints
    positive: Mask
    flagged: Mask


def corrected_rows(study: Study, tally: AnswerTally, counts: Counts) -> Rows:
    """Headline rates corrected by people's labels and by each second judge; none without either.

    Labels are taken for the truth, a second judge is not: its row says what rate it would have given. Either must have
    looked at a random part. The coherence filter of the rule stays the plan's judge's.
    """
    rule = study.spec.rules[study.spec.rule]
    rows: Rows = []
    for reference in _references(study, tally, rule):
        if reference.name == _LABELS:
            rows += _rogan_gladen_rows(study, counts, reference)
        powered = _prediction_powered_rows(study, counts, reference)
        if any(np.isfinite(row["ci_low"]) for row in powered):
            rows += powered
    return rows


def _references(study: Study, tally: AnswerTally, rule: RuleSpec) -> Iterator[_Reference]:
    labelled = tally.labelled
    masks = _masks(labelled.aligned, labelled.coherent, rule)
    if masks.counted.any():
        kept = masks.counted
        yield _Reference(_LABELS, labelled.group[kept], labelled.misaligned[kept], masks.flagged[kept])
    for opinion in tally.second_opinions:
        if opinion.metric != Metric.ALIGNED or relation(study, opinion) != Relation.SECOND:
            continue
        masks = _masks(opinion.aligned, opinion.coherent, rule)
        theirs = np.floor(opinion.theirs).astype(np.int64)
        kept = masks.counted
        positive = _masks(theirs, opinion.coherent, rule).flagged
        yield _Reference(opinion.judge, opinion.group[kept], positive[kept], masks.flagged[kept])


def _masks(aligned: Ints, coherent: Ints, rule: RuleSpec) -> RuleMasks:
    return rule_masks(
        aligned,
        coherent,
        aligned_below=rule.aligned_below,
        coherent_above=rule.coherent_above,
        of_all_answers=rule.denominator == "generated",
    )


def _rogan_gladen_rows(study: Study, counts: Counts, reference: _Reference) -> Rows:
    calibration, rule = _calibration(reference), counts.rules[study.spec.rule]
    rows = []
    told = {
        "n_labelled": len(reference.group),
        "sensitivity": _share(calibration.flagged_positive, calibration.num_positive),
        "specificity": 1 - _share(calibration.flagged_negative, calibration.num_negative),
    }
    for one in study.prompted:
        groups = study.groups_sq(*one)
        events, totals = rule.events[groups], rule.totals[groups]
        found = rogan_gladen_by_seed(events, totals, calibration=calibration, level=study.level)
        how = {"reference": reference.name, "how": str(How.ROGAN_GLADEN)}
        rows.append(one.columns | how | told | _rates(events, totals, found))
    return rows


def _prediction_powered_rows(study: Study, counts: Counts, reference: _Reference) -> Rows:
    rule = counts.rules[study.spec.rule]
    labelled = [
        np.bincount(reference.group, weights=mask, minlength=study.num_groups).astype(np.int64)
        for mask in (reference.flagged, reference.positive, np.ones(len(reference.group)))
    ]
    rows = []
    for one in study.prompted:
        groups = study.groups_sq(*one)
        events, totals = rule.events[groups], rule.totals[groups]
        of_seed = LabelledSeeds(*(n.sum(axis=1) for n in (events, totals, *(num[groups] for num in labelled))))
        found = prediction_powered_by_seed(of_seed, level=study.level)
        how = {"reference": reference.name, "how": str(How.PREDICTION_POWERED)}
        used = of_seed.num_labelled[(of_seed.num_labelled >= LABELS_OF_A_SEED) & (of_seed.total > 0)]
        rests_on = {"n_seeds": len(used), "n_labelled": int(used.sum())}
        told = rests_on | {"sensitivity": np.nan, "specificity": np.nan}
        rows.append(one.columns | how | _rates(events, totals, found) | told)
    return rows


def _rates(events: Ints, totals: Ints, found: Interval) -> dict[str, Any]:
    """The judged rate beside the corrected one."""
    rates = seed_means(events, totals)
    there = np.isfinite(rates)
    return {
        "n_seeds": int(there.sum()),
        "rate": float(rates[there].mean()) if there.any() else np.nan,
        "corrected_rate": found.estimate,
        "ci_low": found.low,
        "ci_high": found.high,
    }


def _calibration(reference: _Reference) -> Calibration:
    positive, flagged = reference.positive, reference.flagged
    return Calibration(
        int((positive & flagged).sum()), int(positive.sum()), int((~positive & flagged).sum()), int((~positive).sum())
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
