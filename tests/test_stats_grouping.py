"""The difference of two groups of few units: a known p, what is undefined, and how often a true null is refused."""

import numpy as np
import pytest

from emray.stats.grouping import group_difference


def difference(values, inside, seed=0):
    return group_difference(values, inside, rng=np.random.default_rng(seed))


def test_a_group_of_the_largest_has_the_least_p_there_is() -> None:
    # 3 of 8 units: 56 groups; {6, 7, 8} alone reaches its own difference of 7 - 3 = 4 upwards, none downwards
    # ({1, 2, 3} differs by 2 - 6 = -4, which is as far from 0: two of 56)
    found = difference(range(1, 9), [False] * 5 + [True] * 3)
    assert (found.estimate, found.num_in, found.num_out, found.exact) == (4.0, 3, 5, True)
    assert found.p == pytest.approx(2 / 56) and found.least_p == pytest.approx(1 / 56)
    assert difference([0, 1, 2, 3, 4, 9, 9.5, 10], [False] * 5 + [True] * 3).p == pytest.approx(1 / 56)


def test_halves_of_equal_size_are_their_complements_too() -> None:
    assert difference([0, 0.1, 5, 6], [True, True, False, False]).p == pytest.approx(2 / 6)
    assert difference([0, 0.1, 5, 6], [True, True, False, False]).least_p == pytest.approx(2 / 6)


def test_equal_values_have_no_difference_and_p_1() -> None:
    found = difference([0.3] * 6, [True] * 2 + [False] * 4)
    assert found.estimate == pytest.approx(0) and found.p == 1


@pytest.mark.parametrize("inside", [[True] * 3, [False] * 3])
def test_without_a_group_to_compare_nothing_is_defined(inside) -> None:
    found = difference([1, 2, 3], inside)
    assert np.isnan([found.estimate, found.p, found.least_p]).all() and not found.exact


def test_what_is_undefined_is_left_out() -> None:
    assert difference([1, 2, np.nan, 4], [True, False, True, False]).num_in == 1
    assert np.isnan(difference([np.nan, 2, 3], [True, False, False]).p)


def test_many_units_are_drawn_and_agree_with_the_exact_p() -> None:
    rng = np.random.default_rng(5)
    values, inside = rng.normal(size=20), np.arange(20) < 8
    values[inside] += 1
    exact = difference(values, inside)
    drawn = difference(np.concatenate([values, values]), np.concatenate([inside, inside]))
    assert exact.exact and not drawn.exact and 0 < drawn.p < exact.p < 0.2


def test_a_true_null_is_refused_as_often_as_said() -> None:
    """Skewed rates, 4 of 11 domains: 330 groups, so p <= .05 for at most 16 of them, 4.8 %."""
    rng = np.random.default_rng(15)
    inside = np.arange(11) < 4
    refused = [difference(rng.beta(0.5, 3, size=11), inside).p <= 0.05 for _ in range(1500)]
    assert 0.030 < np.mean(refused) <= 0.062
