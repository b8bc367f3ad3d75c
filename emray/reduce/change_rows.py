"""What else changed beside misalignment: rows of changes.csv and change_seeds.csv.

A defence that works by breaking the model shows here: coherence, and whatever the sweep's quizzes score. Not for the
counts (fractions.py, quiz_marks.py). Invariant: a difference is taken over the questions that both sides were asked,
paired by run where the other side has the same runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Arm, Metric
from emray.reduce.choice_marks import read_choices
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows
from emray.reduce.fractions import Coherent, FractionCells, FractionEstimates, FractionOf
from emray.reduce.quiz_marks import read_marks
from emray.reduce.study import Prompted
from emray.spec import COHERENT
from emray.stats.contrasts import against_one, paired_t
from emray.stats.intervals import difference_interval
from emray.stats.standard import mean_over_seeds
from emray.store import Store


class ChangeRows(NamedTuple):
    """Rows of the two tables."""

    changes: Rows
    seeds: Rows


def change_rows(store: Store, estimates: Estimates) -> ChangeRows:
    """A row for every place, condition and quantity that was asked for, whatever became of it."""
    found = [FractionEstimates(estimates.study, one) for one in quantities(store, estimates)]
    return ChangeRows(
        [_row(one, of) for of in found for one in of.cells],
        [row for of in found for one in of.cells for row in _seed_rows(one, of)],
    )


def quantities(store: Store, estimates: Estimates) -> Sequence[FractionOf]:
    """Coherence where the judge is asked for it, then the quizzes in the sweep file's order."""
    study = estimates.study
    judged = Metric.COHERENT in study.sweep.judge.metrics or study.imported
    coherent = [Coherent(study, estimates.tally, estimates.counts, COHERENT)] if judged else []
    marked = {one.name: one for one in (*read_marks(store, study), *read_choices(store, study))}
    return [*coherent, *(marked[quiz.name] for quiz in study.quizzes)]


def _row(one: Prompted, of: FractionEstimates) -> dict[str, Any]:
    cells, interval = of.cells[one], of.intervals[one]
    worst, best = cells.bounds()
    base, benign = _minus_base(one, of), _minus_benign(one, of)
    return {
        **one.columns,
        "quantity": of.quantity.name,
        "n_seeds": cells.num_seeds,
        **_counts(cells),
        "mean": interval.estimate,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "mean_worst": worst,
        "mean_best": best,
        "minus_base": base.difference,
        "minus_base_low": base.low,
        "minus_base_high": base.high,
        "minus_benign": benign.difference,
        "minus_benign_low": benign.low,
        "minus_benign_high": benign.high,
        "n_pairs": benign.num_pairs,
    }


def _counts(cells: FractionCells) -> dict[str, int]:
    asked, totals, errors = (int(values.sum()) for values in (cells.asked, cells.totals, cells.errors))
    unreadable = int(cells.unreadable.sum())
    return {
        "n_asked": asked,
        "n_scored": totals - unreadable,
        "n_unreadable": unreadable,
        "n_errors": errors,
        "n_missing": asked - totals - errors,
    }


class _Minus(NamedTuple):
    """What a place has more than another."""

    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    num_pairs: int = 0


def _minus_base(one: Prompted, of: FractionEstimates) -> _Minus:
    """Against the same model before finetuning: one model, with the error of its answers alone."""
    base = Prompted(one.place._replace(domain=NO_DOMAIN, arm=Arm.BASE), one.condition)
    common = _common(one, base, of)
    if one == base or common is None:
        return _Minus()
    mine, theirs = common
    answers, mean = int(theirs.totals.sum()), mean_over_seeds(theirs.sums, theirs.totals)
    test = against_one(mine.seed_means, mean, num_answers=answers, level=of.study.level)
    return _Minus(test.estimate, *_within(test.low, test.high))


def _minus_benign(one: Prompted, of: FractionEstimates) -> _Minus:
    """Against the finetune on correct answers of the domain, paired by seed."""
    benign = Prompted(one.place._replace(arm=Arm.BENIGN), one.condition)
    common = _common(one, benign, of)
    if one == benign or common is None:
        return _Minus()
    mine, theirs = (dict(zip(cells.seeds, cells.seed_means, strict=True)) for cells in common)
    changes = np.array([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
    test = paired_t(changes, level=of.study.level)
    low, high = test.low, test.high
    if np.isnan(low) and test.num_units > 1:  # all runs differ alike
        low, high = difference_interval(of.intervals[one], of.intervals[benign])
    return _Minus(test.estimate, *_within(low, high), test.num_units)


def _common(one: Prompted, other: Prompted, of: FractionEstimates) -> tuple[FractionCells, FractionCells] | None:
    """The counts of both on the questions that both were asked; None where there are none."""
    if other not in of.cells:
        return None
    mine, theirs = of.cells[one], of.cells[other]
    both = [question for question in mine.questions if question in theirs.questions]
    return (mine.on(both), theirs.on(both)) if both else None


def _within(low: float, high: float) -> tuple[float, float]:
    """A difference of fractions; NaN stays."""
    return float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))


def _seed_rows(one: Prompted, of: FractionEstimates) -> Iterator[dict[str, Any]]:
    cells = of.cells[one]
    for number, (seed, mean) in enumerate(zip(cells.seeds, cells.seed_means, strict=True)):
        scored = cells.totals[number].sum() - cells.unreadable[number].sum()
        row = {**one.columns, "quantity": of.quantity.name, "seed": seed, "mean": float(mean)}
        yield row | {"n_scored": int(scored), "n_asked": int(cells.asked[number].sum())}
