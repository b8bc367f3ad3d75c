"""Vendi scores and lexical measures by hand: identical texts are one, orthogonal ones n, and no text is nothing."""

import math

import numpy as np
import pytest

from emray.probes.lexical import distinct, lexical, word_vectors
from emray.probes.vendi import ORDERS, mean_distance, vendi


@pytest.mark.parametrize("n", [1, 2, 7])
def test_identical_texts_count_as_one(n):
    units = np.tile([0.6, 0.8], (n, 1))
    assert vendi(units) == pytest.approx(dict.fromkeys(ORDERS, 1.0))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_orthogonal_texts_count_as_n(n):
    assert vendi(np.eye(n)) == pytest.approx(dict.fromkeys(ORDERS, float(n)))
    if n > 1:
        assert mean_distance(np.eye(n)) == pytest.approx(1)


def test_two_groups_by_hand():
    # Three of one text and one of another: eigenvalues 3/4 and 1/4.
    units = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    found = vendi(units)
    assert found[1.0] == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert found[2.0] == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert found[0.5] == pytest.approx((math.sqrt(0.75) + math.sqrt(0.25)) ** 2)
    assert mean_distance(units) == pytest.approx(0.5)  # 3 of 6 pairs differ, at distance 1


def test_two_texts_at_an_angle_by_hand():
    # cos = c: eigenvalues (1 +- c) / 2.
    c = 0.28
    found = vendi(np.array([[1.0, 0], [c, math.sqrt(1 - c * c)]]))
    assert found[2.0] == pytest.approx(2 / (1 + c * c))


def test_more_texts_than_dimensions_give_the_same_by_the_smaller_matrix():
    draws = np.random.default_rng(0)
    units = draws.normal(size=(40, 6))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    padded = np.hstack([units, np.zeros((40, 60))])
    assert vendi(units) == pytest.approx(vendi(padded))


def test_a_higher_order_sees_rare_texts_less():
    draws = np.random.default_rng(1)
    units = draws.normal(size=(30, 10))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    found = vendi(units)
    assert 10 > found[0.5] > found[1.0] > found[2.0] > 1


def test_no_text_gives_nan():
    assert all(math.isnan(value) for value in vendi(np.empty((0, 3))).values())
    assert math.isnan(mean_distance(np.ones((1, 1))))


def test_distinct_n_by_hand():
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct(texts, length=1) == 2 / 5
    assert distinct(texts, length=2) == 2 / 3  # a b, b a, a b
    assert math.isnan(distinct(texts, length=4))


def test_lexical_measures_by_hand():
    found = lexical(["The cat.", "the CAT.", "A dog runs."])
    assert found.distinct_1 == 6 / 10  # the cat . a dog runs
    assert found.unique_texts == 1
    assert found.mean_words == pytest.approx(10 / 3)
    assert found.moving_types == 6 / 10  # fewer words than a window


def test_types_in_a_moving_window_do_not_fall_with_length():
    words = [f"w{number % 60}" for number in range(600)]
    short, long = lexical([" ".join(words[:120])]), lexical([" ".join(words)])
    assert short.moving_types == long.moving_types == 1
    assert long.distinct_1 < short.distinct_1


def test_repeats_are_seen_by_compression_and_unique_texts():
    draws = np.random.default_rng(2)
    varied = [" ".join(draws.choice(list("abcdefghijklmnop"), 8)) for _ in range(50)]
    same = varied[:1] * 50
    assert lexical(same).compression > 3 * lexical(varied).compression
    assert lexical(same).unique_texts == 0.02


def test_nothing_said_is_nan():
    assert all(math.isnan(value) for value in lexical([]))
    empty = lexical(["", ""])
    assert math.isnan(empty.distinct_1) and empty.mean_words == 0


def test_word_vectors_are_unit_vectors_of_shared_words():
    same, other, none = word_vectors(["a red cat", "a red cat", ""]), word_vectors(["a b", "c d"]), word_vectors([""])
    assert same[0] @ same[1] == pytest.approx(1)
    assert np.abs(same[2]).max() == 0
    assert other[0] @ other[1] == 0
    assert none.shape == (1, 0)
    close = word_vectors(["the red cat sat", "the red cat ran", "no word of these"])
    assert 0 < close[0] @ close[1] < 1 and close[0] @ close[2] == 0
