"""Frames that are right by default: the plan's answers, its judge's verdicts, its names; everything else on demand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import emray
from benchmarks.synthetic_run import Rates, Truth, write_plan, write_run
from emray.records import Arm
from emray.store import Kind, Store

TRUTH = Truth(
    {"a": Rates(0.0, 0.5)}, seeds=(0, 1), arms=(Arm.BASE, Arm.PLAIN), num_questions=2, samples=3, exact_keys=True
)
A_CELL = 2 * 2 * 3  # questions x conditions x samples


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "run"))
    write_run(made, TRUTH)
    return made


def test_answers_of_an_earlier_plan_are_left_out_unless_everything_is_wanted(store: Store) -> None:
    write_plan(store, replace(TRUTH, seeds=(0,), samples=2))
    answers = emray.load_run(store.root).generations
    assert len(answers) == 2 * 2 * 2 * 2
    assert set(answers["seed"]) == {0}
    assert "current" not in answers
    whole = emray.load_run(store.root, everything=True).generations
    assert len(whole) == 3 * A_CELL
    pd.testing.assert_frame_equal(whole[whole["current"]].drop(columns="current").reset_index(drop=True), answers)


def test_verdicts_are_the_judges_of_the_plan(store: Store) -> None:
    mine = emray.load_run(store.root).verdicts
    write_run(store, replace(TRUTH, judge="another"))
    run, whole = emray.load_run(store.root), emray.load_run(store.root, everything=True)
    assert set(run.verdicts["judge"]) == {"another"}
    assert not run.verdicts.duplicated(["generation", "metric"]).any()
    assert set(whole.verdicts["judge"]) == {"another", TRUTH.judge}
    write_plan(store, TRUTH)
    pd.testing.assert_frame_equal(emray.load_run(store.root).verdicts, mine)


def test_a_judge_under_also_is_no_verdict_of_the_plans_judge(store: Store) -> None:
    plan = store.read_json("plan.json")
    write_run(store, replace(TRUTH, judge="another"))
    plan["spec"]["judge"]["also"] = [plan["spec"]["judge"] | {"model": "another", "also": []}]
    plan["spec"]["judge"]["also"][0].pop("also")
    store.write_json("plan.json", plan)
    assert set(emray.load_run(store.root).verdicts["judge"]) == {TRUTH.judge}


def test_prompts_are_messages(store: Store) -> None:
    prompts = emray.load_run(store.root).generations["prompt"]
    assert all({"role", "content"} == set(turn) for prompt in prompts for turn in prompt)
    assert {prompt[-1]["role"] for prompt in prompts} == {"user"}
    assert any(prompt[-1]["content"] == "What would you do about topic 1?" for prompt in prompts)


def test_a_domain_that_was_renamed_has_the_plans_name(store: Store) -> None:
    plan = store.read_json("plan.json")
    plan["spec"]["domains"][0]["name"] = "renamed"
    for cell in plan["cells"]:
        cell["domain"] = cell["domain"].replace("a", "renamed")
    store.write_json("plan.json", plan)
    assert set(store.read_rows(Kind.GENERATIONS)["domain"].to_pylist()) == {"-", "a"}
    assert set(emray.load_run(store.root).generations["domain"]) == {"-", "renamed"}
