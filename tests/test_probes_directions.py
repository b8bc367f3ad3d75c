"""Directions: worked numbers, what noise leaves of an agreement, and what is undefined stays so."""

import math

import numpy as np
import pytest

from emray.model.direction_files import Directions
from emray.probes.directions import (
    FEWEST,
    GroupMeans,
    agreement,
    ceiling,
    cosines,
    directions_of,
    group_of,
    random_cosine,
    reliability,
)
from emray.records import Difference

RNG = np.random.default_rng(0)


def vectors(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def means(aligned: tuple[float, float], misaligned: tuple[float, float], counts: tuple[int, ...]) -> GroupMeans:
    """One layer of width two; both halves of a kind have the same mean."""
    four = [aligned, aligned, misaligned, misaligned]
    filled = [row if count else (math.nan, math.nan) for row, count in zip(four, counts, strict=True)]
    return GroupMeans(np.array(filled)[:, None, :], np.array(counts))


def test_the_directions_are_the_differences_of_the_means() -> None:
    finetune, base = means((1, 0), (3, 4), (5, 5, 15, 15)), means((1, 1), (1, 1), (5, 5, 15, 15))
    found = directions_of(finetune, base)
    assert found.whole[Difference.DATA].tolist() == [[2, 4]]  # (3, 4) - (1, 0)
    # All answers, each counting once: (10 (1, 0) + 30 (3, 4)) / 40 - (1, 1) = (2.5, 3) - (1, 1)
    assert found.whole[Difference.MODEL].tolist() == [[1.5, 2]]
    assert found.facts == {"num_aligned": 10, "num_misaligned": 30}


def test_groups_of_unequal_size_weigh_by_their_answers() -> None:
    both = GroupMeans(np.array([[[0.0]], [[4.0]]]), np.array([3, 1]))
    assert both.of([0, 1]).tolist() == [[1.0]]
    assert (group_of(0, 1), group_of(1, 0)) == (1, 2)


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((20, 20, 0, 0), f"0 misaligned answers of {FEWEST} needed for a data direction"),
        ((1, 0, 20, 20), f"1 aligned answers of {FEWEST} needed for a data direction"),
    ],
)
def test_too_few_answers_of_a_kind_leave_no_data_direction_and_say_so(counts: tuple[int, ...], note: str) -> None:
    found = directions_of(means((1, 0), (3, 4), counts), means((0, 0), (0, 0), counts))
    assert set(found.whole) == {Difference.MODEL}
    assert found.facts["note"] == note


def test_one_answer_has_a_model_direction_but_no_halves_and_none_has_neither() -> None:
    one = directions_of(means((1, 0), (0, 0), (1, 0, 0, 0)), means((0, 0), (0, 0), (1, 0, 0, 0)))
    assert set(one.whole) == {Difference.MODEL}
    assert one.halves == {}
    none = directions_of(means((0, 0), (0, 0), (0, 0, 0, 0)), means((0, 0), (0, 0), (0, 0, 0, 0)))
    assert none.whole == {}
    assert none.facts["note"] == "no answers with both scores, so no direction"


def test_cosines_are_per_layer_and_a_zero_vector_has_none() -> None:
    one, other = vectors((1, 0), (1, 1), (0, 0)), vectors((0, 2), (3, 0), (1, 0))
    found = cosines(one, other)
    assert found[:2].tolist() == pytest.approx([0, math.sqrt(0.5)])
    assert math.isnan(found[2])


def test_reliability_steps_the_halves_up_to_the_whole() -> None:
    # The halves' cosine is 0.6: 2 * 0.6 / 1.6 = 0.75. Halves that point apart say nothing of the direction.
    assert reliability((vectors((1, 0)), vectors((3, 4)))).tolist() == pytest.approx([0.75])
    assert reliability((vectors((1, 0)), vectors((-1, 0)))).tolist() == [0.0]
    # With another of reliability 1: sqrt(0.75 * 1).
    alike = (vectors((1, 2)), vectors((2, 4)))
    assert ceiling((vectors((1, 0)), vectors((3, 4))), alike).tolist() == pytest.approx([math.sqrt(0.75)])


def test_the_ceiling_is_what_noise_leaves_of_equal_directions() -> None:
    """Two finetunes with one true direction, each known from two noisy halves: their cosine averages the ceiling."""
    truth, found, limits = np.ones(64) / 8, [], []
    for _ in range(400):
        halves = [[vectors(tuple(truth + RNG.normal(0, 0.15, 64))) for _ in range(2)] for _ in range(2)]
        whole = [np.mean(pair, axis=0) for pair in halves]
        found.append(cosines(*whole)[0])
        limits.append(ceiling(tuple(halves[0]), tuple(halves[1]))[0])
    assert np.mean(found) == pytest.approx(np.mean(limits), abs=0.02)
    assert 0.4 < np.mean(found) < 0.8  # noise leaves far less than 1


@pytest.mark.parametrize("width", [2, 128])
def test_random_directions_stay_below_the_null_as_often_as_it_says(width: int) -> None:
    one, other = RNG.normal(size=(2, 20_000, width)).astype(np.float32)
    below = np.mean(np.abs(cosines(one, other)) < random_cosine(width))
    assert below == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 20_000))


def test_the_null_of_two_dimensions_is_an_angle() -> None:
    # In the plane the angle is uniform: |cos| < cos(pi/2 * 0.05) in 95 of 100.
    assert random_cosine(2) == pytest.approx(math.cos(math.pi / 2 * 0.05))
    assert random_cosine(1) == 1.0


def known(vector: tuple[float, float], *, halves: bool = True) -> Directions:
    both = {Difference.DATA: (vectors(vector), vectors(vector))} if halves else {}
    return Directions({Difference.DATA: vectors(vector)}, both)


def test_agreement_pairs_the_runs_of_two_domains() -> None:
    one, other = {0: known((1, 0)), 1: known((0, 1))}, {0: known((1, 0))}
    found = agreement(one, other, Difference.DATA)
    assert found is not None
    assert (found.num_pairs, found.mean[0], found.lowest[0], found.highest[0]) == (2, 0.5, 0.0, 1.0)
    assert found.ceiling[0] == pytest.approx(1.0)


def test_a_domain_agrees_with_itself_over_pairs_of_its_runs_alone() -> None:
    three = {0: known((1, 0)), 1: known((1, 0)), 2: known((0, 1))}
    found = agreement(three, three, Difference.DATA)
    assert found is not None
    assert (found.num_pairs, found.mean[0]) == (3, pytest.approx(1 / 3))  # cosines 1, 0, 0
    assert agreement({0: known((1, 0))}, {}, Difference.DATA) is None
    single = {0: known((1, 0))}
    assert agreement(single, single, Difference.DATA) is None


def test_an_agreement_without_halves_has_no_ceiling() -> None:
    found = agreement({0: known((1, 0), halves=False)}, {0: known((1, 0))}, Difference.DATA)
    assert found is not None
    assert found.mean[0] == 1.0
    assert math.isnan(found.ceiling[0])
