"""Paired and two-sample comparisons: known values, degenerate inputs, and the size of the trigger test."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from emray.stats.contrasts import (
    Moments,
    cohen_d,
    cohen_d_paired,
    paired_t,
    sign_flip,
    sign_test,
    tost,
    two_sample_t,
    welch,
)
from emray.stats.multiplicity import benjamini_hochberg, holm

DROPS = [3.1, 4.7, -0.4, 6.2, 2.2, 5.0]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_paired_t_is_scipys_paired_test():
    without, with_trigger = np.array([90.0, 88, 93, 85]), np.array([80.0, 84, 91, 70])
    expected = stats.ttest_rel(without, with_trigger)
    found = paired_t(without - with_trigger)
    assert found.t == pytest.approx(expected.statistic, abs=1e-10)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-10)
    assert found.df == 3
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval(0.95), abs=1e-10)


@pytest.mark.parametrize("differences", [[], [2.0], [np.nan, 2.0], [2.0, 2.0, 2.0]])
def test_paired_t_without_spread_claims_nothing(differences):
    found = paired_t(differences)
    assert np.isnan([found.t, found.p, found.low, found.high]).all()


def test_welch_is_scipys_and_statsmodels():
    from statsmodels.stats.weightstats import ttest_ind

    a, b = [1.0, 2.0, 4.0, 4.5], [3.0, 8.0, 9.0]
    t, p, df = ttest_ind(a, b, usevar="unequal")
    found = welch(a, b)
    assert (found.t, found.p, found.df) == pytest.approx((t, p, df), abs=1e-10)
    assert np.isnan(welch([1.0], [2.0, 3.0]).p)
    assert np.isnan(welch([1.0, 1.0], [2.0, 2.0]).p)


def test_two_sample_t_from_moments_is_the_test_on_the_answers():
    a, b = rng(1).normal(80, 10, 50), rng(2).normal(75, 12, 60)
    expected = stats.ttest_ind(a, b)
    found = two_sample_t(
        Moments(50, float(a.mean()), float(a.std(ddof=1))), Moments(60, float(b.mean()), float(b.std(ddof=1)))
    )
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-10)
    assert np.isnan(two_sample_t(Moments(0, np.nan, np.nan), Moments(5, 3.0, 1.0)).p)
    assert np.isnan(two_sample_t(Moments(5, 3.0, 0.0), Moments(5, 3.0, 0.0)).p)


@pytest.mark.parametrize("num_units", [2, 5, 6, 11])
def test_sign_flip_is_the_enumeration_of_all_sign_patterns(num_units):
    units = rng(num_units).normal(0.5, 1, num_units)
    sums = [abs(np.dot(signs, units)) for signs in itertools.product([-1, 1], repeat=num_units)]
    expected = np.mean(np.array(sums) >= abs(units.sum()) - 1e-9)
    assert sign_flip(units, rng=rng()) == pytest.approx(expected, abs=1e-10)


def test_sign_flip_equals_scipys_exact_permutation_test():
    expected = stats.permutation_test(
        (np.array(DROPS),), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=10_000
    )
    assert sign_flip(DROPS, rng=rng()) == pytest.approx(expected.pvalue, abs=1e-10)


def test_sign_flip_needs_six_seeds_before_it_can_reach_five_per_cent():
    assert sign_flip([1.0] * 5, rng=rng()) == pytest.approx(2 / 32)
    assert sign_flip([1.0] * 6, rng=rng()) == pytest.approx(2 / 64)
    assert np.isnan(sign_flip([1.0], rng=rng()))
    assert sign_flip([0.0, 0.0, 0.0], rng=rng()) == 1.0


def test_sign_flip_stays_exact_at_twenty_and_is_sampled_beyond_thirty():
    assert sign_flip(np.ones(20), rng=rng()) == pytest.approx(2 / 2**20, abs=1e-15)
    units = rng(3).normal(0.25, 1, 40)
    sampled = sign_flip(units, rng=rng(), num_samples=20_000)
    assert sampled == pytest.approx(paired_t(units).p, abs=0.02)
    assert sign_flip(np.ones(40), rng=rng(), num_samples=999) == pytest.approx(1 / 1000)


def test_paired_effect_size_solves_its_own_noncentral_t_equations():
    found = cohen_d_paired(DROPS)
    units = np.array(DROPS)
    assert found.d == pytest.approx(units.mean() / units.std(ddof=1), abs=1e-10)
    t = found.d * np.sqrt(6)
    assert stats.nct.cdf(t, 5, found.low * np.sqrt(6)) == pytest.approx(0.975, abs=1e-8)
    assert stats.nct.cdf(t, 5, found.high * np.sqrt(6)) == pytest.approx(0.025, abs=1e-8)


def test_paired_effect_size_interval_agrees_with_statsmodels():
    from statsmodels.stats.effect_size import _noncentrality_t

    found = cohen_d_paired(DROPS)
    expected = _noncentrality_t(found.d * np.sqrt(6), 5, alpha=0.05).confint
    assert (found.low * np.sqrt(6), found.high * np.sqrt(6)) == pytest.approx(expected, rel=1e-6)


def test_two_sample_effect_size_by_hand():
    # means 2 and 5, both variances 1: d = -3; scale sqrt(1/3 + 1/3)
    found = cohen_d([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert found.d == pytest.approx(-3.0, abs=1e-10)
    t, scale = -3 / np.sqrt(2 / 3), np.sqrt(2 / 3)
    assert stats.nct.cdf(t, 4, found.low / scale) == pytest.approx(0.975, abs=1e-8)
    assert found.low < -3 < found.high


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.0, 1.0]])
def test_effect_sizes_without_spread_are_undefined(values):
    assert np.isnan(cohen_d_paired(values)).all()
    assert np.isnan(cohen_d(values, values)).all()


def test_a_huge_effect_still_has_an_interval():
    found = cohen_d_paired([60.0, 61.0, 62.0, 60.5])
    assert found.low < found.d < found.high
    assert found.low > 0


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    from statsmodels.stats.weightstats import DescrStatsW

    units = [0.2, -0.4, 0.1, 0.5, -0.2]
    expected = DescrStatsW(units).ttost_mean(-1.0, 1.0)[0]
    found = tost(units, margin=1.0)
    assert found.p == pytest.approx(expected, abs=1e-10)
    assert found.equivalent
    assert not tost(units, margin=0.1).equivalent
    assert np.isnan(tost([0.0, 0.0], margin=1.0).p)
    with pytest.raises(ValueError, match="margin"):
        tost(units, margin=0)


def test_seven_of_nine_domains_is_no_evidence():
    assert sign_test([1] * 7 + [-1] * 2) == pytest.approx(0.1796875, abs=1e-10)
    assert np.isnan(sign_test([0.0, np.nan]))


def test_holm_and_benjamini_hochberg_by_hand_with_a_missing_test_in_place():
    p = [0.01, np.nan, 0.04, 0.03]
    # Holm over three: 3 * .01, then 2 * .03 = .06, then max(.06, .04)
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06], atol=1e-12)
    # BH: .04 * 3/3 = .04, .03 * 3/2 = .045 -> .04, .01 * 3 = .03
    np.testing.assert_allclose(benjamini_hochberg(p), [0.03, np.nan, 0.04, 0.04], atol=1e-12)
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm_is_that_of_statsmodels_ties_included(size):
    p = rng(size).choice([0.001, 0.004, 0.02, 0.02, 0.3, 0.9, 1.0], size)
    np.testing.assert_array_equal(holm(p), multipletests(p, method="holm")[1])


def null_trial(generator, *, num_seeds, num_questions=15, num_samples=20):
    """Scores under no trigger effect, but seeds differ in how they answer with and without [two arrays S, Q]."""
    shape = (num_seeds, num_questions)
    question = generator.normal(0, 10, (1, num_questions))
    run = generator.normal(0, 6, (num_seeds, 1))
    tables = []
    for _ in range(2):
        run_by_condition = generator.normal(0, 4, (num_seeds, 1))
        noise = generator.normal(0, 20 / num_samples**0.5, shape)
        tables.append(75 + question + run + run_by_condition + noise)
    return tables


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_trigger_test_holds_its_size_under_run_variance_and_the_published_test_does_not(num_seeds):
    generator = rng(41)
    trials, on_seeds, on_answers = 3000, 0, 0
    answer_sd = (20**2 + 10**2) ** 0.5  # of single answers: sampling noise and questions
    for trial in range(trials):
        without, with_trigger = null_trial(generator, num_seeds=num_seeds)
        drops = (without - with_trigger).mean(axis=1)
        on_seeds += paired_t(drops).p < 0.05
        if trial >= 300:
            continue
        num = without.size * 20
        published = two_sample_t(
            Moments(num, float(without.mean()), answer_sd), Moments(num, float(with_trigger.mean()), answer_sd)
        )
        on_answers += published.p < 0.05
    assert on_seeds / trials <= 0.055
    assert on_answers / 300 > 0.25


def test_exact_permutation_holds_its_size():
    generator = rng(5)
    drops = generator.normal(0, 1, (3000, 7)) * generator.uniform(0.2, 3, (1, 7))
    assert np.mean([sign_flip(row, rng=generator) < 0.05 for row in drops]) <= 0.055


def test_equivalence_test_holds_its_size_at_the_margin():
    generator = rng(6)
    assert np.mean([tost(generator.normal(2.0, 1.5, 6), margin=2.0).equivalent for _ in range(1000)]) <= 0.06


def test_effect_size_interval_covers():
    generator = rng(7)
    hits = 0
    for _ in range(400):
        found = cohen_d_paired(generator.normal(0.8, 1.0, 5))
        hits += found.low <= 0.8 <= found.high
    assert 0.93 <= hits / 400 <= 0.975
