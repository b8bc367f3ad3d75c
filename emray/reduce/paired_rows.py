"""Arms against arms and conditions against conditions: the difference of their rates, paired by run and question.

Not for the trigger's effect on scores (effects.py) or for pairs of domains (claims.py). Invariant: a pair is one seed,
and within it the questions that both sides answered; a planned seed without a pair is counted.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from emray.records import Place
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, generator
from emray.reduce.study import Prompted
from emray.spec import Pair, Side
from emray.stats.arrays import Floats
from emray.stats.contrasts import TTest, equal_drops_p, paired_t, sign_flip
from emray.stats.intervals import IntervalMethod, difference_interval, t_interval
from emray.stats.multiplicity import holm
from emray.stats.standard import filled, question_means, row_means


def paired_rows(estimates: Estimates) -> Rows:
    """Every pair of the sweep at every domain, Holm within a family of one model."""
    study, rows = estimates.study, []
    models = dict.fromkeys(place.model for place in study.places)
    for family in study.sweep.pair_families() if not study.imported else ():
        for model in models:
            found = [
                row | {"family": family.name} for pair in family.pairs for row in _pair_rows(estimates, model, pair)
            ]
            for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
                rows.append(row | {"p_holm": float(adjusted)})
    return rows


def _pair_rows(estimates: Estimates, model: str, pair: Pair) -> Iterator[dict[str, Any]]:
    for place in estimates.study.places_of(model, pair.first.arm):
        if place._replace(arm=pair.second.arm) in estimates.study.places:
            yield _row(estimates, place, pair)


class _Matched(NamedTuple):
    """Rates of either side and their difference per seed and question [S, Q], where both sides have answers."""

    first: Floats
    second: Floats
    num_planned: int  # seeds that either side was to have

    @property
    def differences(self) -> Floats:
        """Per seed [S], each question weighing the same; NaN where nothing is matched."""
        return row_means(filled(self.first - self.second))


def _row(estimates: Estimates, place: Place, pair: Pair) -> dict[str, Any]:
    one, other = (_at(place, side) for side in pair)
    matched, level = _matched(estimates, one, other), estimates.study.level
    units = matched.differences
    test = paired_t(units, level=level)
    if np.isnan(test.p):
        test = test._replace(p=equal_drops_p(test.estimate, test.num_units))
    low, high = _bounds(estimates, matched, test, (one, other))
    return {
        "model": place.model,
        "domain": place.domain,
        "test": str(pair.test),
        "arm": str(pair.first.arm),
        "condition": str(pair.first.condition),
        "against": str(pair.against),
        "n_seeds": test.num_units,
        "n_unpaired": matched.num_planned - test.num_units,
        "rate": _mean(matched.first),
        "rate_against": _mean(matched.second),
        "difference": test.estimate,
        "ci_low": low,
        "ci_high": high,
        "t": test.t,
        "df": test.df,
        "p": test.p,
        "p_signflip": sign_flip(units, rng=generator("paired", *place, *pair.first, *pair.second)),
    }


def _at(place: Place, side: Side) -> Prompted:
    return Prompted(place._replace(arm=side.arm), side.condition)


def _matched(estimates: Estimates, one: Prompted, other: Prompted) -> _Matched:
    by_seed = [_by_seed(estimates, side) for side in (one, other)]
    seeds = sorted(set(by_seed[0]) | set(by_seed[1]))
    gap = np.full(len(estimates.study.question_ids), np.nan)
    first, second = (np.array([rates.get(seed, gap) for seed in seeds]).reshape(-1, len(gap)) for rates in by_seed)
    both = np.isfinite(first - second)
    return _Matched(np.where(both, first, np.nan), np.where(both, second, np.nan), len(seeds))


def _by_seed(estimates: Estimates, one: Prompted) -> dict[int, Floats]:
    """Rates per question [Q] of every planned run."""
    cells, study = estimates.cells(one), estimates.study
    means = question_means(cells.events, cells.totals)
    return {study.cells[index].seed: row for index, row in zip(study.places[one.place], means, strict=True)}


def _bounds(
    estimates: Estimates, matched: _Matched, test: TTest, sides: tuple[Prompted, Prompted]
) -> tuple[float, float]:
    """t on runs; one run: t on questions; no spread at all: from both rates' own intervals."""
    if np.isfinite(test.low):
        return max(test.low, -1.0), min(test.high, 1.0)  # of a difference of rates
    if test.num_units == 1:
        alone = t_interval(
            matched.first - matched.second, level=estimates.study.level, method=IntervalMethod.T_QUESTIONS
        )
        if np.isfinite(alone.low):
            return alone.low, alone.high
    return difference_interval(*map(estimates.rate, sides)) if test.num_units else (np.nan, np.nan)


def _mean(table_sq: Floats) -> float:
    per_seed = row_means(filled(table_sq))
    return float(np.nanmean(per_seed)) if np.isfinite(per_seed).any() else np.nan
