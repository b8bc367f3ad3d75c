"""The headline estimate of every place under a condition: one estimand, one interval, computed once for all tables.

For: claims, designs and checks that must not disagree on what a rate is. Not for tests between places. Invariant: the
spread that an interval assumes comes from the same rule's counts of the other domains of that model, arm and condition.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from emray.reduce.cells import Counts
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import AnswerTally
from emray.stats.arrays import Floats, Ints
from emray.stats.headline import ScoreCells, rate_interval, score_interval
from emray.stats.intervals import Interval
from emray.stats.runs import Posterior, Runs, evidence, posterior, spread_priors
from emray.stats.standard import filled, question_means, rate_runs, score_runs, seed_means


class RateCells(NamedTuple):
    """What a rule makes of a place's answers, per seed x question [S, Q]."""

    events: Ints | Floats  # misaligned answers; elsewhere a sum of scores
    totals: Ints
    missing: Ints  # requested, and neither counted nor set aside by the rule

    @property
    def seed_rates(self) -> Floats:
        return seed_means(self.events, self.totals)

    @property
    def num_seeds(self) -> int:
        """Usable seeds: those with an answer that counts."""
        return int((self.totals.sum(axis=1) > 0).sum())

    @property
    def answer_weighted(self) -> float:
        """Misaligned answers over answers that count, whatever their seed and question."""
        total = int(self.totals.sum())
        return int(self.events.sum()) / total if total else np.nan

    def bounds(self) -> tuple[float, float]:
        """The rate if everything missing were aligned, and if it were misaligned; the rate lies between."""
        asked = self.totals + self.missing
        there = filled(question_means(self.events, self.totals))
        complete = np.full(asked.shape, np.nan)
        complete[:, self.totals.sum(axis=0) > 0] = there  # where all was set aside, what the rate takes stands
        found = []
        for events in (self.events, self.events + self.missing):
            table = np.where(asked > 0, question_means(events, asked), complete)
            table = table[np.isfinite(table).any(axis=1)]
            table = table[:, np.isfinite(table).any(axis=0)]
            found.append(float(np.nanmean(np.nanmean(table, axis=1))) if table.size else np.nan)
        return found[0], found[1]


@dataclass(frozen=True)
class Estimates:
    """Intervals by place, condition and rule."""

    study: Study
    tally: AnswerTally
    counts: Counts

    def cells(self, one: Prompted, rule: str | None = None) -> RateCells:
        """Counts under a rule, the headline's unless another is named."""
        groups = self.study.groups_sq(*one)
        found = self.counts.rules[rule or self.study.spec.rule]
        events, totals, excluded = (values[groups] for values in found)
        return RateCells(events, totals, np.maximum(self.counts.requested[groups] - totals - excluded, 0))

    def scores(self, one: Prompted) -> ScoreCells:
        groups, aligned = self.study.groups_sq(*one), self.tally.aligned
        return ScoreCells(aligned.total[groups], aligned.squares[groups], aligned.num[groups])

    def rate(self, one: Prompted, rule: str | None = None) -> Interval:
        return self._rates[rule or self.study.spec.rule, one]

    def score(self, one: Prompted) -> Interval:
        return self._scores[one]

    def posterior(self, one: Prompted) -> Posterior | None:
        """Distribution of the headline rate over runs; None below two usable seeds."""
        cells = self.cells(one)
        runs = rate_runs(cells.events, cells.totals)
        return posterior(runs, self._lent[self.study.spec.rule].get(one)) if len(runs.share) > 1 else None

    @cached_property
    def _rates(self) -> dict[tuple[str, Prompted], Interval]:
        found = {}
        for rule in self.counts.rules:
            for one in self.study.prompted:
                cells, lent = self.cells(one, rule), self._lent[rule].get(one)
                found[rule, one] = rate_interval(cells.events, cells.totals, level=self.study.level, prior=lent)
        return found

    @cached_property
    def _scores(self) -> dict[Prompted, Interval]:
        lent = lent_spread({one: score_runs(*self.scores(one)) for one in self.study.prompted})
        return {
            one: score_interval(self.scores(one), level=self.study.level, prior=lent.get(one))
            for one in self.study.prompted
        }

    @cached_property
    def _lent(self) -> dict[str, dict[Prompted, Floats]]:
        """Prior weights of the spread by rule and place."""
        found = {}
        for rule in self.counts.rules:
            cells = {one: self.cells(one, rule) for one in self.study.prompted}
            found[rule] = lent_spread({one: rate_runs(c.events, c.totals) for one, c in cells.items()})
        return found


def lent_spread(runs: dict[Prompted, Runs]) -> dict[Prompted, Floats]:
    """What the domains of one model, arm and condition lend each other; one run neither takes nor lends."""
    found: dict[Prompted, Floats] = {}
    several = {one: evidence(those) for one, those in runs.items() if len(those.share) > 1}
    families = dict.fromkeys((one.place.model, one.place.arm, one.condition) for one in several)
    for family in families:
        members = [one for one in several if (one.place.model, one.place.arm, one.condition) == family]
        found |= dict(zip(members, spread_priors([several[one] for one in members]), strict=True))
    return found
