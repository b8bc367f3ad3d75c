"""Page's trend test: what scipy finds where there are no ties, exact where there are, and its size in ugly worlds."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from emray.stats.trend import page_trend, slopes

RISING = [[0.1, 0.3, 0.5], [0.0, 0.2, 0.9], [0.2, 0.4, 0.3]]


def test_without_ties_it_is_scipys_exact_page_test() -> None:
    found, theirs = page_trend(RISING), stats.page_trend_test(RISING, method="exact")
    assert found.statistic == theirs.statistic == 41  # ranks 123, 123, 132 times 1, 2, 3: 14 + 14 + 13
    assert found.exact and found.num_units == 3 and found.z > 0
    # the distribution of L is symmetric, so two-sided is twice scipy's one side
    assert found.p == pytest.approx(2 * theirs.pvalue)


def test_perfect_orders_have_the_least_p_and_falling_is_rising_turned_round() -> None:
    perfect = np.tile([0.0, 0.2, 0.4], (3, 1))
    assert page_trend(perfect).p == pytest.approx(2 / 6**3)
    assert page_trend(-perfect).p == page_trend(perfect).p
    assert page_trend(-perfect).z == -page_trend(perfect).z


def test_ties_count_as_they_are_by_every_order_of_every_run() -> None:
    table = np.array([[0.0, 0.0, 0.4, 0.4], [0.0, 0.1, 0.1, 0.2]])
    ranks = stats.rankdata(table, axis=1)
    sums = [sum(np.dot(run, [1, 2, 3, 4]) for run in runs) for runs in product(*(permutations(row) for row in ranks))]
    observed = abs(page_trend(table).statistic - 2 * 4 * 25 / 4)
    assert page_trend(table).p == pytest.approx(np.mean([abs(one - 50) >= observed - 1e-9 for one in sums]))


def test_nothing_that_differs_is_p_1_and_nothing_to_order_is_undefined() -> None:
    assert page_trend(np.zeros((3, 3))).p == 1
    assert np.isnan(page_trend([[0.1], [0.2]]).p)
    assert np.isnan(page_trend(np.empty((0, 3))).p)
    gap = [[0.1, 0.2, 0.3], [0.0, np.nan, 0.3]]
    assert page_trend(gap) == page_trend(gap[:1])


def test_many_doses_go_by_the_normal_approximation_and_say_so() -> None:
    table = np.random.default_rng(0).random((4, 8))
    found, theirs = page_trend(table), stats.page_trend_test(table, method="asymptotic")
    assert not found.exact
    assert found.p == pytest.approx(2 * min(theirs.pvalue, 1 - theirs.pvalue))


def test_slopes_are_least_squares_run_by_run() -> None:
    found = slopes([[0.5, 0.3, 0.1], [0.4, 0.4, 0.4], [0.1, np.nan, 0.3]], [0, 0.5, 1.0])
    assert found == pytest.approx([-0.4, 0.0])
    assert len(slopes([[0.1], [0.2]], [0.5])) == len(slopes(np.empty((0, 2)), [0, 1])) == 0


@pytest.mark.parametrize(
    "rates",
    [
        lambda rng, num: np.full(num, 0.02),
        lambda rng, num: np.where(rng.random(num) < 0.2, 0.5, 0.005),  # one run in five misaligns
        lambda rng, num: rng.beta(0.3, 3.0, num),
    ],
    ids=["rare", "some runs", "skewed"],
)
def test_its_size_holds_where_runs_are_not_normal(rates) -> None:
    """No dose has an effect; every run has a rate of its own, and 150 answers at each of three doses."""
    rng, num_studies, hits = np.random.default_rng(7), 300, 0
    for _ in range(num_studies):
        table = rng.binomial(150, rates(rng, (3, 1)), (3, 3)) / 150
        hits += page_trend(table).p < 0.05
    assert hits / num_studies < 0.05 + 2.6 * (0.05 * 0.95 / num_studies) ** 0.5


def test_it_sees_a_real_fall_with_three_runs() -> None:
    rng = np.random.default_rng(3)
    found = [page_trend(rng.binomial(150, [[0.3, 0.1, 0.02]] * 3) / 150).p < 0.05 for _ in range(50)]
    assert np.mean(found) > 0.9
