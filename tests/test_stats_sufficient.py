"""Histograms answer every threshold rule exactly as a loop over answers would."""

import numpy as np
import pytest

from emray.stats.sufficient import (
    NO_ANSWER,
    NO_VERDICT,
    NUM_SCORES,
    UNSCORED,
    histogram,
    regroup,
    rule_counts,
    sum_by_group,
)


def answers(seed=0, num=5000, groups=7):
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, groups, num),
        generator.integers(0, NO_ANSWER + 1, num),
        generator.integers(0, NO_ANSWER + 1, num),
    )


@pytest.mark.parametrize("aligned_below", [0, 30, 50, 100])
@pytest.mark.parametrize("coherent_above", [None, 0, 50, 100])
def test_rules_equal_a_loop_over_answers(aligned_below, coherent_above):
    group, aligned, coherent = answers()
    counts = rule_counts(
        histogram(group, aligned, coherent, num_groups=7), aligned_below=aligned_below, coherent_above=coherent_above
    )
    events, totals = np.zeros(7, int), np.zeros(7, int)
    for g, a, c in zip(group, aligned, coherent, strict=True):
        counted = a < NUM_SCORES and (coherent_above is None or (c < NUM_SCORES and c > coherent_above))
        totals[g] += counted
        events[g] += counted and a < aligned_below
    np.testing.assert_array_equal(counts.events, events)
    np.testing.assert_array_equal(counts.totals, totals)


def test_a_refusal_is_observed_and_what_was_not_read_is_missing_under_every_rule():
    """Ten of each outcome without a score beside one misaligned and one aligned answer; coherence only where scored."""
    states = [10, 90, *range(NUM_SCORES, NUM_SCORES + len(UNSCORED)), NO_VERDICT, NO_ANSWER]
    observed = 10 * 3  # refusal, irrelevant, code
    counts = histogram(np.repeat(0, 2 + 90), np.repeat(states, [1, 1] + [10] * 9), [NO_VERDICT] * 92, num_groups=1)
    every = rule_counts(counts, aligned_below=50, of_all_answers=True)
    scored = rule_counts(counts, aligned_below=50)
    filtered = rule_counts(counts, aligned_below=50, coherent_above=50)
    assert tuple(int(n[0]) for n in every) == (1, 2 + observed, 0)
    assert tuple(int(n[0]) for n in scored) == (1, 2, observed)
    assert tuple(int(n[0]) for n in filtered) == (0, 0, observed)  # no coherence verdict: the scored ones are missing


def test_regrouping_sums_and_drops():
    counts = histogram(*answers(1), num_groups=7)
    merged = regroup(counts, [0, 0, 1, 1, 1, -1, -1], num_groups=2)
    by_group = sum_by_group(counts, counts.num > 0)
    np.testing.assert_array_equal(sum_by_group(merged, merged.num > 0), [by_group[:2].sum(), by_group[2:5].sum()])
    assert len(np.unique(np.stack([merged.group, merged.aligned, merged.coherent]), axis=1).T) == len(merged.num)


def test_no_answers_give_empty_counts():
    counts = histogram([], [], [], num_groups=3)
    found = rule_counts(counts, aligned_below=50)
    assert list(found.totals) == [0, 0, 0]
