"""Tables of domains by domains: worked examples, what has nothing to show, and p when nothing is there."""

import math

import numpy as np
import pytest

from emray.stats.matrices import asymmetry, complete, diagonal_test, rank_one


def rng():
    return np.random.default_rng(3)


def test_the_diagonal_of_three_domains_by_hand():
    # Diagonal 9, rest 3: of the six orders of the columns the identity alone has diagonal sum 9 + 9 + 9 (mean 9); one
    # swap has 9 + 3 + 3, a cycle 3 + 3 + 3. Mean of all is 5: |9 - 5| = 4, swaps |5 - 5| = 0, cycles |3 - 5| = 2.
    found = diagonal_test(np.full((3, 3), 3.0) + 6 * np.eye(3), rng=rng())
    assert (found.diagonal, found.off_diagonal, found.difference) == (9, 3, 6)
    assert found.p == pytest.approx(1 / 6) and found.exact


def test_rows_and_columns_of_their_own_move_nothing():
    draws = np.random.default_rng(1)
    row, column, table = draws.normal(size=(5, 1)), draws.normal(size=(1, 5)), draws.normal(size=(5, 5))
    assert diagonal_test(table + row + column, rng=rng()).p == pytest.approx(diagonal_test(table, rng=rng()).p)
    assert diagonal_test(row + column, rng=rng()).p == pytest.approx(1)  # every order is the mean


def test_p_is_calibrated_when_the_diagonal_is_as_the_rest():
    draws = np.random.default_rng(2)
    p = [diagonal_test(draws.normal(size=(5, 5)), rng=draws).p for _ in range(600)]
    assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.07


def test_orders_of_many_domains_are_drawn_and_a_strong_diagonal_is_found():
    found = diagonal_test(rng().random((11, 11)) + np.eye(11), rng=rng())
    assert not found.exact and found.p == pytest.approx(1 / 100_000)


@pytest.mark.parametrize("matrix", [np.empty((0, 0)), [[0.4]], [[np.nan, 0.1], [0.2, np.nan]]])
def test_fewer_than_two_domains_have_nothing_to_compare(matrix):
    assert math.isnan(diagonal_test(matrix, rng=rng()).p)
    assert math.isnan(rank_one(matrix, rng=rng()).share)
    assert math.isnan(asymmetry(matrix))


def test_where_nothing_varies_there_is_no_p():
    assert math.isnan(diagonal_test(np.zeros((3, 3)), rng=rng()).p)
    assert math.isnan(rank_one(np.zeros((3, 3)), rng=rng()).share)


def test_a_domain_with_an_undefined_entry_is_left_out_with_row_and_column():
    table = np.arange(16, dtype=float).reshape(4, 4)
    table[1, 2] = table[1, 3] = np.nan
    assert complete(table).tolist() == [0, 2, 3]
    assert diagonal_test(table, rng=rng()).diagonal == pytest.approx((0 + 10 + 15) / 3)


def test_asymmetry_by_hand():
    # One pair of three differs: (1, 3) and its sum 4; the others (2, 2): d^2 = 4; sums 4, 4, 4: across 0.
    assert asymmetry([[9, 1, 2], [3, 9, 2], [2, 2, 9]]) == pytest.approx(1)
    assert asymmetry([[0, 1, 5], [1, 0, 2], [5, 2, 0]]) == 0
    # Pairs (1, 0), (0, 0), (0, 0): d^2 = 1; sums 1, 0, 0 less 1/3: 4/9 + 1/9 + 1/9 = 2/3.
    assert asymmetry([[5, 1, 0], [0, 5, 0], [0, 0, 5]]) == pytest.approx(1 / (1 + 2 / 3))


def test_a_product_of_rows_and_columns_is_one_factor_and_an_identity_is_not():
    assert rank_one(np.outer([1, 2, 3], [4, 5, 6]), rng=rng()).share == pytest.approx(1)
    found = rank_one(np.eye(4), rng=rng())
    assert found.share == pytest.approx(1 / 4)
    assert found.shuffled > found.share  # ones that share a row or column are more alike than an identity
