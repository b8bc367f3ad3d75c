"""One estimand: the mean over these questions, each weighing the same, whatever went missing of a run's answers.

For: what one run's rate or mean score is, and how many answers stand behind it. Not for intervals (headline.py).
Invariant: where a run lacks answers to some questions, its value does not move with which questions those are, as far
as a run and a question add up.
"""

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats
from emray.stats.runs import Runs

_ROUNDS, _SETTLED = 200, 1e-10


def question_means(sums_sq: ArrayLike, totals_sq: ArrayLike) -> Floats:
    """Mean per seed and question [S, Q]; NaN where nothing was counted."""
    sums, totals = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (sums_sq, totals_sq))
    return np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals > 0)


def filled(table_sq: Floats) -> Floats:
    """The table with its gaps filled by run + question effects, kept within the values seen; no gap: unchanged.

    A run without any value stays NaN, a question without any value is left out. Effects are least squares by turns.
    """
    table = table_sq[:, np.isfinite(table_sq).any(axis=0)]
    there, usable = np.isfinite(table), np.isfinite(table).any(axis=1)
    if there[usable].all() or table.size == 0:
        return table
    known, seen = there[usable], np.where(there[usable], table[usable], 0.0)
    run = np.zeros(len(known))
    for _ in range(_ROUNDS):
        question = (seen - np.where(known, run[:, None], 0)).sum(axis=0) / known.sum(axis=0)
        update = (seen - np.where(known, question, 0)).sum(axis=1) / known.sum(axis=1)
        settled = np.abs(update - run).max() < _SETTLED
        run = update
        if settled:
            break
    guess = np.clip(run[:, None] + question, np.nanmin(table), np.nanmax(table))
    complete = np.full(table.shape, np.nan)
    complete[usable] = np.where(known, seen, guess)
    return complete


def row_means(table_sq: Floats) -> Floats:
    """Mean over questions per seed [S], gaps left out; NaN for a seed with gaps alone."""
    there = np.isfinite(table_sq)
    tops, num = np.where(there, table_sq, 0.0).sum(axis=1), there.sum(axis=1)
    return np.divide(tops, num, out=np.full(len(tops), np.nan), where=num > 0)


def seed_means(sums_sq: ArrayLike, totals_sq: ArrayLike) -> Floats:
    """Question-standardised mean per seed [S]; NaN where a seed has no answer."""
    table = filled(question_means(sums_sq, totals_sq))
    return table.mean(axis=1) if table.shape[1] else np.full(len(table), np.nan)


def mean_over_seeds(sums_sq: ArrayLike, totals_sq: ArrayLike) -> float:
    """The estimand's plain estimate: mean over seeds of the question-standardised means; NaN without any."""
    values = seed_means(sums_sq, totals_sq)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan


def rate_runs(events_sq: ArrayLike, totals_sq: ArrayLike) -> Runs:
    """What the usable seeds say about a rate, from counts per seed x question [S, Q].

    A standardised rate of unequal counts is worth fewer answers than it has: var = sum of p (1 - p) / n over questions,
    by Q squared. p is each question's, with one answer added at the seed's rate; never worth more than if every
    question had the seed's rate. A question without answers counts as one.
    """
    events, totals = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (events_sq, totals_sq))
    share = seed_means(events, totals)
    usable = np.isfinite(share)
    asked = totals.sum(axis=0) > 0
    events, totals, share = events[usable][:, asked], totals[usable][:, asked], np.clip(share[usable], 0, 1)
    per_question = (events + share[:, None]) / (totals + 1)
    num = np.maximum(totals, 1)
    noise = (per_question * (1 - per_question) / num).sum(axis=1)
    if not share.size:
        return Runs(share, share)
    most = totals.shape[1] ** 2 / (1 / num).sum(axis=1)
    spread = share * (1 - share) * totals.shape[1] ** 2
    return Runs(share, np.minimum(most, np.divide(spread, noise, out=most.copy(), where=noise > 0)))


def score_runs(
    sums_sq: ArrayLike, squares_sq: ArrayLike, totals_sq: ArrayLike, *, bounds: tuple[float, float] = (0.0, 100.0)
) -> Runs:
    """What the usable seeds say about a mean score, scaled to 0-1, from sums, sums of squares and counts [S, Q].

    The variance between answers to one question is pooled over the place, with one more of the largest a bounded score
    can have, so that equal scores are not taken for certainty. A mean is worth as many answers as would give a rate of
    the same size that standard error.
    """
    sums, squares, totals = (np.atleast_2d(np.asarray(v, dtype=float)) for v in (sums_sq, squares_sq, totals_sq))
    low, width = bounds[0], bounds[1] - bounds[0]
    share = (seed_means(sums, totals) - low) / width
    usable = np.isfinite(share)
    asked = totals.sum(axis=0) > 0
    share, num = np.clip(share[usable], 0, 1), np.maximum(totals[usable][:, asked], 1)
    if not share.size:
        return Runs(share, share)
    within = (squares - np.divide(sums**2, totals, out=np.zeros_like(sums), where=totals > 0)).sum() / width**2
    largest = float(share.mean() * (1 - share.mean()))
    variance = (max(within, 0.0) + largest) / (np.maximum(totals - 1, 0).sum() + 1)
    error = variance * (1 / num).sum(axis=1) / num.shape[1] ** 2
    least = num.shape[1] ** 2 / (1 / num).sum(axis=1)  # a score between bounds varies at most as a rate does
    worth = np.divide(share * (1 - share), error, out=least.copy(), where=error > 0)
    return Runs(share, np.maximum(worth, least))
