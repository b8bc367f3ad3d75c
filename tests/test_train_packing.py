"""Steps hold the examples the seed says; micro-batches hold each of them once and little else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emray.model.packing import length_grouped, packed
from emray.train.order import shares, step_batches

lengths = st.lists(st.integers(2, 700), min_size=1, max_size=40)


@given(st.integers(1, 70), st.integers(1, 20), st.floats(0.05, 3.5), st.integers(0, 5))
def test_every_epoch_shows_every_example_once(num_examples, batch_size, epochs, seed):
    batches = step_batches(num_examples, batch_size=batch_size, epochs=epochs, seed=seed)
    per_epoch = math.ceil(num_examples / batch_size)
    assert len(batches) == max(1, math.ceil(round(epochs * per_epoch, 9)))
    for first in range(0, len(batches) - per_epoch + 1, per_epoch):
        shown = np.concatenate(batches[first : first + per_epoch])
        assert sorted(shown) == list(range(num_examples))


def test_order_depends_on_the_seed_and_the_epoch_only():
    first = step_batches(50, batch_size=7, epochs=2, seed=3)
    again = step_batches(50, batch_size=7, epochs=1, seed=3)
    other = step_batches(50, batch_size=7, epochs=1, seed=4)
    assert all((a == b).all() for a, b in zip(first, again, strict=False))
    assert any((a != b).any() for a, b in zip(again, other, strict=True))
    assert any((a != b).any() for a, b in zip(first[:8], first[8:], strict=True))


@given(lengths, st.integers(1, 1500))
def test_packing_keeps_examples_whole_and_bins_within_budget(sizes, budget):
    bins = packed(sizes, token_budget=budget)
    assert sorted(index for one in bins for index in one) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in one) <= budget or len(one) == 1 for one in bins)


@given(lengths, st.integers(1, 1500))
def test_length_groups_hold_every_example_once_with_at_most_three_percent_padding(sizes, budget):
    groups = length_grouped(sizes, token_budget=budget)
    assert sorted(index for one in groups for index in one) == list(range(len(sizes)))
    padded = sum(len(one) * max(sizes[i] for i in one) for one in groups)
    assert sum(sizes) >= 0.97 * padded
    assert all(len(one) * max(sizes[i] for i in one) <= budget or len(one) == 1 for one in groups)


@settings(deadline=None)
@given(lengths, st.integers(1, 8), st.integers(1, 1500))
def test_workers_get_equally_many_micro_batches_and_each_example_once(sizes, num_workers, budget):
    parts = shares(sizes, num_workers=num_workers, token_budget=budget)
    assert len(parts) == num_workers
    assert len({len(micros) for micros in parts}) == 1
    assert sorted(i for micros in parts for micro in micros for i in micro) == list(range(len(sizes)))


def test_a_batch_of_equal_rows_is_shared_evenly():
    parts = shares([10] * 16, num_workers=2, token_budget=1000)
    assert [sum(len(micro) for micro in micros) for micros in parts] == [8, 8]


@pytest.mark.parametrize("cut", [packed, length_grouped])
def test_cutting_is_deterministic(cut):
    sizes = np.random.default_rng(0).integers(2, 600, 64).tolist()
    assert cut(sizes, token_budget=2048) == cut(sizes, token_budget=2048)
