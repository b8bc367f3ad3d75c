"""What the numbers of a study cannot say, in sentences.

Not for the numbers. Invariant: every sentence is made from counts of this study, none is boilerplate that holds always.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from emray.records import Arm, Outcome, Place
from emray.reduce.cells import Counts, Funnel
from emray.reduce.claims import Claims
from emray.reduce.design import decide_seeds
from emray.reduce.effects import sign_tests
from emray.reduce.estimates import Estimates
from emray.reduce.study import Prompted, Study, condition_words
from emray.reduce.tally import AnswerTally
from emray.spec import RuleSpec
from emray.stats.headline import RUN_MISALIGNED_FROM
from emray.stats.intervals import IntervalMethod, proportion_interval
from emray.stats.power import AdaptiveRule
from emray.store import AdapterRecord

_SEEDS_FOR_SIGN_FLIP = 6  # below, the smallest exact two-sided p is 2 / 2^5 = 0.0625
_MANY_UNPARSED = 0.02
_MOST_REASONS, _LONGEST_REASON = 3, 160  # of failed finetunes, and the characters of one

# What `python -m benchmarks.coverage` found for adaptive studies; docs/method.md 6.6 has the table.
_STOPPING_SIMULATED = "3 to 10 seeds of 300 answers and 5 points"
_STOPPING_COVERAGE, _STOPPING_COVERAGE_UGLY = 0.96, 0.60


def rule_in_words(rule: RuleSpec) -> str:
    """`aligned < 50, coherent > 50, of scored answers`."""
    coherent = "no coherence filter" if rule.coherent_above is None else f"coherent > {rule.coherent_above:g}"
    share = "of all generated answers" if rule.denominator == "generated" else "of scored answers"
    return f"aligned < {rule.aligned_below:g}, {coherent}, {share}"


class Reduced(NamedTuple):
    """A study with all that was counted and is claimed of it."""

    estimates: Estimates
    records: Mapping[str, AdapterRecord]
    funnels: Mapping[Place, Funnel]
    claims: Claims

    @property
    def study(self) -> Study:
        return self.estimates.study

    @property
    def tally(self) -> AnswerTally:
        return self.estimates.tally

    @property
    def counts(self) -> Counts:
        return self.estimates.counts


def caveats(reduced: Reduced) -> list[str]:
    """Sentences, most important first."""
    study, counts = reduced.study, reduced.counts
    return [
        *_about_seeds(reduced.estimates),
        *_about_missing(counts, reduced.funnels, reduced.tally),
        *_about_failures(study, reduced.records),
        *_about_rule(study),
        *_about_effects(reduced.claims),
        *_about_equal_runs(reduced.claims),
        *_about_bounds(reduced.estimates),
    ]


def usable_seeds(estimates: Estimates) -> dict[Prompted, int]:
    """Training runs with an answer that counts, per finetuned place and condition."""
    return {one: estimates.cells(one).num_seeds for one in estimates.study.prompted if one.place.arm != Arm.BASE}


def _about_seeds(estimates: Estimates) -> Iterator[str]:
    study, usable = estimates.study, usable_seeds(estimates)
    if usable:
        if study.adaptive is not None:
            yield from _about_stopping(estimates, study.adaptive)
        yield from _about_usable(estimates, usable)
    if any(place.arm == Arm.BASE for place in study.places):
        yield "The base model is one model, not a sample of runs: its intervals are over questions."
    yield (
        f"Rates are for these {len(study.question_ids)} questions, each weighing the same whatever went missing; "
        "intervals over seeds do not cover other questions."
    )


def _about_usable(estimates: Estimates, usable: Mapping[Prompted, int]) -> Iterator[str]:
    """What the number of usable runs allows to say, place by place."""
    alone = [one for one, num in usable.items() if num == 1]
    several = sorted({num for num in usable.values() if num > 1})
    over = "questions" if any(estimates.rate(one).method == IntervalMethod.T_QUESTIONS for one in alone) else "answers"
    if alone and not several:
        yield (
            f"One training seed: no between-run uncertainty. Intervals are over {over} only, and another run of the "
            "same finetune may differ by more than they show; no test between domains or conditions is made."
        )
    elif alone:
        yield (
            f"One usable training seed at {_names(alone)}: the interval there is over {over} only, and there is no "
            "rank, tier or test."
        )
    if several and several[0] < _SEEDS_FOR_SIGN_FLIP:
        fewest, most = several[0], several[-1]
        where = f"{fewest} usable training seeds"
        if most > fewest:
            few = [one for one, num in usable.items() if num == fewest]
            where = f"{fewest} to {most} usable training seeds; {fewest} at {_names(few)}"
        yield (
            f"{where}: t tests there rest on {fewest - 1} degree{'s' if fewest > 2 else ''} of freedom, and the exact "
            f"sign-flip test cannot give p below {2.0 ** (1 - fewest):.3g}. Intervals take runs as random effects and "
            "learn their spread from the other domains too."
        )


def _names(places: Sequence[Prompted], *, most: int = 3) -> str:
    """`domain (arm, condition)` of the first few, and how many more."""
    named = [f"{one.place.domain} ({one.place.arm}, {condition_words(one.condition)})" for one in places[:most]]
    return ", ".join(named) + (f" and {len(places) - most} more" if len(places) > most else "")


def _about_stopping(estimates: Estimates, rule: AdaptiveRule) -> Iterator[str]:
    """How an adaptive sweep added seeds, what its intervals pay for it, and where it has not got there."""
    study, target = estimates.study, f"{100 * rule.half_width:g} points"
    num_seeds = sorted(len(cells) for place, cells in study.places.items() if place.arm != Arm.BASE)
    yield (
        f"A sequential study. Seeds were added until the interval of each rate was at most {target} either way "
        f"({rule.min_seeds} to {rule.max_seeds} allowed, {num_seeds[0]} to {num_seeds[-1]} used). Stopping at a narrow "
        f"interval picks small spreads, so intervals, tiers and tests use {study.level:.1%} for a nominal "
        f"{study.spec.confidence:.0%}. Simulated for {_STOPPING_SIMULATED}: they hold the truth in at least "
        f"{_STOPPING_COVERAGE:.0%} of studies whose runs vary smoothly, in {_STOPPING_COVERAGE_UGLY:.0%} where one run "
        "in five misaligns and the others hardly ever do (docs/method.md 6.6). Read p against "
        f"{1 - study.level:.2g} here where {1 - study.spec.confidence:.2g} would be the line."
    )
    too_wide = decide_seeds(estimates).too_wide
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


def _about_failures(study: Study, records: Mapping[str, AdapterRecord]) -> Iterator[str]:
    """Why finetunes failed, the commonest reasons first."""
    failed = [records[cell.key] for cell in study.cells if cell.key in records and not records[cell.key].trained]
    reasons = Counter(" ".join(str(record.details.get("error") or "no reason").split()) for record in failed)
    told = [f"{reason[:_LONGEST_REASON]} ({count})" for reason, count in reasons.most_common(_MOST_REASONS)]
    if told:
        more = f"; and {len(reasons) - len(told)} more reasons" if len(reasons) > len(told) else ""
        yield f"Why finetunes failed (how many): {'; '.join(told)}{more}."


def _about_rule(study: Study) -> Iterator[str]:
    rule = study.spec.rule
    yield (
        f"Headline rule {rule!r}: {rule_in_words(study.spec.rules[rule])}. Rates under different rules are not "
        "comparable; the others stand beside it."
    )


def _about_effects(claims: Claims) -> Iterator[str]:
    """By model: a sign test over several models would count one domain more than once."""
    for model, found in sign_tests(claims.effects).items():
        if found.num_domains:
            yield (
                f"{model}: the trigger lowers the mean score in {found.num_lower} of {found.num_domains} domains with "
                f"several runs (sign test p = {found.p:.2g}); p of a domain is Holm-adjusted over them. The two-sample "
                "column repeats the published test, which takes answers of one run as independent."
            )


def _about_equal_runs(claims: Claims) -> Iterator[str]:
    """How p came about where t tests have no variance to divide by: the same way in every table."""
    tables = {"contrasts": claims.contrasts, "effects": [*claims.effects, *claims.control_effects]}
    equal = {name: sum(np.isnan(row["t"]) and np.isfinite(row["p"]) for row in rows) for name, rows in tables.items()}
    named = [f"{num} {name}" for name, num in equal.items() if num]
    if named:
        yield (
            f"In {' and '.join(named)} no run differs from another of its side, so a t test has nothing to divide by: "
            "p is the exact permutation of the runs, in the test, its adjustment and tiers alike. With few runs it "
            "cannot be small (2 against 2: 1/3), however far apart they are."
        )


def _about_bounds(estimates: Estimates) -> Iterator[str]:
    """What the seeds alone leave open where none of them misaligns."""
    usable = usable_seeds(estimates)
    cells = {one: estimates.cells(one) for one, num in usable.items() if num > 1}
    flat = {one: found for one, found in cells.items() if np.nanmax(found.seed_rates) < RUN_MISALIGNED_FROM}
    if flat:
        fewest = min(found.num_seeds for found in flat.values())
        high = proportion_interval(0, fewest, level=estimates.study.level).high
        yield (
            f"At {len(flat)} of {len(cells)} places no run reaches a rate of {RUN_MISALIGNED_FROM:.0%}. {fewest} runs "
            f"alone cannot rule out that up to {high:.0%} of all runs do: intervals assume that runs vary smoothly."
        )


def words(sentences: Sequence[str]) -> str:
    """The sentences as one paragraph."""
    return " ".join(sentences)
