"""The headline interval: a mean bounded by 0 and 1 over training runs, the runs being random effects.

For: rates, mean scores scaled to 0-1, and draws of either for ranks. Not for: tests (contrasts.py), or reading counts
question by question (standard.py). Invariant: a function of its arguments alone (quadrature on fixed grids, no
sampling), and an interval is never narrower than the answers alone allow.

The model. A run s has its own rate: logit(rate_s) = mu + spread * z_s with z_s standard normal, and its answers are
binomial around it. What is estimated is the mean over runs, m = E[rate_s]. Priors: m is Beta(1/2, 1/2) (Jeffreys');
the spread is half-normal with scale tau, and tau is log-normal around SCALE_MEDIAN with log-sd SCALE_SPREAD. All places
of a study's arm share tau: each place's prior on its spread is what the *other* places say about tau (partial pooling,
Gelman 2006, Bayesian Analysis 1:515, for the half-normal family), and with more runs its own likelihood takes over.
SCALE_MEDIAN is the smallest that covers in every smooth world of `benchmarks/coverage.py`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emray.stats.arrays import Floats
from emray.stats.intervals import Interval, IntervalMethod, no_interval

SCALE_MEDIAN, SCALE_SPREAD = 1.75, 0.4
SPREADS = np.array([0, 0.15, 0.25, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 1.8, 2.2, 2.7, 3.3, 4.0])  # on the logit
SCALES = np.array([0.15, 0.25, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4.0])
MOST_ANSWERS = 200_000  # of one run: beyond, its own noise is below a tenth of a point, and the grid would not see it

_CELL, _REACH, _PARTS = 0.13, 13.0, 24  # cells of a run's own logit: width, end, sub-points an average is taken over
_FINE = 401  # points of the grid that a posterior is read from
_TAIL = 1e-7
# How far apart runs are taken to be, in logits per normal score. Below _FIRST_PEAK more spread is always wider.
LEVELS = np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 9, 16])
_FIRST_PEAK = 8
PROBABILITIES = np.concatenate([[0.0], np.geomspace(1e-6, 0.02, 25), np.linspace(0.025, 0.5, 40)])
PROBABILITIES = np.concatenate([PROBABILITIES, 1 - PROBABILITIES[-2::-1]])


class Runs(NamedTuple):
    """What each usable run says: its share [S], and how many independent answers that is worth [S]."""

    share: Floats
    answers: Floats

    @property
    def events(self) -> float:
        return float((self.share * self.answers).sum())

    @property
    def total(self) -> float:
        return float(self.answers.sum())


class Evidence(NamedTuple):
    """What one place's runs say of their spread: log mass per spread [K], comparable within the place only."""

    runs: Runs
    log_mass: Floats


class _Quadrature(NamedTuple):
    """Cells of a run's logit [T], means on the logit [M], and the share of runs in each cell [K - 1, M, T]."""

    points: Floats  # [T * parts]
    mean: Floats
    log_prior: Floats  # of m per grid step
    kernel: NDArray[np.float32]  # half the memory to read, and errors of 1e-7 in a log likelihood


@lru_cache(maxsize=1)
def _grid() -> _Quadrature:
    from scipy.special import expit

    edges: Floats = np.arange(-_REACH, _REACH + _CELL / 2, _CELL, dtype=np.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    points = (edges[:-1, None] + (np.arange(_PARTS) + 0.5) / _PARTS * _CELL).ravel()
    tails = np.arange(9.4, 15.1, 0.4)
    mean = np.concatenate([-tails[::-1], np.arange(-9, 9.01, 0.08), tails])
    centres: Floats = np.arange(-45, 45, 0.1, dtype=np.float64)
    kernels = []
    for spread in SPREADS[1:]:
        shares = _in_cells(centres, spread, edges) @ expit(middle)
        centre = np.interp(expit(mean), shares, centres)
        kernels.append(_in_cells(centre, spread, edges))
    log_prior = _log_jeffreys(mean) + np.log(np.gradient(mean))
    return _Quadrature(points, mean, log_prior, np.stack(kernels).astype(np.float32))


def _in_cells(centre: Floats, spread: float, edges: Floats) -> Floats:
    """Normal mass of each cell [centres, T]; the end cells take the tails."""
    from scipy.special import ndtr

    inner = ndtr((edges[None, 1:-1] - centre[:, None]) / spread)
    below = np.concatenate([np.zeros((len(centre), 1)), inner, np.ones((len(centre), 1))], axis=1)
    return np.diff(below, axis=1)


def _log_jeffreys(logit: Floats) -> Floats:
    """Beta(1/2, 1/2) as a density of the logit."""
    return 0.5 * (_log_share(logit) + _log_share(-logit)) - np.log(np.pi)


def _log_share(logit: Floats) -> Floats:
    return -np.logaddexp(0, -logit)


def _log_binomial(share: Floats, answers: Floats, logit: Floats) -> Floats:
    """Log likelihood [..., logit] relative to its maximum."""
    from scipy.special import xlogy

    top = answers * (xlogy(share, share) + xlogy(1 - share, 1 - share))
    events, others = answers * share, answers * (1 - share)
    return events[..., None] * _log_share(logit) + others[..., None] * _log_share(-logit) - top[..., None]


def run_likelihoods(runs: Runs) -> Floats:
    """Log likelihood of every single run by spread and mean [S, K, M]; a place's is the sum over its runs."""
    grid, answers = _grid(), np.minimum(runs.answers, MOST_ANSWERS)
    own = _log_binomial(runs.share, answers, grid.points)
    own = np.exp(own).reshape(len(answers), -1, _PARTS).mean(axis=2)
    num_spreads, num_means, num_cells = grid.kernel.shape
    spread = (own.astype(np.float32) @ grid.kernel.reshape(-1, num_cells).T).astype(np.float64)
    equal = _log_binomial(runs.share, answers, grid.mean)[:, None, :]
    return np.concatenate(
        [equal, np.log(np.maximum(spread, 1e-300)).reshape(len(answers), num_spreads, num_means)], axis=1
    )


def evidence(runs: Runs) -> Evidence:
    """Weigh one place's runs. Needs a run."""
    log_likelihood = run_likelihoods(runs).sum(axis=0)
    return Evidence(runs, _masses(runs, log_likelihood)[0])


def _masses(runs: Runs, log_likelihood: Floats) -> tuple[Floats, Floats]:
    """Log mass per spread [K] under the prior on the mean, and the normalised density [K, M] behind it.

    Without spread the mass is a beta function, whatever the grid would see of a narrow peak.
    """
    from scipy.special import betaln, xlogy

    log_density = log_likelihood + _grid().log_prior
    top = log_density.max(axis=1)
    density = np.exp(log_density - top[:, None])
    total = density.sum(axis=1)
    log_mass = top + np.log(total)
    answers = np.minimum(runs.answers, MOST_ANSWERS)
    events = runs.share * answers
    most = (answers * (xlogy(runs.share, runs.share) + xlogy(1 - runs.share, 1 - runs.share))).sum()
    log_mass[0] = betaln(events.sum() + 0.5, (answers - events).sum() + 0.5) - np.log(np.pi) - most
    return log_mass, density / total[:, None]


# The spread, shared by the places of an arm ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _given_scale() -> Floats:
    """P(spread | tau) [tau, K]: half-normal, on the grid's steps."""
    steps = np.gradient(SPREADS)
    steps[0] /= 2
    density = np.exp(-0.5 * (SPREADS / SCALES[:, None]) ** 2) * steps
    return density / density.sum(axis=1, keepdims=True)


def _scale_prior() -> Floats:
    density = np.exp(-0.5 * (np.log(SCALES / SCALE_MEDIAN) / SCALE_SPREAD) ** 2) * np.gradient(np.log(SCALES))
    return density / density.sum()


def spread_priors(places: Sequence[Evidence]) -> Floats:
    """Prior weights of the spread [places, K] for each place, from all the others; a lone place has the documented one.

    One run says nothing about a spread, so places with one add nothing.
    """
    from scipy.special import logsumexp

    given, scale = _given_scale(), np.log(_scale_prior())
    of_places = np.zeros((len(places), len(SCALES)))
    for row, place in enumerate(places):
        if len(place.runs.share) > 1:
            mass = np.exp(place.log_mass - place.log_mass.max())
            of_places[row] = np.log(given @ mass)
    others = scale + of_places.sum(axis=0) - of_places
    return np.exp(others - logsumexp(others, axis=1, keepdims=True)) @ given


def lone_prior() -> Floats:
    """The prior of the spread [K] where nothing else is known."""
    return _scale_prior() @ _given_scale()


# The posterior of the mean -----------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """Distribution of the mean over runs: its quantiles [P] at PROBABILITIES."""

    at: Floats

    def quantiles(self, probabilities: Floats) -> Floats:
        return np.interp(probabilities, PROBABILITIES, self.at)

    def above(self, value: float) -> float:
        """Probability of a mean above this value."""
        return 1 - float(np.interp(value, self.at, PROBABILITIES))

    @property
    def width(self) -> float:
        return float(np.ptp(self.quantiles(np.array([0.025, 0.975]))))


def posterior(runs: Runs, prior: Floats | None = None) -> Posterior:
    """Mean over runs, the spread integrated out under its prior weights [K] (default: `lone_prior`). Needs two runs.

    It depends on the runs' mean, their standard deviation and their number of answers, and is never narrower than with
    less spread: one run apart from all the others pulls the plain likelihood towards "nearly every run is near 0",
    which is more than a few runs can say. So the runs are read as evenly spaced in normal scores of the logit, on
    LEVELS of rising slope; a level takes the place of the one above where it is wider, and between two levels
    quantiles are interpolated.
    """
    weights = lone_prior() if prior is None else prior
    shares = levels_of_spread(len(runs.share), float(runs.share.mean()))
    spreads = shares.std(axis=1)
    spread = float(runs.share.std())
    upper = int(np.searchsorted(spreads, spread))
    wanted = sorted({max(upper - 1, 0), min(upper, len(LEVELS) - 1), *range(_FIRST_PEAK, upper)})
    answers = min(_answers_of_mean(runs), MOST_ANSWERS)
    found = _of_patterns(shares[wanted], answers, weights)
    below = max(found[:-1], key=lambda one: one.width, default=found[-1])
    above = max(below, found[-1], key=lambda one: one.width)
    if upper in (0, len(LEVELS)):
        return above
    part = (spread - spreads[upper - 1]) / (spreads[upper] - spreads[upper - 1])
    return Posterior((1 - part) * below.at + part * above.at)


def _answers_of_mean(runs: Runs) -> float:
    """Answers of each run if all had as many and the mean of the shares were as precise."""
    return float(1 / np.mean(1 / runs.answers))


def levels_of_spread(num: int, mean: float) -> Floats:
    """Shares [levels, S] with this mean and rising spread, from none to nearly the largest possible one."""
    from scipy.special import expit
    from scipy.stats import norm

    if not 0 < mean < 1:
        return np.full((1, num), mean)
    scores = norm.ppf((np.arange(num) + 0.625) / (num + 0.25))  # Blom's
    low, high = np.full(len(LEVELS), -80.0), np.full(len(LEVELS), 80.0)
    for _ in range(45):
        middle = (low + high) / 2
        over = expit(middle[:, None] + LEVELS[:, None] * scores).mean(axis=1) > mean
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return expit(low[:, None] + LEVELS[:, None] * scores)


def _of_patterns(shares: Floats, answers: float, prior: Floats) -> list[Posterior]:
    """Posterior for each row of shares [patterns, S]."""
    num_patterns, num_runs = shares.shape
    likelihoods = run_likelihoods(Runs(shares.ravel(), np.full(shares.size, answers)))
    of_pattern = likelihoods.reshape(num_patterns, num_runs, *likelihoods.shape[1:])
    each = np.full(num_runs, answers)
    return [_of_pattern(Runs(p, each), own, prior) for p, own in zip(shares, of_pattern, strict=True)]


def _of_pattern(runs: Runs, likelihoods: Floats, prior: Floats) -> Posterior:
    from scipy.special import expit

    log_likelihood = likelihoods.sum(axis=0)
    log_mass, density = _masses(runs, log_likelihood)
    log_weight = log_mass + np.log(prior)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    fine = np.linspace(*_bracket(weight[1:] @ density[1:]), _FINE)
    rows = _interpolated(log_likelihood[1:], fine)
    equal = runs.events * _log_share(fine) + (runs.total - runs.events) * _log_share(-fine)
    log_density = np.vstack([equal, rows]) + _log_jeffreys(fine)
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    mixed = weight @ (density / density.sum(axis=1, keepdims=True))
    below = np.cumsum((mixed[1:] + mixed[:-1]) / 2)
    return Posterior(expit(np.interp(PROBABILITIES, np.concatenate([[0.0], below / below[-1]]), fine)))


def _bracket(density: Floats) -> tuple[float, float]:
    """Where all but a millionth of the posterior [M] lies, on the logit."""
    mean = _grid().mean
    below = np.cumsum(density) / density.sum()
    first, last = np.searchsorted(below, [_TAIL, 1 - _TAIL])
    return float(mean[max(first - 2, 0)]), float(mean[min(last + 2, len(mean) - 1)])


def _interpolated(rows_km: Floats, at: Floats) -> Floats:
    """Rows given on the grid of means, at other points: Lagrange's cubic through the four nearest nodes."""
    mean = _grid().mean
    first = np.clip(np.searchsorted(mean, at) - 2, 0, len(mean) - 4)
    nodes = first + np.arange(4)[:, None]
    away = at - mean[nodes]
    found = np.zeros((len(rows_km), len(at)))
    for node in range(4):
        others = [other for other in range(4) if other != node]
        between = mean[nodes[node]] - mean[nodes[others]]
        found += rows_km[:, nodes[node]] * np.prod(away[others] / between, axis=0)
    return found


def runs_interval(runs: Runs, *, level: float = 0.95, prior: Floats | None = None) -> Interval:
    """Equal-tailed interval of the mean over runs; NaN below two runs. The estimate is the plain mean of the shares.

    At least as wide as Jeffreys' interval of the answers taken as independent, and always around the estimate.
    """
    if len(runs.share) < 2:
        estimate = float(runs.share.mean()) if len(runs.share) else np.nan
        return no_interval(estimate, num_units=len(runs.share))
    order = np.lexsort((runs.answers, runs.share))
    weights = lone_prior() if prior is None else np.asarray(prior, dtype=float)
    return _interval(runs.share[order].tobytes(), runs.answers[order].tobytes(), weights.tobytes(), level)


@lru_cache(maxsize=4096)
def _interval(share: bytes, answers: bytes, prior: bytes, level: float) -> Interval:
    """Equal runs in any order are equal; a study's questions and rules repeat many of them (0 of 20, over and over)."""
    from scipy import stats

    runs = Runs(np.frombuffer(share), np.frombuffer(answers))
    estimate = float(runs.share.mean())
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    total = len(runs.share) * _answers_of_mean(runs)
    alone = stats.beta.ppf(tails, estimate * total + 0.5, (1 - estimate) * total + 0.5)
    low, high = posterior(runs, np.frombuffer(prior)).quantiles(tails)
    low = 0.0 if runs.events == 0 else float(min(low, alone[0], estimate))
    high = 1.0 if runs.events == runs.total else float(max(high, alone[1], estimate))
    return Interval(estimate, low, high, len(runs.share), IntervalMethod.RUNS)
