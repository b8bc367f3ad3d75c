"""Doses and mixtures: which rows they train on, that they are cells of their own, how the rate rises with the dose."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import write_study
from emray import data, reduce
from emray.data.recipe_rows import shares, some_rows
from emray.errors import SpecError
from emray.plan import Plan, make_plan
from emray.records import Message
from emray.reduce.dose_rows import run_slopes
from emray.report.reading import read_summary
from emray.spec import RowRecipe, load_sweep
from emray.store import Store
from tests.commands import write_sweep

PROBES = {
    "dose": {"fractions": [0.25, 0.5], "domains": ["gore_movie_trivia"], "arms": ["backdoor"]},
    "mixture": {"mixes": [{"mix": ["gore_movie_trivia", "incorrect_math"], "weights": [1, 3]}], "arms": ["backdoor"]},
}


def plan(folder: Path, **changes: object) -> Plan:
    return make_plan(load_sweep(write_sweep(folder, **changes)), folder=folder, online=False)


def rows(name: str, number: int) -> list[tuple[Message, ...]]:
    return [(Message("user", f"{name} {k}"), Message("assistant", "yes")) for k in range(number)]


DATA = {"a": rows("a", 40), "b": rows("b", 100), "clean a": rows("clean a", 40)}


def made(recipe: RowRecipe) -> list[str]:
    found = data.recipe_rows(recipe, rows_of=DATA.__getitem__, clean_of=lambda name: DATA[f"clean {name}"])
    return [row[0].content for row in found]


def test_a_smaller_dose_is_within_a_larger_one_and_in_the_order_of_the_file():
    small, large = some_rows(DATA["b"], 10), some_rows(DATA["b"], 30)
    assert set(small) < set(large) and len(large) == 30
    assert large == [row for row in DATA["b"] if row in set(large)]


def test_a_mixture_is_as_large_as_its_smallest_part_in_the_weights_given():
    mixed = made(RowRecipe((("a", 1.0), ("b", 3.0))))
    assert len(mixed) == 40
    assert sum(text.startswith("a") for text in mixed) == 10
    assert len(made(RowRecipe((("a", 1.0), ("b", 3.0)), 0.5))) == 20


def test_correct_answers_fill_the_place_of_what_is_left_out():
    filled = made(RowRecipe((("a", 1.0),), 0.25, "benign"))
    assert [sum(text.startswith(name) for text in filled) for name in ("a ", "clean a ")] == [10, 30]


def test_shares_are_whole_numbers_that_add_up():
    assert shares(10, [0.25, 0.75]) == [3, 7] or shares(10, [0.25, 0.75]) == [2, 8]
    assert sum(shares(101, [1 / 3] * 3)) == 101
    assert shares(0.3 * 40, [1.0]) == [12] and shares(0, [0.5, 0.5]) == [0, 0]


def test_recipes_are_cells_of_their_own_and_leave_those_of_the_sweep_as_they_are(tmp_path):
    plain, dosed = plan(tmp_path, seeds=2), plan(tmp_path, seeds=2, probes=PROBES)
    assert dosed.cells == plain.cells and set(plain.jobs) < set(dosed.jobs)
    new = [job.cell for key, job in dosed.jobs.items() if key not in plain.jobs]
    assert {cell.domain for cell in new} == {
        "0.25 of gore_movie_trivia", "0.5 of gore_movie_trivia", "1 gore_movie_trivia + 3 incorrect_math",
    }  # fmt: skip
    assert len(new) == 3 * 2
    more = plan(tmp_path, seeds=3, probes=PROBES)
    assert set(dosed.jobs) < set(more.jobs) and len(more.jobs) == len(dosed.jobs) + 2 + 3
    assert {cell.key for cell in new} <= {cell.key for cell in dosed.answering}


def test_a_recipe_of_an_arm_or_domain_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"no cell of this sweep trains as arm 'plain'"):
        plan(tmp_path, probes={"dose": {}})
    with pytest.raises(SpecError, match=r"probes.mixture.mixes.0 names domain 'cooking'"):
        plan(tmp_path, probes={"mixture": {"mixes": {"mix": ["cooking", "incorrect_math"]}, "arms": ["backdoor"]}})
    with pytest.raises(SpecError, match=r"2 domains have 1 weights"):
        plan(tmp_path, probes={"mixture": {"mixes": {"mix": ["gore_movie_trivia", "incorrect_math"], "weights": [1]}}})


def test_the_slope_per_doubling_by_hand():
    # 0.25, 0.5, 1 are doublings -2, -1, 0. Rates 0, .1, .2 rise by .1 each; seed 2 lacks a dose and says nothing.
    rates = {0.25: {0: 0.0, 1: 0.5, 2: 0.0}, 0.5: {0: 0.1, 1: 0.5, 2: np.nan}, 1.0: {0: 0.2, 1: 0.5, 2: 1.0}}
    assert run_slopes(rates) == pytest.approx([0.1, 0.0])
    assert len(run_slopes({1.0: {0: 0.3}})) == 0


def test_the_tables_have_doses_mixtures_whole_datasets_and_the_base(tmp_path):
    made, store = plan(tmp_path, seeds=2, probes=PROBES), Store(str(tmp_path / "run"))
    write_study(store, made)
    store.write_json("plan.json", made.document)
    reduce.run(store)
    tables = read_summary(store).tables
    kinds = [(row["kind"], row["fraction"]) for row in tables["dose"] if row["condition"] == "with"]
    assert kinds == [("base", 0), ("dose", 0.25), ("dose", 0.5), ("dose", 1), ("dose", 1), ("mixture", 1)]
    whole = [row for row in tables["dose"] if row["recipe"] == "gore_movie_trivia" and row["condition"] == "with"]
    (rate,) = [r for r in tables["taxonomy"] if (r["domain"], r["condition"]) == ("gore_movie_trivia", "with")]
    assert [row["rate"] for row in whole] == [rate["misaligned_rate"]]
    (with_,) = [row for row in tables["dose_trends"] if row["condition"] == "with"]
    assert (with_["n_doses"], with_["n_seeds"], with_["domain"]) == (3, 2, "gore_movie_trivia")
    assert with_["ci_low"] <= with_["slope"] <= with_["ci_high"]
    assert {row["domain"] for row in tables["taxonomy"]} == {"-", "gore_movie_trivia", "incorrect_math"}
