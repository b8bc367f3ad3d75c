"""Bootstraps and ranks: what they weight, what they cover, and where they refuse."""

import numpy as np
import pytest

from emray.stats.contrasts import runs_test
from emray.stats.multiplicity import benjamini_hochberg
from emray.stats.ranking import UNRANKED, rank_intervals, tiers
from emray.stats.resampling import cluster_bootstrap, resampling_weights, two_way_bootstrap, two_way_draws
from emray.stats.runs import posterior
from emray.stats.standard import rate_runs, seed_means


def rng(seed=0):
    return np.random.default_rng(seed)


def test_cluster_bootstrap_agrees_with_scipy_on_cluster_means():
    from scipy import stats

    means = rng(1).normal(10, 2, 40)
    expected = stats.bootstrap((means,), np.mean, method="percentile", n_resamples=20_000, rng=rng(2))
    found = cluster_bootstrap(means * 7, np.full(40, 7), rng=rng(3), num_draws=20_000)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.03)
    assert found.estimate == pytest.approx(means.mean(), abs=1e-10)


def test_a_draw_takes_whole_clusters():
    weights = resampling_weights(5, num_draws=100, rng=rng())
    assert (weights.sum(axis=1) == 5).all()
    found = two_way_draws([[1.0, 0.0]], [[1.0, 1.0]], rng=rng(), num_draws=50)
    assert set(np.round(found, 6)) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("sums", [[], [0.0], [3.0, 3.0, 3.0]])
def test_bootstrap_without_spread_is_undefined_not_zero_wide(sums):
    assert np.isnan(cluster_bootstrap(sums, np.ones(len(sums)), rng=rng()).low)
    table = np.atleast_2d(np.array(sums))
    assert np.isnan(two_way_bootstrap(table, np.ones_like(table), rng=rng()).low)


def test_naive_bootstrap_rejects_a_true_null_where_the_cluster_bootstrap_does_not():
    """50 clusters of 10 with intraclass correlation 0.71: the known failure (docs/method.md 6.2)."""
    generator = rng(71)
    naive, clustered, trials = 0, 0, 600
    for _ in range(trials):
        clusters = generator.normal(0, 0.71**0.5, (50, 1)) + generator.normal(0, 0.29**0.5, (50, 10))
        answers = clusters.ravel()
        draws = resampling_weights(500, num_draws=200, rng=generator) @ answers / 500
        low, high = np.quantile(draws, [0.025, 0.975])
        naive += not low <= 0 <= high
        found = cluster_bootstrap(clusters.sum(axis=1), np.full(50, 10), rng=generator, num_draws=1000)
        clustered += not found.low <= 0 <= found.high
    assert naive / trials > 0.35
    assert clustered / trials < 0.08


def test_two_way_bootstrap_covers_new_runs_and_questions_at_ten_seeds():
    generator = rng(8)
    hits, trials = 0, 400
    for _ in range(trials):
        table = generator.normal(0, 1.0, (10, 1)) + generator.normal(0, 1.0, (1, 20)) + generator.normal(0, 1, (10, 20))
        found = two_way_bootstrap(table, np.ones_like(table), rng=generator, num_draws=800)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / trials <= 0.98


def counts(rates, *, num_answers=300, questions=15, spread=0.02, generator=None, num_seeds=5):
    """Events and totals [D, S, Q] of domains with the given rates."""
    generator = generator or rng(4)
    per_question = num_answers // questions
    seed_rates = np.clip(np.array(rates)[:, None] + generator.normal(0, spread, (len(rates), num_seeds)), 0, 1)
    events = generator.binomial(per_question, seed_rates[:, :, None], (len(rates), num_seeds, questions))
    return events, np.full(events.shape, per_question)


def ranked(events, totals, generator):
    rates = events.sum((1, 2)) / totals.sum((1, 2))
    draws = np.column_stack([drawn(rate_runs(e, t), generator) for e, t in zip(events, totals, strict=True)])
    return rates, draws


def drawn(runs, generator, *, num=2000):
    """Draws of one domain's rate, undefined below two runs."""
    return np.full(num, np.nan) if len(runs.share) < 2 else posterior(runs).quantiles(generator.random(num))


def separation(events, totals):
    """Adjusted p of every pair of domains [D, D]."""
    rates = [seed_means(e, t) for e, t in zip(events, totals, strict=True)]
    pairs = [(i, j) for i in range(len(rates)) for j in range(i + 1, len(rates))]
    table = np.full((len(rates), len(rates)), np.nan)
    adjusted = benjamini_hochberg([runs_test(rates[i], rates[j]).p for i, j in pairs])
    for (i, j), p in zip(pairs, adjusted, strict=True):
        table[i, j] = table[j, i] = p
    return table


def test_ranks_of_well_separated_domains_are_certain_and_near_ties_are_not():
    events, totals = counts([0.9, 0.5, 0.49, 0.1])
    rates, draws = ranked(events, totals, rng())
    found = rank_intervals(rates, draws)
    assert found.rank[0] == 1
    assert found.rank[3] == 4
    assert (found.low[0], found.high[0]) == (1, 1)
    assert (found.low[1], found.high[1]) == (2, 3)
    np.testing.assert_allclose(found.p_rank.sum(axis=1), 1.0)


def test_rank_intervals_by_hand():
    draws = np.array([[3.0, 2, 1], [2.0, 3, 1], [3.0, 2, 1], [3.0, 1, 2]])
    found = rank_intervals([3.0, 2.0, 1.0], draws, level=0.5)
    assert list(found.rank) == [1, 2, 3]
    np.testing.assert_allclose(found.p_rank, [[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0.25, 0.75]])
    assert list(found.high) == [1, 2, 3]


def test_an_undefined_rate_is_unranked_and_takes_no_place():
    found = rank_intervals([0.2, np.nan, 0.4], np.column_stack([[0.2] * 9, [np.nan] * 9, [0.4] * 9]))
    assert list(found.rank) == [2, UNRANKED, 1]
    assert list(found.high) == [2, UNRANKED, 1]


def test_one_seed_gives_a_rank_but_no_interval_and_no_tier_boundary():
    events, totals = counts([0.9, 0.1], num_seeds=1)
    rates, draws = ranked(events, totals, rng())
    found = rank_intervals(rates, draws)
    assert list(found.rank) == [1, 2]
    assert list(found.high) == [UNRANKED, UNRANKED]
    assert np.isnan(separation(events, totals)).all()
    assert list(tiers(rates, separation(events, totals), draws).tier) == [UNRANKED, UNRANKED]


def test_a_domain_with_one_run_takes_no_rank_or_tier_beside_domains_with_several():
    draws = np.column_stack([[0.2] * 9, [np.nan] * 9, [0.4] * 9])
    found = rank_intervals([0.2, 0.9, 0.4], draws)
    assert list(found.rank) == [2, UNRANKED, 1]
    assert list(tiers([0.2, 0.9, 0.4], np.full((3, 3), 0.5), draws).tier) == [1, UNRANKED, 1]


def test_rates_that_differ_by_rounding_alone_share_a_rank():
    assert list(rank_intervals([0.1 + 0.2, 0.3, 0.1], np.full((5, 3), 0.3)).rank) == [1, 1, 3]


def test_a_tier_starts_where_a_domain_is_separated_from_the_first_of_the_tier_above():
    events, totals = counts([0.9, 0.89, 0.3, 0.29, 0.0], spread=0.03)
    rates, draws = ranked(events, totals, rng())
    p = separation(events, totals)
    found = tiers(rates, p, draws)
    assert list(found.tier) == [1, 1, 2, 2, 3]
    assert found.stability.min() > 0.9
    blurred = p.copy()
    blurred[0, 2] = blurred[2, 0] = 0.2  # not separated from the first: stays in its tier
    assert list(tiers(rates, blurred, draws).tier) == [1, 1, 1, 2, 3]


def test_domains_without_any_spread_are_compared_by_the_exact_permutation_of_their_runs():
    """Of the C(6, 3) = 20 ways to deal six runs, the one seen and its mirror differ as much."""
    assert runs_test([0.0] * 3, [0.05] * 3).p == pytest.approx(2 / 20)
    assert runs_test([0.0] * 2, [0.05] * 3).p == pytest.approx(1 / 10)
    assert runs_test([0.1] * 4, [0.1] * 4).p == 1
    assert np.isnan(runs_test([0.1] * 4, [0.2]).p)


def test_equal_domains_are_rarely_split_into_tiers():
    generator = rng(12)
    split = 0
    for _ in range(60):
        events, totals = counts([0.4] * 5, generator=generator, spread=0.05)
        rates, draws = ranked(events, totals, generator)
        split += tiers(rates, separation(events, totals), draws).tier.max() > 1
    assert split / 60 <= 0.07


def test_rank_intervals_cover_the_true_rank_with_three_seeds():
    generator = rng(13)
    hits, trials = 0, 150
    truth = np.array([0.5, 0.44, 0.38, 0.32, 0.26])
    for _ in range(trials):
        events, totals = counts(truth, generator=generator, spread=0.05, num_seeds=3)
        found = rank_intervals(*ranked(events, totals, generator))
        hits += np.sum((found.low <= np.arange(1, 6)) & (np.arange(1, 6) <= found.high))
    assert hits / (trials * 5) >= 0.93
