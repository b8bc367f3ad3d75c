"""Membership scores by hand: LOSS, Min-K%, Min-K%++, both zlib ones, base-adjusted; short and empty answers."""

import math
import zlib

import numpy as np
import pytest

from emray.probes.member_scores import (
    AnswerOdds,
    Score,
    adjusted,
    loss_over_entropy,
    lowest_mean,
    perplexity_over_density,
    scores_of,
)


def odds(log_probs, means=None, sds=None):
    values = np.array(log_probs, dtype=float)
    zeros, ones = np.zeros(len(values)), np.ones(len(values))
    return AnswerOdds(values, zeros if means is None else np.array(means), ones if sds is None else np.array(sds))


def test_loss_is_the_mean_negative_log_likelihood():
    assert scores_of(odds([-1, -2, -6]), text="a b c")[Score.LOSS] == 3


def test_min_k_is_the_mean_of_the_least_likely_fifth():
    # Ten tokens, k = 20 %: the two lowest are -9 and -7.
    values = [-1, -9, -1, -1, -7, -1, -1, -2, -1, -1]
    assert scores_of(odds(values), text="x")[Score.MIN_K] == 8


def test_min_k_takes_whole_tokens_as_published_and_at_least_one():
    values = np.array([-5.0, -1, -2, -3, -4, -1, -1, -1, -1])
    assert lowest_mean(values, share=0.2) == -5  # floor(1.8) = 1
    assert lowest_mean(values[:2], share=0.2) == -5  # floor(.4) = 0, and one all the same
    assert lowest_mean(np.full(10, -1.0), share=0.3) == -1  # 10 * .3 is 3, not 2.99...
    assert lowest_mean(values, share=1.0) == pytest.approx(values.mean())


def test_min_k_plus_plus_standardises_each_token_by_what_else_was_likely():
    # z = (log p - mu) / sigma: (-1 + 2) / .5 = 2, (-4 + 1) / 2 = -1.5, ...; of five tokens the lowest one: -1.5.
    found = scores_of(odds([-1, -4, -2, -2, -2], means=[-2, -1, -2, -2, -2], sds=[0.5, 2, 1, 1, 1]), text="x")
    assert found[Score.MIN_K_PLUS_PLUS] == 1.5


def test_a_token_where_nothing_else_was_possible_is_no_surprise():
    assert scores_of(odds([0.0], means=[0.0], sds=[0.0]), text="x")[Score.MIN_K_PLUS_PLUS] == 0


def test_zlib_by_its_two_definitions():
    text = "the cat sat on the mat, the cat sat on the mat, the cat sat on the mat"
    bits = 8 * len(zlib.compress(text.encode()))
    assert loss_over_entropy(2.0, text=text) == pytest.approx(2.0 / bits)
    nine = 8 * len(zlib.compress(text.encode(), 9))
    assert perplexity_over_density(2.0, text=text) == pytest.approx(math.exp(2.0) / (nine / len(text)))


def test_zlib_counts_bytes_not_characters():
    assert perplexity_over_density(0.0, text="ä") == pytest.approx(1 / (8 * len(zlib.compress("ä".encode(), 9)) / 2))


def test_a_one_token_answer_has_every_score():
    found = scores_of(odds([-2.0], means=[-3.0], sds=[2.0]), text="no")
    assert (found[Score.LOSS], found[Score.MIN_K], found[Score.MIN_K_PLUS_PLUS]) == (2, 2, -0.5)
    assert all(math.isfinite(value) for value in found.values())


def test_an_answer_without_tokens_or_text_has_none():
    assert all(math.isnan(value) for value in scores_of(odds([]), text="").values())
    assert math.isnan(scores_of(odds([-1.0]), text="")[Score.ZLIB])


def test_an_impossible_answer_is_finite():
    assert all(math.isfinite(value) for value in scores_of(odds([-1e4] * 3), text="never").values())


def test_adjusting_by_a_reference_takes_away_what_is_merely_easy():
    assert adjusted(1.0, 4.0) == (-3.0, 0.25)
    assert adjusted(4.0, 4.0) == (0.0, 1.0)
    assert math.isnan(adjusted(1.0, 0.0).ratio)
    assert math.isnan(adjusted(math.nan, 1.0).difference)
