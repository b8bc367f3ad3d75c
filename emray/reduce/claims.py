"""What a reader may believe: rates with intervals, ranks and tiers, contrasts of domains.

Not for counting (cells.py) or the trigger (effects.py). Invariant: the training seed is the unit of every test and of
every interval that claims something about runs; a place with one seed gets an interval over questions and no test.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from emray.records import Arm, Condition, Place
from emray.reduce.associations import ANY
from emray.reduce.attribute_rows import attribute_words
from emray.reduce.effects import both_asked, effect_rows, effect_size_row
from emray.reduce.estimates import Estimates, RateCells
from emray.reduce.fields import Rows, generator, t_test_columns
from emray.reduce.study import Prompted, Study
from emray.stats.arrays import Floats
from emray.stats.contrasts import TTest, runs_test
from emray.stats.headline import count_runs, t_rate_interval
from emray.stats.intervals import Interval, crossed_interval, difference_interval, no_interval
from emray.stats.multiplicity import benjamini_hochberg, holm
from emray.stats.ranking import UNRANKED, Ranking, Tiers, rank_intervals, tiers
from emray.stats.resampling import MIN_TWO_WAY_SEEDS, two_way_bootstrap
from emray.stats.standard import filled, question_means, seed_means


class Claims(NamedTuple):
    """Rows of the tables of the same names."""

    taxonomy: Rows
    effects: Rows  # arm backdoor
    control_effects: Rows  # the same for every other arm, with a column `arm`
    effect_sizes: Rows  # every arm
    rates: Rows
    seeds: Rows
    ranks: Rows
    contrasts: Rows


def make_claims(estimates: Estimates) -> Claims:
    """Every table of inference."""
    study = estimates.study
    lists = {key: _Contrasted.of(estimates, *key) for key in _rankable(study)}
    rankings = {key: _rank(estimates, contrasted) for key, contrasted in lists.items()}
    effects = {arm: effect_rows(estimates, arm=arm) for arm in dict.fromkeys(place.arm for place in study.places)}
    return Claims(
        taxonomy=[_taxonomy_row(estimates, one, rankings.get(_ranking_of(one))) for one in study.prompted],
        effects=effects.get(Arm.BACKDOOR, []),
        control_effects=[{"arm": str(a), **row} for a, rows in effects.items() if a != Arm.BACKDOOR for row in rows],
        effect_sizes=[effect_size_row(estimates, place) for place in study.places if both_asked(study, place.arm)],
        rates=[row for one in study.prompted for row in _rate_rows(estimates, one)],
        seeds=[row for one in study.prompted for row in _seed_rows(estimates, one)],
        ranks=[row for ranked in rankings.values() for row in _rank_rows(ranked)],
        contrasts=[row for contrasted in lists.values() for row in _contrast_rows(contrasted)],
    )


# Rates, ranks and tiers ------------------------------------------------------------------------------------------


class _Ranked(NamedTuple):
    places: list[Place]
    condition: Condition
    ranking: Ranking
    tiers: Tiers


def _rankable(study: Study) -> Iterator[tuple[str, Arm, Condition]]:
    """Every list of domains that is ranked: one model, one arm, one condition."""
    seen = dict.fromkeys((place.model, place.arm) for place in study.places if place.arm != Arm.BASE)
    for model, arm in seen:
        for condition in study.conditions_of(arm):
            yield model, arm, condition


def _ranking_of(one: Prompted) -> tuple[str, Arm, Condition]:
    """The list that a place is ranked in."""
    return one.place.model, one.place.arm, one.condition


class _Contrasted(NamedTuple):
    """Every pair of domains of one list, tested once for contrasts and tiers alike."""

    places: list[Place]
    condition: Condition
    pairs: list[tuple[int, int]]
    tests: list[TTest]
    p_bh: Floats

    @classmethod
    def of(cls, estimates: Estimates, model: str, arm: Arm, condition: Condition) -> "_Contrasted":
        places = estimates.study.places_of(model, arm)
        series = [Prompted(place, condition) for place in places]
        rates, intervals = [estimates.cells(one).seed_rates for one in series], [estimates.rate(one) for one in series]
        pairs = [(i, j) for i in range(len(places)) for j in range(i + 1, len(places))]
        tests = [runs_test(rates[i], rates[j], level=estimates.study.level) for i, j in pairs]
        tests = [_with_bounds(test, intervals[i], intervals[j]) for test, (i, j) in zip(tests, pairs, strict=True)]
        return cls(places, condition, pairs, tests, benjamini_hochberg([test.p for test in tests]))

    def p_adjusted(self) -> Floats:
        """[D, D], NaN where no test was possible."""
        table = np.full((len(self.places), len(self.places)), np.nan)
        for (i, j), p in zip(self.pairs, self.p_bh, strict=True):
            table[i, j] = table[j, i] = p
        return table


def _with_bounds(test: TTest, first: Interval, second: Interval) -> TTest:
    """Where runs do not vary and t gives no interval: from both rates' own (`difference_interval`)."""
    if np.isnan(test.p) or np.isfinite(test.low):
        return test
    low, high = difference_interval(first, second)
    return test._replace(low=low, high=high)


def _rank(estimates: Estimates, contrasted: _Contrasted) -> _Ranked:
    study, (places, condition) = estimates.study, contrasted[:2]
    series = [Prompted(place, condition) for place in places]
    rates = np.array([estimates.rate(one).estimate for one in series])
    draws = np.column_stack([_draws(estimates, one) for one in series])
    return _Ranked(
        places,
        condition,
        rank_intervals(rates, draws, level=study.level),
        tiers(rates, contrasted.p_adjusted(), draws, alpha=1 - study.level),
    )


def _draws(estimates: Estimates, one: Prompted) -> Floats:
    """Draws of a rate over runs, from the distribution that its interval is read from; NaN below two usable seeds."""
    num, found = estimates.study.spec.resamples, estimates.posterior(one)
    if found is None:
        return np.full(num, np.nan)
    return found.quantiles(generator("rank", *one.place, one.condition).random(num))


def _taxonomy_row(estimates: Estimates, one: Prompted, ranked: _Ranked | None) -> dict[str, Any]:
    groups, counts, rate = estimates.study.groups_sq(*one), estimates.counts, estimates.rate(one)
    return {
        **one.columns,
        "n_seeds": estimates.cells(one).num_seeds,
        "n_requested": int(counts.requested[groups].sum()),
        "n_scored": int(counts.scored[groups].sum()),
        "mean_aligned": estimates.score(one).estimate,
        "misaligned_rate": rate.estimate,
        "ci_low": rate.low,
        "ci_high": rate.high,
        **(_rank_columns(ranked, one.place) if ranked else dict.fromkeys(("rank", "rank_low", "rank_high", "tier"))),
        "attributes": attribute_words(estimates.study.sweep).get(one.place.domain, ANY),
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


def _rate_rows(estimates: Estimates, one: Prompted) -> Iterator[dict[str, Any]]:
    """One row per rule; best and worst are the rates if what is missing were all aligned, or all misaligned."""
    level = estimates.study.level
    for rule in estimates.counts.rules:
        cells, found = estimates.cells(one, rule), estimates.rate(one, rule)
        by_t = t_rate_interval(cells.events, cells.totals, level=level)
        runs = count_runs(cells.events, cells.totals, level=level)
        best, worst = cells.bounds()
        yield {
            **one.columns,
            "rule": rule,
            "n_seeds": cells.num_seeds,
            "n_events": int(cells.events.sum()),
            "n_total": int(cells.totals.sum()),
            "rate": found.estimate,
            "ci_low": found.low,
            "ci_high": found.high,
            "method": str(found.method),
            **_wider_intervals(estimates.study, one, rule, cells),
            "rate_best": best,
            "rate_worst": worst,
            "rate_answer_weighted": cells.answer_weighted,
            "t_low": by_t.low,
            "t_high": by_t.high,
            "n_runs_misaligned": runs.num,
            "runs_low": runs.low,
            "runs_high": runs.high,
        }


def _wider_intervals(study: Study, one: Prompted, rule: str, cells: RateCells) -> dict[str, float]:
    """Intervals that also allow for other questions: crossed random effects, and from ten seeds on a bootstrap."""
    table = filled(question_means(cells.events, cells.totals))
    crossed = crossed_interval(table, level=study.level)
    bootstrap = no_interval()
    if cells.num_seeds >= MIN_TWO_WAY_SEEDS:
        values = table[np.isfinite(table).all(axis=1)]
        bootstrap = two_way_bootstrap(
            values,
            np.ones_like(values),
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


def _seed_rows(estimates: Estimates, one: Prompted) -> Iterator[dict[str, Any]]:
    """One row per planned run under the headline rule."""
    cells, scores = estimates.cells(one), estimates.scores(one)
    rates, means = cells.seed_rates, scores.seed_means
    weighted = seed_means(cells.events.sum(axis=1)[:, None], cells.totals.sum(axis=1)[:, None])
    for row, index in enumerate(estimates.study.places[one.place]):
        yield {
            **one.columns,
            "seed": estimates.study.cells[index].seed,
            "n_events": int(cells.events[row].sum()),
            "n_total": int(cells.totals[row].sum()),
            "rate": rates[row],
            "rate_answer_weighted": weighted[row],
            "mean_aligned": means[row],
        }


def _contrast_rows(contrasted: _Contrasted) -> Iterator[dict[str, Any]]:
    """Every pair of domains."""
    places, p_holm = contrasted.places, holm([test.p for test in contrasted.tests])
    for (i, j), test, adjusted, p_bh in zip(contrasted.pairs, contrasted.tests, p_holm, contrasted.p_bh, strict=True):
        yield {
            "model": places[i].model,
            "arm": str(places[i].arm),
            "condition": str(contrasted.condition),
            "domain_a": places[i].domain,
            "domain_b": places[j].domain,
            "difference": test.estimate,
            **t_test_columns(test),
            "p_holm": adjusted,
            "p_bh": p_bh,
        }
