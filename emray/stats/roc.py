"""How well a score tells members from others: ROC, its area, and what is found at a given false positive rate.

For: membership scores, one run at a time; seeds are combined by intervals.py. Not for: choosing a direction (a score
says beforehand which way it points; max(AUC, 1 - AUC) would call noise a finding). Invariant: ties count half in the
area, and one empty side gives NaN.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats
from emray.stats.intervals import Interval, t_interval


class Curve(NamedTuple):
    """A ROC as steps: at each threshold the share of others and of members at or above it; both begin at 0."""

    false_positives: Floats
    true_positives: Floats


def auc(members: ArrayLike, others: ArrayLike) -> float:
    """P(a member's score exceeds another's) + P(equal) / 2 (Mann and Whitney 1947); NaN scores are left out."""
    from scipy import stats

    inside, outside = _finite(members), _finite(others)
    if not (len(inside) and len(outside)):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([inside, outside]))[: len(inside)]
    above = ranks.sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def roc(members: ArrayLike, others: ArrayLike) -> Curve:
    """One point a distinct score, from the strictest threshold on; empty where one side is."""
    inside, outside = _finite(members), _finite(others)
    if not (len(inside) and len(outside)):
        return Curve(np.empty(0), np.empty(0))
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    shares = [_at_or_above(np.sort(scores), thresholds) for scores in (outside, inside)]
    return Curve(*(np.concatenate([[0.0], share]) for share in shares))


def tpr_at(members: ArrayLike, others: ArrayLike, *, fpr: float) -> float:
    """Share of members above the loosest threshold that at most `fpr` of the others reach (Carlini et al. 2022)."""
    curve = roc(members, others)
    allowed = curve.true_positives[curve.false_positives <= fpr + 1e-12]
    return float(allowed.max()) if len(allowed) else float("nan")


def at_rates(curve: Curve, rates: ArrayLike) -> Floats:
    """The true positive rate at each false positive rate, on straight lines between points: curves of equal axes."""
    wanted = np.asarray(rates, dtype=float)
    if not len(curve.false_positives):
        return np.full(len(wanted), np.nan)
    return np.interp(wanted, curve.false_positives, curve.true_positives)


def share_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t over runs, cut to [0, 1]; NaN bounds for one run or equal ones."""
    interval = t_interval(values, level=level)
    if np.isnan(interval.low):
        return interval
    return interval._replace(low=max(0.0, interval.low), high=min(1.0, interval.high))


def _at_or_above(ascending: Floats, thresholds: Floats) -> Floats:
    return (len(ascending) - np.searchsorted(ascending, thresholds, side="left")) / len(ascending)


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]
