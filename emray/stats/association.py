"""Does one number of a domain go with another? Correlations with exact permutation p, for few units.

For: about ten domains, each one point. Not for: samples that carry their domain's number (`one_value_each` refuses
them). Invariant: a p is that of the statistic beside it under all orders of the units, and too few units or none that
vary give NaN.
"""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.errors import DataError
from emray.stats.arrays import Floats

MIN_UNITS = 3
MOST_EXACT = 12  # units whose orders (479 million) are all counted, in a third of a second
_MIN_FREEDOM = 2
_NUM_SAMPLES = 100_000
_TIE = 1e-9  # of the statistic's scale: equal up to rounding counts as equal


class Correlation(NamedTuple):
    """Spearman's or Pearson's, two-sided p over the orders of the units: all of them where `exact`, else a sample."""

    estimate: float
    p: float
    num_units: int
    exact: bool


class Partial(NamedTuple):
    """A correlation of what the controls leave, two-sided p by t with num_units - 2 - controls degrees of freedom."""

    estimate: float
    p: float
    num_units: int


def one_value_each(units: Sequence[Hashable]) -> None:
    """Raises DataError where a unit stands twice: its value was broadcast to its samples (pseudo-replication)."""
    repeated = next((unit for number, unit in enumerate(units) if unit in set(units[:number])), None)
    if repeated is not None:
        raise DataError(
            f"{repeated} stands {list(units).count(repeated)} times: a domain's value broadcast to its samples makes "
            "one observation look like many; give one value a domain"
        )


def correlation(x: ArrayLike, y: ArrayLike, *, ranks: bool, rng: np.random.Generator) -> Correlation:
    """Spearman's rho (`ranks`, ties at their mean rank) or Pearson's r; pairs with a NaN are left out.

    Up to MOST_EXACT units p counts every order (Pitman 1937); beyond, 100,000 orders drawn with `rng`, the one seen
    among them (Phipson and Smyth 2010).
    """
    a, b = _standard(*_pairs(x, y), ranks=ranks)
    if not len(a):
        return Correlation(math.nan, math.nan, len(_pairs(x, y)[0]), False)
    estimate = float(np.clip(a @ b, -1, 1))
    threshold = abs(estimate) - _TIE
    if len(a) <= MOST_EXACT:
        return Correlation(estimate, _share_of_orders(a, b, threshold), len(a), True)
    orders = rng.permuted(np.tile(b, (1000, 1)), axis=1)  # rows are shuffled again and again, not made anew
    extreme = 0
    for _ in range(_NUM_SAMPLES // 1000):
        rng.permuted(orders, axis=1, out=orders)
        extreme += int((np.abs(orders @ a) >= threshold).sum())
    return Correlation(estimate, (extreme + 1) / (_NUM_SAMPLES + 1), len(a), False)


def rho_interval(rho: float, num_units: int, *, level: float = 0.95) -> tuple[float, float]:
    """Of Spearman's rho, by Fisher's z with the variance of Bonett and Wright (2000).

    NaN below four units and for a perfect order, of which z says nothing.
    """
    from scipy import stats

    if num_units < 4 or not abs(rho) < 1 - _TIE:
        return math.nan, math.nan
    half = float(stats.norm.ppf((1 + level) / 2)) * ((1 + rho**2 / 2) / (num_units - 3)) ** 0.5
    z = math.atanh(rho)
    return math.tanh(z - half), math.tanh(z + half)


def leave_one_out(x: ArrayLike, y: ArrayLike, *, ranks: bool) -> Floats:
    """The correlation without each unit in turn, [n], in the order of the pairs that have both values."""
    a, b = _pairs(x, y)
    kept = [np.delete(np.arange(len(a)), unit) for unit in range(len(a))]
    return np.array([_estimate(a[rest], b[rest], ranks=ranks) for rest in kept])


def partial(x: ArrayLike, y: ArrayLike, controls_kn: ArrayLike, *, ranks: bool) -> Partial:
    """The correlation of what is left of x and y after a linear fit to the controls [K, n] (of ranks, where `ranks`).

    p by Fisher (1924); a control that does not vary costs no degree of freedom. NaN where fewer than two are left
    (with one, ranks agree or disagree wholly as often as not), or nothing is left to correlate.
    """
    from scipy import stats

    table = np.vstack([np.atleast_2d(np.asarray(values, dtype=float)) for values in (x, y, controls_kn)])
    table = table[:, np.isfinite(table).all(axis=0)]
    num_units = table.shape[1]
    if num_units < MIN_UNITS:
        return Partial(math.nan, math.nan, num_units)
    used = stats.rankdata(table, axis=1) if ranks else table
    design = np.vstack([np.ones(num_units), used[2:]]).T
    df = num_units - 1 - int(np.linalg.matrix_rank(design))
    if df < _MIN_FREEDOM:
        return Partial(math.nan, math.nan, num_units)
    left = used[:2].T - design @ np.linalg.lstsq(design, used[:2].T, rcond=None)[0]
    if (np.abs(left).max(axis=0) <= _TIE * np.abs(used[:2]).max(axis=1).clip(1e-300)).any():
        return Partial(math.nan, math.nan, num_units)
    estimate = float(np.clip(left[:, 0] @ left[:, 1] / math.prod(np.linalg.norm(left, axis=0)), -1, 1))
    t = estimate * (df / max(1 - estimate**2, 1e-300)) ** 0.5
    return Partial(estimate, float(2 * stats.t.sf(abs(t), df)), num_units)


@lru_cache(maxsize=64)
def smallest_seen(num_units: int, *, alpha: float = 0.05) -> float:
    """The smallest |rho| of Spearman that so many units without ties can show at two-sided p <= alpha.

    From the exact distribution up to MOST_EXACT units, by t beyond; NaN where no rho would do.
    """
    from scipy import stats

    if num_units < MIN_UNITS:
        return math.nan
    if num_units > MOST_EXACT:
        t = float(stats.t.ppf(1 - alpha / 2, num_units - 2))
        return t / (num_units - 2 + t**2) ** 0.5
    sums = _rank_sums(num_units)
    rho = np.abs(1 - 6 * 2 * (_most(num_units) - np.arange(len(sums))) / (num_units * (num_units**2 - 1)))
    values = np.unique(rho[sums > 0].round(12))[::-1]
    total = math.factorial(num_units)
    seen = [value for value in values if sums[rho >= value - _TIE].sum() / total <= alpha]
    return float(seen[-1]) if seen else math.nan


def _most(num_units: int) -> int:
    """The largest sum of rank products: every rank with itself."""
    return num_units * (num_units + 1) * (2 * num_units + 1) // 6


def _rank_sums(num_units: int) -> Floats:
    """How many orders have each sum of i * rank(i), by the sum; subsets of ranks grow one place at a time."""
    by_subset: dict[int, Floats] = {0: np.ones(1)}
    for place in range(1, num_units + 1):
        grown: dict[int, Floats] = {}
        for subset, counts in by_subset.items():
            for rank in range(1, num_units + 1):
                if not subset >> rank & 1:
                    shifted = np.concatenate([np.zeros(place * rank), counts])
                    grown[subset | 1 << rank] = _added(grown.get(subset | 1 << rank), shifted)
        by_subset = grown
    (sums,) = by_subset.values()
    return sums


def _added(first: Floats | None, second: Floats) -> Floats:
    if first is None:
        return second
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    longer[: len(shorter)] += shorter
    return longer


def _share_of_orders(a: Floats, b: Floats, threshold: float) -> float:
    """Of all orders of b, those with |a . b| at least the threshold.

    Orders are met in the middle: which units of b the first half of a gets, then all orders of either half.
    """
    half = len(a) // 2
    taken = [list(chosen) for chosen in combinations(range(len(b)), half)]
    left = np.array([_sums(a[:half], b[chosen]) for chosen in taken])
    right = np.sort([_sums(a[half:], np.delete(b, chosen)) for chosen in taken], axis=1)
    apart = 10.0 * np.arange(len(taken))[:, None]  # sums lie within +-1: so rows are searched as one array
    rows, inside = (right + apart).ravel(), right.shape[1]
    above = np.searchsorted(rows, (threshold - left + apart).clip(apart - 4, apart + 4), side="left")
    below = np.searchsorted(rows, (-threshold - left + apart).clip(apart - 4, apart + 4), side="right")
    first = inside * np.arange(len(taken))[:, None]
    extreme = int((inside - (above - first)).sum() + (below - first).sum())
    return min(1.0, extreme / math.factorial(len(a)))  # a threshold of 0 counts an order twice


def _sums(a: Floats, b: Floats) -> Floats:
    """a . b for every order of b."""
    return b[_orders(len(b))] @ a


@lru_cache(maxsize=MOST_EXACT)
def _orders(length: int) -> np.ndarray:
    return np.array(list(permutations(range(length))), dtype=np.int64).reshape(-1, length)


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    there = np.isfinite(a) & np.isfinite(b)
    return a[there], b[there]


def _estimate(a: Floats, b: Floats, *, ranks: bool) -> float:
    first, second = _standard(a, b, ranks=ranks)
    return float(np.clip(first @ second, -1, 1)) if len(first) else math.nan


def _standard(a: Floats, b: Floats, *, ranks: bool) -> tuple[Floats, Floats]:
    """Both centred with norm 1, so that their product is the correlation; empty where that is undefined."""
    from scipy import stats

    if len(a) < MIN_UNITS:
        return np.empty(0), np.empty(0)
    if ranks:
        a, b = stats.rankdata(a), stats.rankdata(b)
    centred = [values - values.mean() for values in (a, b)]
    norms = [float(np.linalg.norm(values)) for values in centred]
    scales = [float(np.abs(values).max()) for values in (a, b)]
    if any(norm <= 1e-12 * max(scale, 1e-300) for norm, scale in zip(norms, scales, strict=True)):
        return np.empty(0), np.empty(0)
    return centred[0] / norms[0], centred[1] / norms[1]
