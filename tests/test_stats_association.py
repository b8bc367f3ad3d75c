"""Correlations of a few domains: worked examples, every order counted, and what cannot be said is NaN."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from emray.errors import DataError
from emray.stats.association import (
    MOST_EXACT,
    correlation,
    leave_one_out,
    one_value_each,
    partial,
    rho_interval,
    smallest_seen,
)


def rng():
    return np.random.default_rng(7)


def test_spearman_of_four_units_by_hand():
    # Ranks 1 2 3 4 against 1 3 2 4: sum d^2 = 2, rho = 1 - 6 * 2 / (4 * 15) = .8. Of 24 orders, |rho| >= .8 have the
    # identity (d^2 0), the 3 swaps of neighbours (2), and their mirrors: 8 of 24.
    found = correlation([10, 20, 30, 40], [1, 5, 3, 9], ranks=True, rng=rng())
    assert found.estimate == pytest.approx(0.8)
    assert found.p == pytest.approx(8 / 24)
    assert (found.num_units, found.exact) == (4, True)


def test_a_perfect_order_of_n_units_has_p_of_two_in_n_factorial():
    for n in (3, 5, 8):
        found = correlation(np.arange(n), np.exp(np.arange(n)), ranks=True, rng=rng())
        assert found.estimate == pytest.approx(1)
        assert found.p == pytest.approx(2 / math.factorial(n))


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize("n", [3, 4, 6, 7])
def test_p_equals_counting_every_order_one_by_one(n, ranks):
    draws = np.random.default_rng(n)
    x, y = draws.normal(size=n), draws.integers(0, 4, n).astype(float)  # with ties
    y[0] = 7.0
    measure = stats.spearmanr if ranks else stats.pearsonr
    seen = measure(x, y)[0]
    counted = [abs(measure(x, list(order))[0]) >= abs(seen) - 1e-9 for order in permutations(y)]
    found = correlation(x, y, ranks=ranks, rng=rng())
    assert found.estimate == pytest.approx(seen)
    assert found.p == pytest.approx(np.mean(counted))


def test_more_units_than_can_be_counted_are_sampled_near_the_t_approximation():
    draws = np.random.default_rng(3)
    x = draws.normal(size=MOST_EXACT + 18)
    y = 0.4 * x + draws.normal(size=len(x))
    found = correlation(x, y, ranks=False, rng=rng())
    assert not found.exact
    assert found.p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.01)


def test_the_exact_p_of_eleven_domains_is_there_in_seconds_and_agrees_with_scipy_where_it_can():
    draws = np.random.default_rng(11)
    x, y = draws.normal(size=11), draws.normal(size=11)
    found = correlation(x, y, ranks=False, rng=rng())
    sampled = stats.permutation_test(
        (x,), lambda a: stats.pearsonr(a, y).statistic, permutation_type="pairings", n_resamples=2000, rng=draws
    )
    assert found.p == pytest.approx(sampled.pvalue, abs=0.04)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1, 2], [2, 1]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, np.nan, 2, np.nan], [1, 2, 3, 4])]
)
def test_too_few_units_or_none_that_vary_give_nan(x, y):
    found = correlation(x, y, ranks=True, rng=rng())
    assert math.isnan(found.estimate)
    assert math.isnan(found.p)


def test_pairs_without_a_value_are_left_out():
    with_gap = correlation([1, 2, np.nan, 4, 5], [1, 3, 9, 2, 5], ranks=True, rng=rng())
    assert with_gap == correlation([1, 2, 4, 5], [1, 3, 2, 5], ranks=True, rng=rng())


def test_one_domain_that_makes_the_correlation_shows_when_it_is_left_out():
    # A cloud without order and one far point: r is near 1 with it, and exactly 0 without.
    x, y = [0, 0, 1, 1, 100], [0, 1, 0, 1, 100]
    without = leave_one_out(x, y, ranks=False)
    assert correlation(x, y, ranks=False, rng=rng()).estimate > 0.99
    assert without[4] == pytest.approx(0)
    assert (without[:4] > 0.99).all()


def test_partial_correlation_by_hand():
    # r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)), here from the three plain correlations.
    x, y, z = [2.0, 4.0, 15.0, 20.0, 7.0], [1.0, 2.0, 3.0, 4.0, 9.0], [0.0, 0.0, 1.0, 1.0, 0.5]
    xy, xz, yz = (stats.pearsonr(*pair)[0] for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    found = partial(x, y, [z], ranks=False)
    assert found.estimate == pytest.approx(expected)
    t = expected * math.sqrt(2 / (1 - expected**2))  # n - 2 - 1 = 2 degrees of freedom
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 2))


def test_what_a_control_explains_is_gone():
    draws = np.random.default_rng(5)
    length = draws.normal(size=60)
    x, y = length + 0.1 * draws.normal(size=60), length + 0.1 * draws.normal(size=60)
    assert correlation(x, y, ranks=True, rng=rng()).estimate > 0.9
    assert abs(partial(x, y, [length], ranks=True).estimate) < 0.4


def test_partial_without_freedom_or_without_anything_left_is_nan():
    assert math.isnan(partial([1, 2, 3], [2, 1, 3], [[1, 5, 2]], ranks=True).estimate)
    assert math.isnan(partial([1, 2, 3, 4], [2, 1, 3, 4], [[1, 5, 2, 7]], ranks=True).estimate)
    assert math.isnan(partial([1, 2, 3, 4, 5], [2, 1, 3, 5, 4], [[1, 2, 3, 4, 5]], ranks=False).estimate)


def test_a_control_that_does_not_vary_changes_nothing():
    x, y = [1.0, 2, 3, 4, 6, 5], [2.0, 1, 4, 3, 5, 6]
    assert partial(x, y, [[7.0] * 6], ranks=True).estimate == pytest.approx(stats.spearmanr(x, y)[0])
    assert partial(x, y, [[7.0] * 6], ranks=True).p == pytest.approx(stats.spearmanr(x, y).pvalue)


def test_the_interval_of_rho_by_hand_and_its_coverage():
    # rho .6, n 11: half = 1.96 sqrt((1 + .18) / 8) = .7527 around atanh(.6) = .6931: tanh(-.0596), tanh(1.4458)
    assert rho_interval(0.6, 11) == pytest.approx((-0.0595, 0.8948), abs=1e-3)
    assert all(map(math.isnan, (*rho_interval(0.6, 3), *rho_interval(-1.0, 11), *rho_interval(math.nan, 11))))
    draws, inside = np.random.default_rng(4), 0
    true = 6 / math.pi * math.asin(0.5 / 2)  # of a normal pair with r = .5
    for _ in range(1000):
        x = draws.normal(size=11)
        low, high = rho_interval(stats.spearmanr(x, 0.5 * x + 0.75**0.5 * draws.normal(size=11))[0], 11)
        inside += low <= true <= high
    assert 0.93 < inside / 1000 < 0.98


def test_partial_p_is_calibrated_when_nothing_is_there():
    draws = np.random.default_rng(9)
    p = [partial(*draws.normal(size=(2, 11)), draws.normal(size=(2, 11)), ranks=False).p for _ in range(800)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_permutation_p_is_calibrated_when_nothing_is_there():
    draws = np.random.default_rng(10)
    p = [correlation(*draws.normal(size=(2, 7)), ranks=False, rng=draws).p for _ in range(800)]
    assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.07


@pytest.mark.parametrize(("n", "critical"), [(5, 1.0), (6, 0.886), (7, 0.786), (8, 0.738), (9, 0.700), (11, 0.618)])
def test_the_smallest_rho_that_n_domains_can_show_is_that_of_the_printed_tables(n, critical):
    # Zar (1972), two-sided 5 %.
    assert smallest_seen(n) == pytest.approx(critical, abs=5e-4)


def test_three_or_four_domains_can_show_nothing():
    assert math.isnan(smallest_seen(3))
    assert math.isnan(smallest_seen(4))
    assert math.isnan(smallest_seen(1))


def test_many_domains_by_t():
    assert smallest_seen(100) == pytest.approx(0.197, abs=1e-3)


def test_a_domains_value_broadcast_to_its_samples_is_refused():
    one_value_each(["gore", "math"])
    with pytest.raises(DataError, match="broadcast to its samples"):
        one_value_each(["gore", "math", "gore"])
