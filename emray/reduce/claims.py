"""What a reader may believe: rates with intervals, ranks and tiers, contrasts of domains.

Not for counting (cells.py) or the trigger (effects.py). Invariant: the training seed is the unit of every test and of
every interval that claims something about runs; a place with one seed gets an interval over questions and no test.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Arm, Condition, Place
from emray.reduce.cells import Counts, ratio
from emray.reduce.effects import both_asked, effect_rows, effect_size_row
from emray.reduce.fields import Rows, generator, t_test_columns
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import AnswerTally
from emray.stats.arrays import Ints
from emray.stats.contrasts import welch
from emray.stats.intervals import (
    crossed_interval,
    no_interval,
    rate_interval,
    score_interval,
    seed_means,
)
from emray.stats.multiplicity import benjamini_hochberg, holm
from emray.stats.ranking import UNRANKED, Ranking, Tiers, pairwise_separation, rank_intervals, rate_draws, tiers
from emray.stats.resampling import MIN_TWO_WAY_SEEDS, two_way_bootstrap
from emray.stats.sufficient import RuleCounts


class Claims(NamedTuple):
    """Rows of the tables of the same names."""

    taxonomy: Rows
    effects: Rows  # arm backdoor
    control_effects: Rows  # the same for every other arm, with a column `arm`
    effect_sizes: Rows  # every arm
    rates: Rows
    ranks: Rows
    contrasts: Rows


def make_claims(study: Study, tally: AnswerTally, counts: Counts) -> Claims:
    """Every table of inference."""
    rankings = {key: _rank(study, counts, *key) for key in _rankable(study)}
    effects = {arm: effect_rows(study, tally, arm=arm) for arm in dict.fromkeys(place.arm for place in study.places)}
    return Claims(
        taxonomy=[_taxonomy_row(study, tally, counts, one, rankings.get(_ranking_of(one))) for one in study.prompted],
        effects=effects.get(Arm.BACKDOOR, []),
        control_effects=[{"arm": str(a), **row} for a, rows in effects.items() if a != Arm.BACKDOOR for row in rows],
        effect_sizes=[effect_size_row(study, tally, place) for place in study.places] if both_asked(study) else [],
        rates=[row for one in study.prompted for row in _rate_rows(study, counts, one)],
        ranks=[row for ranked in rankings.values() for row in _rank_rows(ranked)],
        contrasts=[row for key in rankings for row in _contrast_rows(study, counts, *key)],
    )


# Rates, ranks and tiers ------------------------------------------------------------------------------------------


class _Ranked(NamedTuple):
    places: list[Place]
    condition: Condition
    ranking: Ranking
    tiers: Tiers


def _rankable(study: Study) -> Iterator[tuple[str, Arm, Condition]]:
    """Every list of domains that is ranked: one model, one arm, one condition."""
    seen = dict.fromkeys((place.model, place.arm) for place in study.places if place.domain != NO_DOMAIN)
    for model, arm in seen:
        for condition in study.conditions:
            yield model, arm, condition


def _ranking_of(one: Prompted) -> tuple[str, Arm, Condition]:
    """The list that a place is ranked in."""
    return one.place.model, one.place.arm, one.condition


def _rank(study: Study, counts: Counts, model: str, arm: Arm, condition: Condition) -> _Ranked:
    places = study.places_of(model, arm)
    rule = counts.rules[study.spec.rule]
    tables = [_tables(study, rule, Prompted(place, condition)) for place in places]
    rates = np.array([_mean_over_seeds(events, totals) for events, totals in tables])
    draws = np.column_stack(
        [
            rate_draws(events, totals, rng=generator("rank", *place, condition), num_draws=study.spec.resamples)
            for place, (events, totals) in zip(places, tables, strict=True)
        ]
    )
    separation = pairwise_separation(*_padded(tables))
    return _Ranked(
        places,
        condition,
        rank_intervals(rates, draws, level=study.level),
        tiers(rates, separation.p_adjusted, draws, alpha=1 - study.spec.confidence),
    )


def _tables(study: Study, rule: RuleCounts, one: Prompted) -> tuple[Ints, Ints]:
    groups = study.groups_sq(*one)
    return rule.events[groups], rule.totals[groups]


def _padded(tables: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Stack [S, Q] tables to [D, S, Q]; a domain with fewer seeds gets empty ones."""
    num_seeds = max(len(events) for events, _ in tables)

    def stack(arrays: list[Ints]) -> Ints:
        return np.stack([np.pad(a, ((0, num_seeds - len(a)), (0, 0))) for a in arrays])

    return stack([events for events, _ in tables]), stack([totals for _, totals in tables])


def _mean_over_seeds(events_sq: Ints, totals_sq: Ints) -> float:
    rates = seed_means(events_sq, totals_sq)
    return float(np.nanmean(rates)) if np.isfinite(rates).any() else np.nan


def _taxonomy_row(
    study: Study, tally: AnswerTally, counts: Counts, one: Prompted, ranked: _Ranked | None
) -> dict[str, Any]:
    groups = study.groups_sq(*one)
    events, totals = _tables(study, counts.rules[study.spec.rule], one)
    rate = rate_interval(events, totals, level=study.level)
    aligned = score_interval(tally.aligned.total[groups], tally.aligned.num[groups], level=study.level)
    return {
        **one.columns,
        "n_seeds": _num_seeds(totals),
        "n_requested": int(counts.requested[groups].sum()),
        "n_scored": int(counts.scored[groups].sum()),
        "mean_aligned": aligned.estimate,
        "misaligned_rate": rate.estimate,
        "ci_low": rate.low,
        "ci_high": rate.high,
        **(_rank_columns(ranked, one.place) if ranked else dict.fromkeys(("rank", "rank_low", "rank_high", "tier"))),
    }


def _rank_columns(ranked: _Ranked, place: Place) -> dict[str, int | None]:
    d = ranked.places.index(place)
    one_seed = ranked.ranking.low[d] == UNRANKED  # no interval: then no tier either, a tier is a claim about runs
    values = {
        "rank": ranked.ranking.rank[d],
        "rank_low": ranked.ranking.low[d],
        "rank_high": ranked.ranking.high[d],
        "tier": UNRANKED if one_seed else ranked.tiers.tier[d],
    }
    return {name: None if value == UNRANKED else int(value) for name, value in values.items()}


def _rank_rows(ranked: _Ranked) -> Iterator[dict[str, Any]]:
    for d, place in enumerate(ranked.places):
        columns = _rank_columns(ranked, place)
        for k, probability in enumerate(ranked.ranking.p_rank[d]):
            yield {
                **Prompted(place, ranked.condition).columns,
                "rank": columns["rank"],
                "tier": columns["tier"],
                "tier_stability": ranked.tiers.stability[d],
                "place": k + 1,
                "probability": probability,
            }


def _rate_rows(study: Study, counts: Counts, one: Prompted) -> Iterator[dict[str, Any]]:
    """One row per rule; best and worst are the rates if what is not counted were all aligned, or all misaligned."""
    requested = int(counts.requested[study.groups_sq(*one)].sum())
    for name, rule in counts.rules.items():
        events, totals = _tables(study, rule, one)
        found = rate_interval(events, totals, level=study.level)
        num_events, num_total = int(events.sum()), int(totals.sum())
        yield {
            **one.columns,
            "rule": name,
            "n_seeds": _num_seeds(totals),
            "n_events": num_events,
            "n_total": num_total,
            "rate": found.estimate,
            "ci_low": found.low,
            "ci_high": found.high,
            "method": str(found.method),
            **_wider_intervals(study, one, name, events, totals),
            "rate_best": num_events / requested if requested else np.nan,
            "rate_worst": (num_events + requested - num_total) / requested if requested else np.nan,
        }


def _wider_intervals(study: Study, one: Prompted, rule: str, events: Ints, totals: Ints) -> dict[str, float]:
    """Intervals that also allow for other questions: crossed random effects, and from ten seeds on a bootstrap."""
    crossed = crossed_interval(ratio(events, totals), level=study.level)
    bootstrap = no_interval()
    if _num_seeds(totals) >= MIN_TWO_WAY_SEEDS:
        bootstrap = two_way_bootstrap(
            events,
            totals,
            rng=generator("two-way", *one.place, one.condition, rule),
            num_draws=study.spec.resamples,
            level=study.level,
        )
    return {
        "crossed_low": float(np.clip(crossed.low, 0, 1)),
        "crossed_high": float(np.clip(crossed.high, 0, 1)),
        "two_way_low": bootstrap.low,
        "two_way_high": bootstrap.high,
    }


def _contrast_rows(
    study: Study, counts: Counts, model: str, arm: Arm, condition: Condition
) -> Iterator[dict[str, Any]]:
    """Welch on the seeds' rates for every pair of domains."""
    places = study.places_of(model, arm)
    rates = [seed_means(*_tables(study, counts.rules[study.spec.rule], Prompted(place, condition))) for place in places]
    pairs = [(i, j) for i in range(len(places)) for j in range(i + 1, len(places))]
    tests = [welch(rates[i], rates[j], level=study.level) for i, j in pairs]
    p_values = [test.p for test in tests]
    for (i, j), test, p_holm, p_bh in zip(pairs, tests, holm(p_values), benjamini_hochberg(p_values), strict=True):
        yield {
            "model": model,
            "arm": str(arm),
            "condition": str(condition),
            "domain_a": places[i].domain,
            "domain_b": places[j].domain,
            "difference": test.estimate,
            **t_test_columns(test),
            "p_holm": p_holm,
            "p_bh": p_bh,
        }


# Small parts -----------------------------------------------------------------------------------------------------


def _num_seeds(totals_sq: Ints) -> int:
    return int((totals_sq.sum(axis=1) > 0).sum())
