"""A fraction of a place's answers that is not the misaligned rate: coherent ones, and what each quiz scores.

Not for differences or rows (change_rows.py). Invariant: the estimand is the headline's, the mean over these questions,
each weighing the same, over runs; what could not be scored for an error is missing, neither right nor wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, Self

import numpy as np

from emray.reduce.cells import Counts
from emray.reduce.estimates import RateCells, lent_spread
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import AnswerTally
from emray.stats.arrays import Floats, Ints
from emray.stats.headline import ScoreCells, rate_interval, score_interval
from emray.stats.intervals import Interval
from emray.stats.runs import Runs
from emray.stats.standard import rate_runs, score_runs, seed_means

UNIT = (0.0, 1.0)


class FractionCells(NamedTuple):
    """Of a place's answers under a condition, per seed x question [S, Q]."""

    seeds: tuple[int, ...]  # [S]
    questions: tuple[str, ...]  # [Q], those that the place is asked
    sums: Floats  # of the scores, 0-1 each
    squares: Floats
    totals: Ints  # answers that count: scored, or with nothing in them to score, which is 0
    unreadable: Ints  # of these, those with nothing in them to score
    errors: Ints  # answers whose scoring failed
    asked: Ints  # all that the plan asks for

    @property
    def seed_means(self) -> Floats:
        return seed_means(self.sums, self.totals)

    @property
    def num_seeds(self) -> int:
        return int((self.totals.sum(axis=1) > 0).sum())

    def bounds(self) -> tuple[float, float]:
        """The mean if everything missing scored 0, and if it scored 1."""
        return RateCells(self.sums, self.totals, self.asked - self.totals).bounds()

    def on(self, questions: Sequence[str]) -> Self:
        """The same of some of the questions, in this order."""
        place = [self.questions.index(one) for one in questions]
        counts = (values[:, place] for values in (self.totals, self.unreadable, self.errors, self.asked))
        return type(self)(self.seeds, tuple(questions), self.sums[:, place], self.squares[:, place], *counts)


class FractionOf(Protocol):
    """One fraction, place by place."""

    @property
    def name(self) -> str: ...

    @property
    def is_rate(self) -> bool:
        """Whether every score is 0 or 1."""
        ...

    def cells(self, one: Prompted) -> FractionCells | None:
        """None where the place is not asked."""
        ...


@dataclass(frozen=True)
class Coherent:
    """The share of the sweep's own answers that the judge finds coherent (above 50, of those with such a score)."""

    study: Study
    tally: AnswerTally
    counts: Counts
    name: str
    is_rate = True

    def cells(self, one: Prompted) -> FractionCells | None:
        groups = self.study.groups_sq(*one)
        totals = self.tally.coherent.num[groups]
        sums = (totals - self.counts.incoherent[groups]).astype(float)
        seeds = tuple(self.study.cells[index].seed for index in self.study.places[one.place])
        nothing = np.zeros_like(totals)
        asked = self.counts.requested[groups]
        return FractionCells(seeds, self.study.question_ids, sums, sums, totals, nothing, nothing, asked)


@dataclass(frozen=True)
class FractionEstimates:
    """Intervals of one quantity by place and condition, by the same methods as the misaligned rate's."""

    study: Study
    quantity: FractionOf

    @cached_property
    def cells(self) -> dict[Prompted, FractionCells]:
        return dict(self._found())

    def _found(self) -> Iterator[tuple[Prompted, FractionCells]]:
        for one in self.study.prompted:
            found = self.quantity.cells(one)
            if found is not None:
                yield one, found

    @cached_property
    def intervals(self) -> dict[Prompted, Interval]:
        lent = lent_spread({one: self._runs(cells) for one, cells in self.cells.items()})
        return {one: self._interval(cells, lent.get(one)) for one, cells in self.cells.items()}

    def _runs(self, cells: FractionCells) -> Runs:
        if self.quantity.is_rate:
            return rate_runs(cells.sums, cells.totals)
        return score_runs(cells.sums, cells.squares, cells.totals, bounds=UNIT)

    def _interval(self, cells: FractionCells, prior: Floats | None) -> Interval:
        if self.quantity.is_rate:
            return rate_interval(cells.sums, cells.totals, level=self.study.level, prior=prior)
        scores = ScoreCells(cells.sums, cells.squares, cells.totals)
        return score_interval(scores, level=self.study.level, bounds=UNIT, prior=prior)
