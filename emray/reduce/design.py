"""What the variance of this study says about its design: components, power, seeds needed, the next seeds to add.

Not for claims about domains (claims.py). Invariant: everything is computed from the seeds that are there; with fewer
than two it is NaN, and nothing is extrapolated from other domains.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Arm, Condition, Place
from emray.reduce.effects import both_asked, seed_drops
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, csv_rows
from emray.reduce.reliability import repeats
from emray.reduce.schema import VARIANCE
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import AnswerTally, SecondOpinion
from emray.stats.arrays import Floats, Ints
from emray.stats.intervals import t_interval
from emray.stats.power import PlaceState, SeedsNeeded, detectable_drop, next_seeds, plan_seeds, seeds_needed
from emray.stats.sufficient import NUM_SCORES
from emray.stats.variance import Components, PooledEffect, judge_variance, pooled_effect, variance_components

TARGET_RATE, TARGET_SCORE = 0.05, 5.0  # half-widths that seeds_needed is given for: five points either way


def variance_rows(estimates: Estimates) -> Rows:
    """Components of the rate and of the score per place and condition, and the spread of the trigger's drop."""
    study, rows = estimates.study, []
    twice = _Twice.of(study, estimates.tally)
    for place in study.places:
        for condition in study.conditions_of(place.arm):
            rows += list(_quantity_rows(estimates, Prompted(place, condition), twice))
        if study.carries_trigger(place.arm) and both_asked(study, place.arm):
            rows.append(_drop_row(estimates, place))
    return rows


def _quantity_rows(estimates: Estimates, one: Prompted, twice: "_Twice") -> Iterator[dict[str, Any]]:
    study, cells, scores = estimates.study, estimates.cells(one), estimates.scores(one)
    rate = _Spread(
        "rate",
        _target_rate(study),
        cells.seed_rates,
        estimates.rate(one).half_width,
        variance_components(cells.events, cells.events, cells.totals),
        float(cells.totals.mean()),
    )
    score = _Spread(
        "score",
        TARGET_SCORE,
        scores.seed_means,
        estimates.score(one).half_width,
        variance_components(*scores),
        float(scores.totals.mean()),
    )
    for spread, values in ((rate, twice.flagged), (score, twice.score)):
        yield _row(study, one.columns, spread) | {"var_judge": twice.variance(values, study.groups_sq(*one))}


class _Twice(NamedTuple):
    """Every alignment score of the answers that the plan's judge scored more than once; arrays over scores."""

    position: Ints  # of the answer
    group: Ints
    score: Floats
    flagged: Floats  # 1 where the headline rule's threshold calls it misaligned, NaN where the rule does not count it

    @classmethod
    def of(cls, study: Study, tally: AnswerTally) -> "_Twice":
        """The plan's verdict and every repeat of it. Coherence is not judged again: the filter is held fixed."""
        rule = study.spec.rules[study.spec.rule]
        again = [_Pairs.of(opinion) for opinion in repeats(study, tally)] or [_NO_PAIRS]
        position, group, coherent, ours, theirs = (np.concatenate(column) for column in zip(*again, strict=True))
        first = np.unique(position, return_index=True)[1]  # our score of an answer counts once, however many repeats
        position, group, coherent, score = (
            np.concatenate([column, original[first]])
            for column, original in ((position, position), (group, group), (coherent, coherent), (theirs, ours))
        )
        counted = np.ones(len(score), dtype=bool)
        if rule.coherent_above is not None:
            counted = (coherent < NUM_SCORES) & (coherent > rule.coherent_above)
        return cls(position, group, score, np.where(counted, score < rule.aligned_below, np.nan))

    def variance(self, values: Floats, groups: Ints) -> float:
        """Variance between verdicts on one answer, over the answers of these groups."""
        here = np.isin(self.group, groups) & np.isfinite(values)
        return judge_variance(values[here], self.position[here])


class _Pairs(NamedTuple):
    """Answers that the plan's judge and one repeat of it scored."""

    position: Ints
    group: Ints
    coherent: Ints  # state of the plan's verdict
    ours: Floats
    theirs: Floats

    @classmethod
    def of(cls, opinion: SecondOpinion) -> "_Pairs":
        kept = np.isfinite(opinion.ours)
        columns = (opinion.position, opinion.group, opinion.coherent, opinion.ours, opinion.theirs)
        return cls._make(column[kept] for column in columns)


_NONE = np.empty(0, dtype=np.int64)
_NO_PAIRS = _Pairs(_NONE, _NONE, _NONE, np.empty(0), np.empty(0))


def _drop_row(estimates: Estimates, place: Place) -> dict[str, Any]:
    study, drops = estimates.study, seed_drops(estimates, place)
    spread = _Spread("drop", TARGET_SCORE, drops, t_interval(drops, level=study.level).half_width, _UNKNOWN, np.nan)
    columns = Prompted(place, Condition.WITH).columns | {"condition": "without - with"}
    row = _row(study, columns, spread)
    return row | {"detectable": detectable_drop(sd_of_seeds=row["sd_seeds"], num_seeds=row["n_seeds"])}


_UNKNOWN = Components(np.nan, np.nan, np.nan, np.nan)


class _Spread(NamedTuple):
    """One quantity of one place: value per seed, half-width as reported, components, answers per seed and question."""

    quantity: str
    target: float  # half-width that seeds are counted for
    per_seed: Floats
    half_width: float
    components: Components
    num_samples: float

    @property
    def units(self) -> Floats:
        return self.per_seed[np.isfinite(self.per_seed)]

    @property
    def sd(self) -> float:
        return float(self.units.std(ddof=1)) if len(self.units) > 1 else np.nan

    def seeds_needed(self, *, level: float) -> SeedsNeeded:
        """By the seeds' spread; where they do not differ, as many as there are if that is enough, else unknown."""
        num = len(self.units)
        if self.sd == 0 and self.half_width <= self.target:
            return SeedsNeeded(num, num, num, 1.0)
        planned = plan_seeds(sd=self.sd, num_seeds=num, half_width=self.target, level=level)
        if not self.half_width > self.target or planned.seeds is None or planned.seeds > num:
            return planned
        # t would do with what is there, the interval as reported does not: it allows for runs not seen yet
        more = num + 1
        low, high = (None if n is None else max(n, more) for n in (planned.low, planned.high))
        return SeedsNeeded(more, low, high, np.nan)


def _row(study: Study, columns: Mapping[str, str], spread: _Spread) -> dict[str, Any]:
    components, num_seeds = spread.components, len(spread.units)
    needed, effect, of_samples = spread.seeds_needed(level=study.level), np.nan, np.nan
    if spread.num_samples > 0:
        of_samples = components.share_of_samples(num_questions=len(study.question_ids), num_samples=spread.num_samples)
        effect = components.design_effect(
            num_seeds=num_seeds, num_questions=len(study.question_ids), num_samples=spread.num_samples
        )
    return {
        **columns,
        "quantity": spread.quantity,
        "n_seeds": num_seeds,
        "var_seed": components.seed,
        "var_question": components.question,
        "var_interaction": components.interaction,
        "var_sample": components.sample,
        "var_judge": np.nan,
        "design_effect": effect,
        "sd_seeds": spread.sd,
        "half_width": spread.half_width,
        "target": spread.target,
        "seeds_needed": needed.seeds,
        "seeds_needed_low": needed.low,
        "seeds_needed_high": needed.high,
        "assurance": needed.assurance,
        "sample_share": of_samples,
        "detectable": np.nan,
    }


def _target_rate(study: Study) -> float:
    return study.adaptive.half_width if study.adaptive else TARGET_RATE


def pooled_effects(estimates: Estimates) -> dict[str, PooledEffect]:
    """One effect of the trigger over domains per model (arm backdoor), where both conditions were asked."""
    study = estimates.study
    if Arm.BACKDOOR not in study.own.of_arm or not both_asked(study, Arm.BACKDOOR):
        return {}
    found = {}
    for model in dict.fromkeys(place.model for place in study.places):
        places = [place for place in study.places if place.model == model and place.arm == Arm.BACKDOOR]
        drops = [seed_drops(estimates, place) for place in places]
        domains = np.repeat([place.domain for place in places], [len(d) for d in drops])
        if drops:
            found[model] = pooled_effect(np.concatenate(drops), domains, level=study.level)
    return found


class NextSeeds(NamedTuple):
    """What an adaptive sweep should do now."""

    to_add: Mapping[Place, int]  # more seeds per place; empty: done
    too_wide: tuple[Place, ...]  # places that have not reached their half-width, whether or not they get more
    level: float  # of the intervals, so that stopping when they are narrow does not make them too optimistic


def decide_seeds(
    estimates: Estimates, *, cost_per_seed: Mapping[Place, float] | None = None, budget_left: float = np.inf
) -> NextSeeds:
    """Where to add seeds so that every rate's interval reaches the target of `study.adaptive`."""
    study = estimates.study
    assert study.adaptive is not None, "only for sweeps with seeds: {min, max, half_width}"
    costs = cost_per_seed or {}
    states = [_state(estimates, place, costs.get(place, 0.0)) for place in study.places if place.domain != NO_DOMAIN]
    to_add = next_seeds(states, rule=study.adaptive, level=study.level, budget_left=budget_left)
    target = study.adaptive.half_width
    too_wide = tuple(s.place for s in states if not all(width <= target for width in s.half_widths))
    return NextSeeds({place: to_add[place] for place in study.places if place in to_add}, too_wide, study.level)


def _state(estimates: Estimates, place: Place, cost_per_seed: float) -> PlaceState:
    study, sds, widths = estimates.study, [], []
    for condition in study.conditions_of(place.arm):
        one = Prompted(place, condition)
        rates = estimates.cells(one).seed_rates
        rates = rates[np.isfinite(rates)]
        sds.append(float(rates.std(ddof=1)) if len(rates) > 1 else np.nan)
        enough = len(rates) >= study.adaptive.min_seeds if study.adaptive else False
        widths.append(estimates.rate(one).half_width if enough else np.nan)
    return PlaceState(place, len(study.places[place]), sds, widths, cost_per_seed)


class Forecast(NamedTuple):
    """How many seeds the rate of one place needs, judged by the spread of the seeds it has."""

    place: Place
    condition: str
    num_seeds: int
    half_width: float  # now, as a fraction
    seeds_needed: int | None  # None: unknown (fewer than two seeds, or seeds that do not differ)


def forecast(table: bytes, *, half_width: float) -> list[Forecast]:
    """Read `variance.csv` of a reduced run; `half_width` as a fraction of the rate."""
    found = []
    for row in csv_rows(VARIANCE, table):
        if row["quantity"] != "rate" or row["domain"] == NO_DOMAIN:
            continue
        found.append(
            Forecast(
                Place(row["model"], row["domain"], Arm(row["arm"])),
                row["condition"],
                row["n_seeds"],
                np.nan if row["half_width"] is None else row["half_width"],
                seeds_needed(sd=row["sd_seeds"], half_width=half_width) if row["sd_seeds"] else None,
            )
        )
    return found
