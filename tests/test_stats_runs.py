"""The headline interval: known values, degenerate inputs, its promises as properties, and coverage."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import ANSWERS, World, make_table, measure
from emray.stats.runs import Runs, evidence, lone_prior, posterior, runs_interval, spread_priors


def runs(counts, answers=300) -> Runs:
    answers = np.broadcast_to(np.asarray(answers, dtype=float), np.shape(counts))
    return Runs(np.asarray(counts) / answers, answers)


def width(counts, answers=300, **options) -> float:
    found = runs_interval(runs(counts, answers), **options)
    return found.high - found.low


def test_with_no_spread_allowed_the_posterior_is_jeffreys_beta():
    equal = np.eye(len(lone_prior()))[0] + 1e-300
    found = posterior(runs([30, 30, 30]), equal)
    expected = stats.beta.ppf([0.025, 0.5, 0.975], 90.5, 810.5)
    np.testing.assert_allclose(found.quantiles(np.array([0.025, 0.5, 0.975])), expected, rtol=2e-3)


def test_the_likelihood_of_a_run_is_the_binomial_averaged_over_runs():
    """Integrated by hand for one spread: normal on the logit, 20 answers of which 3."""
    from emray.stats.runs import SPREADS, _grid, run_likelihoods

    found = run_likelihoods(runs([3], 20))[0]
    k, m = 6, 150
    nodes = np.linspace(-9, 9, 20_001)
    weight = stats.norm.pdf(nodes) / stats.norm.pdf(nodes).sum()

    def mean_rate(mu):
        return weight @ (1 / (1 + np.exp(-mu - SPREADS[k] * nodes)))

    from scipy.optimize import brentq

    mu = brentq(lambda x: mean_rate(x) - 1 / (1 + np.exp(-_grid().mean[m])), -30, 30)
    each = 1 / (1 + np.exp(-mu - SPREADS[k] * nodes))
    expected = np.log(weight @ stats.binom.pmf(3, 20, each) / stats.binom.pmf(3, 20, 3 / 20))
    assert found[k, m] == pytest.approx(expected, abs=2e-2)  # the grid averages over cells of .13


@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_nothing_prints_as_exactly_zero_or_one_that_is_not(num_seeds):
    none, most = runs_interval(runs([0] * num_seeds)), runs_interval(runs([1000] * (num_seeds - 1) + [999], 1000))
    assert none.low == none.estimate == 0 < none.high
    assert 0 < most.low < most.estimate < most.high < 1
    every = runs_interval(runs([300] * num_seeds))
    assert every.low < every.high == every.estimate == 1


def test_one_run_or_none_has_no_interval_over_runs():
    assert np.isnan(runs_interval(runs([3])).low)
    assert np.isnan(runs_interval(runs([])).estimate)


def test_the_same_runs_give_the_same_bytes_in_any_order():
    first, second = runs_interval(runs([3, 40, 8])), runs_interval(runs([40, 8, 3]))
    assert first == runs_interval(runs([3, 40, 8]))
    np.testing.assert_allclose(first[:3], second[:3], rtol=1e-12)


@pytest.mark.parametrize("answers", [20, 300, 6000])
@pytest.mark.parametrize("pattern", [(-1, 0, 1), (-1, -1, 2), (-2, 1, 1), (-1, -1, -1, -1, 4), (-1, 1)])
@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5])
def test_more_spread_never_gives_a_narrower_interval(pattern, mean, answers):
    z = np.array(pattern, dtype=float)
    most = min(mean / -z.min(), (1 - mean) / z.max())
    widths = [width((mean + part * most * z) * answers, answers) for part in np.linspace(0, 1, 7)]
    assert (np.diff(widths) > -1e-9).all()
    alone = stats.beta.ppf([0.025, 0.975], *(np.array([mean, 1 - mean]) * answers * len(z) + 0.5))
    assert widths[0] >= np.ptp(alone)


def test_spread_counts_whatever_its_pattern():
    assert width([30, 30, 30]) < width([20, 30, 40]) < width([0, 30, 60]) < width([0, 0, 90])


def test_the_interval_depends_on_mean_and_spread_alone():
    """Two patterns of equal mean and variance: 10, 30, 50 and 30 - x, 30 - x, 30 + 2 x with 6 x^2 = 800."""
    x = (800 / 6) ** 0.5
    assert width([10, 30, 50]) == pytest.approx(width([30 - x, 30 - x, 30 + 2 * x]), rel=1e-9)


def test_few_answers_in_one_run_widen_the_interval():
    assert width([30, 30, 30]) < width([30, 30, 1], [300, 300, 10])


@pytest.mark.parametrize(("spread", "narrower"), [(0.0, True), (2.0, False)])
def test_calm_places_lend_their_calm_and_wild_ones_do_not(spread, narrower):
    rng = np.random.default_rng(0)
    place = runs([30, 36, 27])
    others = [runs(rng.binomial(300, 1 / (1 + np.exp(-rng.normal(-1, spread, 3))))) for _ in range(10)]
    prior = spread_priors([evidence(one) for one in [place, *others]])[0]
    lent = width([30, 36, 27], prior=prior)
    assert (lent < width([30, 36, 27])) == narrower


def test_a_places_own_data_win_as_its_runs_grow():
    """Ten calm places; one that is wild. Its pooled interval nears the lone one with the number of its runs."""
    calm = [runs([30, 31, 29])] * 10
    ratios = []
    for num in (3, 10, 30):
        wild = np.tile([3, 30, 120], num // 3 + 1)[:num]
        prior = spread_priors([evidence(one) for one in [runs(wild), *calm]])[0]
        ratios.append(width(wild, prior=prior) / width(wild))
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[2] > 0.9


def test_a_lone_place_has_the_documented_prior():
    np.testing.assert_allclose(spread_priors([evidence(runs([3, 4]))])[0], lone_prior(), rtol=1e-9)


@pytest.fixture(scope="module")
def table():
    return make_table(3, 0.95, num_means=18)


def test_the_interval_covers_where_t_does_not_and_is_narrower_where_t_is_wide(table):
    rare, common = World(0.02, 1.5), World(0.5, 1.0)
    found = {world: measure(world, world.counts(4000, 3), table) for world in (rare, common)}
    assert found[rare].coverage > 0.92 > 0.8 > found[rare].t_coverage
    assert found[common].coverage > 0.94
    assert found[common].width < 0.7 * found[common].t_width


def test_the_table_of_the_simulation_is_the_real_interval(table):
    counts = World(0.1, 1.0).counts(15, 3)
    low, high = table.intervals(counts)
    for row, bounds in zip(counts, zip(low, high, strict=True), strict=True):
        assert runs_interval(runs(row, ANSWERS))[1:3] == pytest.approx(bounds, abs=4e-3)
