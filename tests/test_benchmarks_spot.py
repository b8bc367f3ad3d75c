"""The model of a thousand spot GPUs: a known makespan, its bounds, and losses that finish nothing twice."""

import pytest

from benchmarks.spot_model import Fleet, durations, simulate, sweeps


def test_equal_cells_on_steady_gpus_take_what_can_be_counted() -> None:
    made = simulate([100.0] * 10, Fleet(5, 0.0, replaced_s=0.0, control_s=0.0), seed=0)
    assert (made.makespan_s, made.bound_s, made.finished, made.losses) == (200.0, 200.0, 10, 0)


def test_one_cell_longer_than_all_others_together_bounds_the_sweep() -> None:
    made = simulate([1000.0, *[1.0] * 9], Fleet(5, 0.0, replaced_s=0.0, control_s=0.0), seed=0)
    assert made.makespan_s == made.bound_s == 1000.0


def test_a_driver_that_needs_longer_for_a_cell_than_the_gpus_is_seen() -> None:
    made = simulate([1.0] * 100, Fleet(100, 0.0, replaced_s=0.0, control_s=1.0), seed=0)
    assert made.makespan_s == pytest.approx(101.0)


def test_spot_losses_finish_nothing_twice_and_cost_little_more_than_the_work_they_took() -> None:
    cells = durations(2_000, seed=0)
    steady, spot = (made for _, made in sweeps(cells, gpus=200, lost_per_hour=0.5, control_s=0.02))
    assert steady.makespan_s <= 1.05 * steady.bound_s
    assert spot.losses > 50
    assert spot.finished == 2_000
    assert spot.done_twice == 0
    assert spot.bound_s < spot.makespan_s <= 1.15 * spot.bound_with_losses_s
    assert simulate(cells, Fleet(200, 0.5, 180.0, 0.02), seed=1) == spot
