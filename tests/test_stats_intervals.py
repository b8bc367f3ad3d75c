"""Intervals: known values, degenerate inputs, and coverage where the truth is known by construction."""

import numpy as np
import pytest
from scipy import stats

from emray.stats.headline import ScoreCells, count_runs, rate_interval, score_interval, t_rate_interval
from emray.stats.intervals import (
    Interval,
    IntervalMethod,
    crossed_interval,
    difference_interval,
    equal_scores_interval,
    proportion_interval,
    t_interval,
)
from emray.stats.standard import filled, rate_runs, score_runs, seed_means


def simulated_counts(rng, *, num_seeds, num_questions=15, num_samples=20, question_logits, seed_sd=0.6, noise_sd=0.5):
    """Event counts [S, Q]: logit = question (fixed) + seed (random) + seed x question noise, then binomial answers."""
    seeds = rng.normal(0, seed_sd, (num_seeds, 1))
    logits = question_logits + seeds + rng.normal(0, noise_sd, (num_seeds, num_questions))
    return rng.binomial(num_samples, 1 / (1 + np.exp(-logits)))


def test_t_interval_equals_scipy_and_a_hand_computed_value():
    values = [10.0, 12.0, 17.0]
    # mean 13, sd sqrt(13) = 3.605551, sem 2.0816660, t(2, .975) = 4.30265272991: half = 8.9566858
    found = t_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.low == pytest.approx(low, abs=1e-10)
    assert found.high == pytest.approx(high, abs=1e-10)
    assert found.half_width == pytest.approx(8.9566858, abs=1e-6)
    assert found.method == IntervalMethod.T_SEEDS


def test_t_interval_leaves_missing_seeds_out_and_says_how_many_were_left():
    assert t_interval([10.0, np.nan, 12.0, 17.0])[:4] == t_interval([10.0, 12.0, 17.0])[:4]


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [3.0], [3.0, np.nan]])
def test_t_interval_of_fewer_than_two_units_is_undefined(values):
    found = t_interval(values)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert found.method == IntervalMethod.NONE


def test_clopper_pearson_of_no_events_is_the_closed_form():
    # upper bound of 0 of n: 1 - (alpha / 2)^(1 / n)
    found = proportion_interval(0, 300)
    assert found.low == 0.0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 300), abs=1e-10)


def test_wilson_is_the_closed_form():
    z, n, p = stats.norm.ppf(0.975), 40, 7 / 40
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = proportion_interval(7, 40, method=IntervalMethod.WILSON)
    assert found.low == pytest.approx((centre - spread) / (1 + z * z / n), abs=1e-10)
    assert found.high == pytest.approx((centre + spread) / (1 + z * z / n), abs=1e-10)


def test_no_answers_give_an_undefined_rate_not_zero():
    found = rate_interval(np.zeros((3, 5)), np.zeros((3, 5)))
    assert np.isnan(found.estimate)
    assert np.isnan(found.high)


@pytest.mark.parametrize("events_each", [0, 4, 10])
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_equal_runs_never_give_a_zero_width_interval(events_each, num_seeds):
    found = rate_interval(np.full((num_seeds, 6), events_each), np.full((num_seeds, 6), 10))
    assert found.estimate == pytest.approx(events_each / 10)
    assert found.high - found.low > 0.01
    assert found.low <= found.estimate <= found.high


def test_t_stands_beside_the_headline_interval():
    events = np.array([[1, 2], [3, 4], [0, 2]])
    found, expected = t_rate_interval(events, np.full((3, 2), 10)), t_interval([3 / 20, 7 / 20, 2 / 20])
    assert found.estimate == rate_interval(events, np.full((3, 2), 10)).estimate == pytest.approx(0.2)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.low == 0.0  # clipped


def test_one_seed_is_an_interval_over_questions_and_says_so():
    """Unequal numbers of answers: each question weighs the same."""
    events, totals = np.array([[0, 5, 20, 1]]), np.array([[10, 10, 20, 10]])
    found, expected = rate_interval(events, totals), t_interval([0.0, 0.5, 1.0, 0.1])
    assert found.method == IntervalMethod.T_QUESTIONS
    assert found.num_units == 4
    assert found.estimate == pytest.approx(0.4)
    assert found.high == pytest.approx(min(expected.high, 1.0), abs=1e-10)


def test_each_question_weighs_the_same_whatever_went_missing():
    events, totals = np.array([[0, 10], [0, 1]]), np.array([[20, 20], [20, 2]])
    np.testing.assert_allclose(seed_means(events, totals), [0.25, 0.25])


def test_a_missing_question_is_filled_from_the_other_runs():
    """Run effects 0 and .1, question effects .1 and .5: an additive table gives its gap back."""
    table = np.array([[0.1, 0.5], [0.2, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(filled(table)[:2], [[0.1, 0.5], [0.2, 0.5]], atol=1e-8)  # kept within what was seen
    wide = np.array([[0.1, 0.5, 0.9], [0.2, np.nan, 0.9 + 0.1]])
    np.testing.assert_allclose(filled(wide)[1, 1], 0.6, atol=1e-8)
    assert np.isnan(filled(table)[2]).all()


def test_a_standardised_rate_is_worth_as_many_answers_as_its_variance_says():
    even = rate_runs(np.full((2, 4), 5), np.full((2, 4), 10))
    np.testing.assert_allclose(even.answers, 40)
    uneven = rate_runs(np.array([[10, 1]]), np.array([[20, 2]]))  # 2^2 / (1/20 + 1/2) where both have the same rate
    assert uneven.answers[0] == pytest.approx(4 / 0.55)


def test_a_mean_score_is_worth_as_many_answers_as_its_standard_error_says():
    """Scores 40, 60 twenty times each: variance of an answer 100, of the mean 100 / 40 (about); .25 / .00025 = 1000."""
    sums, squares, totals = np.full((2, 1), 2000.0), np.full((2, 1), 20 * (1600.0 + 3600.0)), np.full((2, 1), 40)
    variance = (2 * 40 * 0.01 + 0.25) / (78 + 1)
    np.testing.assert_allclose(score_runs(sums, squares, totals).answers, 0.25 / (variance / 40))


def test_none_of_three_runs_leaves_seventy_one_per_cent_of_runs_possible():
    found = count_runs(np.zeros((3, 2)), np.full((3, 2), 10))
    assert found[:3] == (0, 3, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 3))  # .708


def test_a_difference_of_intervals_squares_and_adds():
    first, second = (Interval(e, e - 0.3, e + 0.4, 3, IntervalMethod.RUNS) for e in (0.9, 0.5))
    assert difference_interval(first, second) == pytest.approx((0.4 - 0.5, 0.4 + 0.5))


def test_equal_scores_still_leave_room_for_what_was_not_seen():
    found = equal_scores_interval(80.0, 100)
    other = 1 - 0.025 ** (1 / 100)
    assert found.low == pytest.approx(80 - 80 * other, abs=1e-10)
    assert found.high == pytest.approx(80 + 20 * other, abs=1e-10)
    assert np.isnan(equal_scores_interval(np.nan, 0).low)


def test_mean_scores_stay_within_the_scale():
    sums = np.array([[950.0], [990.0], [700.0]])
    found = score_interval(ScoreCells(sums, sums**2 / 10 + 500, np.full((3, 1), 10)))
    assert found.estimate == pytest.approx(88.0)
    assert 50 < found.low < 88 < found.high < 100


def test_crossed_interval_matches_a_hand_computed_table():
    table = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
    # seeds 3, 5: MS_S = 3 * 2 = 6; questions 2, 3, 7: MS_Q = 2 * 7 = 14; additive, so MS_SQ = 0
    # total 20 / 6 cells; df = 20^2 / (36 / 1 + 196 / 2) = 400 / 134
    found = crossed_interval(table)
    assert found.estimate == pytest.approx(4.0)
    expected = stats.t.ppf(0.975, 400 / 134) * np.sqrt(20 / 6)
    assert found.half_width == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("table", [np.zeros((0, 0)), np.full((2, 3), np.nan), [[1.0, 2.0]], np.full((3, 3), 7.0)])
def test_crossed_interval_without_two_varying_factors_is_undefined(table):
    assert np.isnan(crossed_interval(table).low)


def coverage(num_seeds, *, interval_of, num_trials=1500):
    rng = np.random.default_rng(2601)
    question_logits = rng.normal(-0.4, 1.2, 15)
    truth = expected_rate(question_logits)
    hits = 0
    for _ in range(num_trials):
        counts = simulated_counts(rng, num_seeds=num_seeds, question_logits=question_logits)
        found = interval_of(counts)
        hits += found.low <= truth <= found.high
    return hits / num_trials


RUN_SD = (0.6**2 + 0.5**2) ** 0.5  # of a logit between runs, as simulated_counts draws it


def expected_rate(question_logits, *, total_sd=RUN_SD):
    """Rate over new training runs on these questions: logistic-normal mean by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    rates = 1 / (1 + np.exp(-(question_logits[:, None] + total_sd * nodes)))
    return float((rates @ weights / weights.sum()).mean())


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_rate_interval_covers_at_its_nominal_level_and_pooling_answers_does_not(num_seeds):
    totals = np.full((num_seeds, 15), 20)

    def pooled(counts):
        return proportion_interval(int(counts.sum()), int(totals.sum()))

    on_seeds = coverage(num_seeds, interval_of=lambda counts: rate_interval(counts, totals), num_trials=300)
    naive = coverage(num_seeds, interval_of=pooled, num_trials=500)
    assert on_seeds >= 0.92
    assert naive < 0.60


def test_one_seed_interval_covers_over_questions_but_not_over_runs():
    rng = np.random.default_rng(77)
    run_hits, question_hits, trials = 0, 0, 800
    for _ in range(trials):
        run_effect = rng.normal(0, 1.0)
        logits = run_effect + rng.normal(0, 0.8, (1, 20))
        counts = rng.binomial(20, 1 / (1 + np.exp(-logits)))
        found = rate_interval(counts, np.full((1, 20), 20))
        run_hits += found.low <= 0.5 <= found.high  # the mean over runs is one half by symmetry
        this_run = expected_rate(np.array([run_effect]), total_sd=0.8)
        question_hits += found.low <= this_run <= found.high
    assert 0.93 <= question_hits / trials <= 0.97
    assert run_hits / trials < 0.65


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_crossed_interval_covers_new_runs_and_new_questions(num_seeds):
    rng = np.random.default_rng(9)
    hits, trials = 0, 2000
    for _ in range(trials):
        table = rng.normal(0, 5, (num_seeds, 1)) + rng.normal(0, 8, (1, 15)) + rng.normal(0, 4, (num_seeds, 15))
        found = crossed_interval(table)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / trials <= 0.975
