"""ROC and its area by hand, with ties, empty sides and few others."""

import math

import numpy as np
import pytest

from emray.stats.roc import at_rates, auc, roc, share_interval, tpr_at


def test_area_by_hand_with_a_tie():
    # Pairs: 3>2, 3>1, 2=2 (half), 2>1: 3.5 of 4.
    assert auc([3, 2], [2, 1]) == pytest.approx(3.5 / 4)
    assert auc([1], [2]) == 0
    assert auc([1, 1], [1, 1]) == 0.5


def test_area_of_normal_scores_is_that_of_the_formula():
    # Phi(d / sqrt 2) for two normals d apart: d = 1 gives .760.
    draws = np.random.default_rng(0)
    assert auc(draws.normal(1, 1, 20_000), draws.normal(0, 1, 20_000)) == pytest.approx(0.760, abs=0.006)


def test_curve_by_hand_and_its_area_is_the_auc():
    curve = roc([4, 3, 1], [2, 1])
    assert curve.false_positives.tolist() == [0, 0, 0, 0.5, 1]
    assert curve.true_positives.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert np.trapezoid(curve.true_positives, curve.false_positives) == pytest.approx(auc([4, 3, 1], [2, 1]))


def test_at_one_percent_false_positives_no_more_than_that_pass():
    others = np.arange(200.0)  # two of 200 may pass: the threshold is 198
    assert tpr_at([198, 197, 500, 0], others, fpr=0.01) == pytest.approx(0.5)
    assert tpr_at([198, 500], others[:50], fpr=0.01) == 1.0  # none of 50 may pass
    assert tpr_at([10, 500], others[:50], fpr=0.01) == 0.5


def test_curves_are_compared_at_equal_rates():
    assert at_rates(roc([1], [0]), [0, 0.5, 1]).tolist() == [1, 1, 1]
    assert at_rates(roc([1, 1], [1, 1]), [0, 0.25, 1]).tolist() == [0, 0.25, 1]


@pytest.mark.parametrize(("members", "others"), [([], [1]), ([1], []), ([np.nan], [1])])
def test_one_empty_side_is_nan(members, others):
    assert math.isnan(auc(members, others))
    assert math.isnan(tpr_at(members, others, fpr=0.01))
    assert np.isnan(at_rates(roc(members, others), [0, 1])).all()


def test_intervals_over_seeds_stay_shares_and_one_seed_has_none():
    # mean .95, sd .05: t(2) = 4.303, half = 4.303 * .05 / sqrt 3 = .124: cut at 1
    interval = share_interval([0.90, 0.95, 1.0])
    assert (interval.low, interval.high) == (pytest.approx(0.8258, abs=1e-4), 1.0)
    assert math.isnan(share_interval([0.9]).low)


def test_intervals_over_seeds_cover():
    draws = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        interval = share_interval(draws.normal(0.6, 0.04, 3))
        inside += interval.low <= 0.6 <= interval.high
    assert 0.93 < inside / 1000 < 0.97
