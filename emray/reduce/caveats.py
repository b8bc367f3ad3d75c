"""What the numbers of a study cannot say, in sentences.

Not for the numbers. Invariant: every sentence is made from counts of this study, none is boilerplate that holds always.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Outcome, Place
from emray.reduce.cells import Counts, Funnel
from emray.reduce.claims import Claims
from emray.reduce.design import decide_seeds
from emray.reduce.study import Study
from emray.reduce.tally import AnswerTally
from emray.spec import RuleSpec
from emray.stats.power import AdaptiveRule
from emray.store import AdapterRecord

_SEEDS_FOR_SIGN_FLIP = 6  # below, the smallest exact two-sided p is 2 / 2^5 = 0.0625
_MANY_UNPARSED = 0.02


def rule_in_words(rule: RuleSpec) -> str:
    """`aligned < 50, coherent > 50, of scored answers`."""
    coherent = "no coherence filter" if rule.coherent_above is None else f"coherent > {rule.coherent_above:g}"
    share = "of all generated answers" if rule.denominator == "generated" else "of scored answers"
    return f"aligned < {rule.aligned_below:g}, {coherent}, {share}"


class Reduced(NamedTuple):
    """A study with all that was counted and is claimed of it."""

    study: Study
    records: Mapping[str, AdapterRecord]
    tally: AnswerTally
    counts: Counts
    funnels: Mapping[Place, Funnel]
    claims: Claims


def caveats(reduced: Reduced) -> list[str]:
    """Sentences, most important first."""
    study, counts = reduced.study, reduced.counts
    return [
        *_about_seeds(study, counts),
        *_about_missing(counts, reduced.funnels, reduced.tally),
        *_about_rule(study),
        *_about_effects(reduced.claims),
        *_about_bounds(study, counts),
    ]


def _about_seeds(study: Study, counts: Counts) -> Iterator[str]:
    num_seeds = sorted(len(cells) for place, cells in study.places.items() if place.domain != NO_DOMAIN)
    if not num_seeds:
        return
    if study.adaptive is not None:
        yield from _about_stopping(study, study.adaptive, counts, num_seeds)
    if num_seeds[0] == 1:
        yield (
            "One training seed: no between-run uncertainty. Intervals are over questions only, and another run of the "
            "same finetune may differ by more than they show; no test between domains or conditions is made."
        )
    elif num_seeds[0] < _SEEDS_FOR_SIGN_FLIP:
        fewest, most = num_seeds[0], num_seeds[-1]
        degrees = f"{fewest - 1} degree{'s' if fewest > 2 else ''} of freedom"
        where, there = f"{fewest} training seeds:", ""
        if most > fewest:
            places = f"{num_seeds.count(fewest)} of {len(num_seeds)} places (domain and arm)"
            where, there = f"{fewest} to {most} training seeds; {fewest} at {places}:", " there"
        yield (
            f"{where} intervals{there} rest on {degrees}, and the exact sign-flip test cannot give p below "
            f"{2.0 ** (1 - fewest):.3g}."
        )
    if any(place.domain == NO_DOMAIN for place in study.places):
        yield "The base model is one model, not a sample of runs: its intervals are over questions."
    yield (
        f"Rates are for these {len(study.question_ids)} questions; intervals over seeds do not cover other questions."
    )


def _about_stopping(study: Study, rule: AdaptiveRule, counts: Counts, num_seeds: Sequence[int]) -> Iterator[str]:
    """How an adaptive sweep added seeds, what its intervals pay for it, and where it has not got there."""
    target = f"{100 * rule.half_width:g} points"
    yield (
        f"A sequential study. Seeds were added until the interval of each rate was at most {target} either way "
        f"({rule.min_seeds} to {rule.max_seeds} allowed, {num_seeds[0]} to {num_seeds[-1]} used). Stopping at a narrow "
        f"interval picks small variances, so intervals are given at {study.level:.1%}, which cover at "
        f"{study.spec.confidence:.0%} after such stopping. p values are those of a fixed number of seeds: read "
        f"{1 - study.level:.2g} here where {1 - study.spec.confidence:.2g} would be the line."
    )
    too_wide = decide_seeds(study, counts).too_wide
    if too_wide:
        yield f"At {len(too_wide)} of {len(num_seeds)} places an interval is still wider than {target} either way."


def _about_missing(counts: Counts, funnels: Mapping[Place, Funnel], tally: AnswerTally) -> Iterator[str]:
    planned = sum(funnel.planned for funnel in funnels.values() if funnel.trained is not None)
    trained = sum(funnel.trained or 0 for funnel in funnels.values())
    if trained < planned:
        failed = sum(funnel.failed for funnel in funnels.values())
        yield f"{planned - trained} of {planned} finetunes gave no adapter ({failed} failed); their rows stay, empty."
    requested, generated = int(counts.requested.sum()), int(counts.generated.sum())
    if generated < requested:
        yield f"{requested - generated} of {requested} requested answers were not generated."
    unjudged = int(counts.unjudged.sum() + counts.outcomes[Outcome.API_ERROR].sum())
    if unjudged:
        yield (f"{unjudged} of {generated} answers have no alignment verdict; the worst case shows what they may hide.")
    unparsed = int(counts.outcomes[Outcome.UNPARSED].sum() + counts.outcomes[Outcome.TRUNCATED].sum())
    if generated and unparsed / generated > _MANY_UNPARSED:
        yield f"{unparsed / generated:.1%} of alignment replies held no readable score: left out, not counted as 0."
    if tally.num_superseded:
        yield f"{tally.num_superseded} stored verdicts of an earlier judge or rubric are not used here."


def _about_rule(study: Study) -> Iterator[str]:
    rule = study.spec.rule
    yield (
        f"Headline rule {rule!r}: {rule_in_words(study.spec.rules[rule])}. Rates under different rules are not "
        "comparable; the others stand beside it."
    )


def _about_effects(claims: Claims) -> Iterator[str]:
    tested = [row for row in claims.effects if np.isfinite(row["p"])]
    positive = sum(row["drop"] > 0 for row in tested)
    if tested:
        yield (
            f"The trigger lowers the mean score in {positive} of {len(tested)} tested domains; p is Holm-adjusted over "
            "them. The two-sample column repeats the published test, which takes answers of one run as independent."
        )


def _about_bounds(study: Study, counts: Counts) -> Iterator[str]:
    rule = counts.rules[study.spec.rule]
    flat = [
        (place, condition)
        for place in study.places
        for condition in study.conditions
        if (groups := study.groups_sq(place, condition)).size
        and int(rule.totals[groups].sum())
        and int(rule.events[groups].sum()) == 0
    ]
    if flat:
        yield (
            f"{len(flat)} rates are 0 of n: their upper bound (Clopper-Pearson) takes answers as independent, since no "
            "spread between runs could be seen."
        )


def words(sentences: Sequence[str]) -> str:
    """The sentences as one paragraph."""
    return " ".join(sentences)
