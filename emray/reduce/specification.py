"""The specification curve: the headline rate under every rule, weighting of answers, and with each question left out.

Not for intervals (estimates.py) or for choosing among specifications. Invariant: every rate comes from the histogram's
counts per seed and question; the row of the headline's rule and weighting with nothing left out is the headline.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from emray.reduce.estimates import Estimates, RateCells
from emray.reduce.fields import Rows
from emray.reduce.study import Prompted
from emray.stats.arrays import Floats
from emray.stats.standard import filled, question_means

NONE_LEFT_OUT = "-"


class Weighting(StrEnum):
    """What weighs the same in a rate."""

    QUESTIONS = "questions"  # the headline's: every question of a run
    ANSWERS = "answers"  # every answer that counts


class _Leaving(NamedTuple):
    """A rate with nothing left out, and with each question left out [Q]."""

    whole: float
    without: Floats


def specification_rows(estimates: Estimates) -> Rows:
    """One row per place, condition, rule, weighting and question left out."""
    return [
        row
        for one in estimates.study.prompted
        for rule in estimates.counts.rules
        for row in _rows(estimates, one, rule)
    ]


def _rows(estimates: Estimates, one: Prompted, rule: str) -> Iterator[dict[str, Any]]:
    cells = estimates.cells(one, rule)
    for weighting, found in ((Weighting.QUESTIONS, _standardised(cells)), (Weighting.ANSWERS, _pooled(cells))):
        rates = {NONE_LEFT_OUT: found.whole} | dict(zip(estimates.study.question_ids, found.without, strict=True))
        for left_out, rate in rates.items():
            yield {
                **one.columns,
                "rule": rule,
                "weighting": str(weighting),
                "left_out": left_out,
                "n_seeds": cells.num_seeds,
                "rate": float(rate),
            }


def _standardised(cells: RateCells) -> _Leaving:
    """Mean over runs of their means over questions; a gap is filled as the headline fills it."""
    means = question_means(cells.events, cells.totals)
    table, asked = filled(means), np.isfinite(means).any(axis=0)
    table = table[np.isfinite(table).all(axis=1)]
    if not table.size:
        return _Leaving(np.nan, np.full(cells.events.shape[1], np.nan))
    per_question = table.mean(axis=0)
    num, whole = len(per_question), float(per_question.mean())
    without = np.full(cells.events.shape[1], whole)  # a question without any answer changes nothing
    without[asked] = (per_question.sum() - per_question) / (num - 1) if num > 1 else np.nan
    return _Leaving(whole, without)


def _pooled(cells: RateCells) -> _Leaving:
    """Misaligned answers over answers that count, whatever their run and question."""
    events, totals = cells.events.sum(axis=0), cells.totals.sum(axis=0)
    tops, bottoms = events.sum() - events, totals.sum() - totals
    without = np.divide(tops, bottoms, out=np.full(len(events), np.nan), where=bottoms > 0)
    return _Leaving(cells.answer_weighted, without)
