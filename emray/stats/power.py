"""What a design can see: minimum detectable effects, seeds needed, and where an adaptive sweep adds seeds next.

For: planning before and between runs. Not for: analysing results. Invariant: every figure states its assumption as an
argument; nothing is assumed about variances that the caller did not pass.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from emray.stats.arrays import Floats

NEVER = 1_000  # seeds_needed stops here: nobody trains more


def detectable_difference(
    *, sd: float, num: float, design_effect: float = 1.0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest difference of two means of `num` answers each that a z test finds with this power (statsmodels).

    Answers are correlated: their number counts as num / design_effect (Kish 1965).
    """
    from statsmodels.stats.power import NormalIndPower

    if not (sd > 0 and num > 0 and design_effect > 0):
        return np.nan
    return float(NormalIndPower().solve_power(nobs1=num / design_effect, alpha=alpha, power=power)) * sd


def detectable_drop(*, sd_of_seeds: float, num_seeds: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest mean of paired differences that a t test on seeds finds with this power (statsmodels TTestPower)."""
    from statsmodels.stats.power import TTestPower

    if num_seeds < 2 or not sd_of_seeds > 0:
        return np.nan
    return float(TTestPower().solve_power(nobs=num_seeds, alpha=alpha, power=power)) * sd_of_seeds


def design_effect(*, cluster_size: float, icc: float) -> float:
    """1 + (m - 1) * ICC: answers per question and their intraclass correlation (Kish 1965)."""
    return 1 + (cluster_size - 1) * icc


def half_width(*, sd: float, num_seeds: int, level: float = 0.95) -> float:
    """Half of the t interval of a mean over seeds; NaN below two."""
    from scipy import stats

    if num_seeds < 2:
        return np.nan
    return float(stats.t.ppf((1 + level) / 2, num_seeds - 1)) * sd / num_seeds**0.5


def seeds_needed(*, sd: float, half_width: float, level: float = 0.95) -> int | None:
    """Smallest number of seeds whose t interval has this half-width, if their standard deviation is `sd`.

    None where `sd` is NaN or more than NEVER seeds would be needed.
    """
    from scipy import stats

    if not half_width > 0:
        raise ValueError(f"half_width must be positive, got {half_width}")
    if not np.isfinite(sd):
        return None
    counts = np.arange(2, NEVER + 1)
    widths = stats.t.ppf((1 + level) / 2, counts - 1) * sd / np.sqrt(counts)
    enough = np.flatnonzero(widths <= half_width)
    return int(counts[enough[0]]) if len(enough) else None


class SeedsNeeded(NamedTuple):
    """Seeds for a half-width, for both ends of what the spread may be, and the chance that they reach it."""

    seeds: int | None
    low: int | None
    high: int | None  # None: more than anybody trains
    assurance: float


def plan_seeds(*, sd: float, num_seeds: int, half_width: float, level: float = 0.95) -> SeedsNeeded:
    """`seeds_needed` with what it is worth: `sd` was itself estimated, from `num_seeds` seeds.

    The range is over the 80 % interval of the spread (chi-squared). The assurance is the chance that the interval of
    that many new seeds is narrow enough: their variance over ours is F distributed (O'Hagan, Stevens and Campbell
    2005, for the idea). All for normal seeds and t, which is what planning can know.
    """
    from scipy import stats

    if num_seeds < 2 or not sd > 0:
        return SeedsNeeded(None, None, None, np.nan)
    df = num_seeds - 1
    low, high = (sd * (df / float(stats.chi2.ppf(q, df))) ** 0.5 for q in (0.9, 0.1))
    found, least, most = (seeds_needed(sd=s, half_width=half_width, level=level) for s in (sd, low, high))
    if found is None:
        return SeedsNeeded(None, least, most, np.nan)
    reach = half_width**2 * found / float(stats.t.ppf((1 + level) / 2, found - 1)) ** 2 / sd**2
    return SeedsNeeded(found, least, most, float(stats.f.cdf(reach, found - 1, df)))


class AdaptiveRule(NamedTuple):
    """Add seeds until every interval of a place is at most `half_width` on either side, within [min, max] seeds."""

    min_seeds: int
    max_seeds: int
    half_width: float  # in the unit of the values


class PlaceState(NamedTuple):
    """What is known of one place: seeds asked for so far, and per series (condition) its spread and half-width."""

    place: Any  # whatever names it; hashable
    num_seeds: int  # planned so far, failed ones included: a failed seed is not tried for ever
    sds: Sequence[float]  # between seeds, one per series; NaN where undefined
    half_widths: Sequence[float]  # of the intervals that would be reported now
    cost_per_seed: float = 0.0  # GPU-hours or dollars, the caller's choice


def next_seeds(
    states: Sequence[PlaceState], *, rule: AdaptiveRule, level: float, budget_left: float = np.inf
) -> Mapping[Any, int]:
    """How many seeds to add per place now; empty when the sweep is done.

    A place below `min_seeds` is brought there. Then each place whose widest interval is too wide gets half of what its
    variance predicts it lacks (at least one), so that a lucky early variance is not trusted at once. Places furthest
    from their target come first; who does not fit into `budget_left` gets what still does.
    """
    granted: dict[Any, int] = {}
    for state in sorted(states, key=_excess, reverse=True):
        wanted = _wanted(state, rule, level)
        if state.cost_per_seed > 0:
            wanted = min(wanted, int(budget_left / state.cost_per_seed + 1e-9))
        if wanted > 0:
            granted[state.place] = wanted
            budget_left -= wanted * state.cost_per_seed
    return granted


def _wanted(state: PlaceState, rule: AdaptiveRule, level: float) -> int:
    if state.num_seeds < rule.min_seeds:
        return rule.min_seeds - state.num_seeds
    room = rule.max_seeds - state.num_seeds
    if room <= 0 or all(width <= rule.half_width for width in state.half_widths):
        return 0
    predicted = [seeds_needed(sd=sd, half_width=rule.half_width, level=level) for sd in state.sds if np.isfinite(sd)]
    target = max((rule.max_seeds if needed is None else needed for needed in predicted), default=state.num_seeds + 1)
    return min(room, max(1, -(-(target - state.num_seeds) // 2)))


def _excess(state: PlaceState) -> float:
    """Widest interval of a place; one without any interval comes first."""
    widths = [width if np.isfinite(width) else np.inf for width in state.half_widths]
    return max(widths, default=np.inf)


@lru_cache(maxsize=32)
def sequential_level(*, min_seeds: int, max_seeds: int, level: float = 0.95, num_paths: int = 4000) -> float:
    """The t level to stop by and to report, so that intervals of an adaptive sweep cover at `level`.

    Stopping when an interval happens to be narrow picks the runs whose variance came out small: the plain t interval
    then covers too rarely (Anscombe 1953). This is the smallest level whose worst coverage, over all ratios of spread
    to target width, is at least `level`, found by simulating normal seeds with a fixed seed.
    """
    if max_seeds <= min_seeds:
        return level
    draws = np.random.default_rng(1953).standard_normal((num_paths, max_seeds))
    low, high = level, 1 - (1 - level) / 20
    for _ in range(8):
        middle = (low + high) / 2
        if _worst_coverage(draws, min_seeds, middle) >= level:
            high = middle
        else:
            low = middle
    return high


def _worst_coverage(draws_ps: Floats, min_seeds: int, level: float) -> float:
    """Least coverage over target widths of the interval at the first width below target, or at the last seed."""
    from scipy import stats

    counts = np.arange(min_seeds, draws_ps.shape[1] + 1)
    sums, squares = draws_ps.cumsum(axis=1)[:, counts - 1], (draws_ps**2).cumsum(axis=1)[:, counts - 1]
    means = sums / counts
    sds = np.sqrt(np.maximum(squares - counts * means**2, 0) / (counts - 1))
    halves = stats.t.ppf((1 + level) / 2, counts - 1) * sds / np.sqrt(counts)
    covered = np.abs(means) <= halves
    rows = np.arange(len(draws_ps))
    worst = 1.0
    for target in np.geomspace(0.2, 3.0, 12):  # of the seeds' standard deviation
        narrow = halves <= target
        stop = np.where(narrow.any(axis=1), narrow.argmax(axis=1), len(counts) - 1)
        worst = min(worst, float(covered[rows, stop].mean()))
    return worst
