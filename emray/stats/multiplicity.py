"""Adjusted p-values over a family of tests.

For: Holm where a claim is confirmatory, Benjamini-Hochberg where it is exploratory. Not for: choosing the family.
Invariant: a NaN p (no test was possible) stays NaN in its place and does not count towards the family's size.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment. (statsmodels collects garbage at every call, which costs more than the test.)"""

    def adjust(finite: Floats) -> Floats:
        order = np.argsort(finite)
        adjusted = np.empty_like(finite)
        adjusted[order] = np.maximum.accumulate(finite[order] * np.arange(len(finite), 0, -1)).clip(max=1)
        return adjusted

    return _in_place(p_values, adjust)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Benjamini-Hochberg false discovery rate (scipy.stats.false_discovery_control)."""

    def adjust(finite: Floats) -> Floats:
        from scipy import stats

        return np.asarray(stats.false_discovery_control(finite, method="bh"))

    return _in_place(p_values, adjust)


def _in_place(p_values: ArrayLike, adjust: Callable[[Floats], Floats]) -> Floats:
    adjusted = np.asarray(p_values, dtype=float).copy()
    finite = np.isfinite(adjusted)
    if finite.any():
        adjusted[finite] = adjust(adjusted[finite])
    return adjusted
