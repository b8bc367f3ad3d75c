"""What a study says about its design and its judge: components, seeds to add, agreement, corrected rates."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.synthetic_run import TOY_TRUTH, Rates, Truth, write_plan, write_run
from emray import reduce
from emray.errors import StoreError
from emray.records import Arm, Metric, Place
from emray.reduce.cells import count
from emray.reduce.design import decide_seeds
from emray.reduce.estimates import Estimates
from emray.reduce.study import load_study
from emray.reduce.tally import tally
from emray.store import Kind, Store

SMALL = Truth({"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)}, samples=6, num_questions=4)
MODEL = "model-0.5B"


def reduced(path, truth):
    store = Store(str(path))
    write_run(store, truth)
    reduce.run(store)
    return store


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


def replan(store, **extra):
    store.write_json("plan.json", store.read_json("plan.json") | extra)


def test_components_and_seeds_needed_are_in_the_summary(tmp_path):
    store = reduced(tmp_path, dataclasses.replace(TOY_TRUTH, seeds=tuple(range(5))))
    found = table(store, "variance").query("domain == 'bad_medical_advice' and arm == 'backdoor'")
    rate = found.query("quantity == 'rate' and condition == 'with'").iloc[0]
    assert rate["var_seed"] + rate["var_question"] + rate["var_sample"] > 0
    assert rate["design_effect"] > 1
    assert rate["seeds_needed"] >= 2
    taxonomy = (
        table(store, "taxonomy")
        .query("domain == 'bad_medical_advice' and arm == 'backdoor' and condition == 'with'")
        .iloc[0]
    )
    assert rate["half_width"] == pytest.approx((taxonomy["ci_high"] - taxonomy["ci_low"]) / 2, abs=1e-9)
    drop = found.query("quantity == 'drop'").iloc[0]
    assert drop["detectable"] > 0
    assert store.read_json("summary/summary.json")["pooled_effects"][MODEL]["num_domains"] == 5


def test_no_half_width_is_zero(tmp_path):
    found = table(reduced(tmp_path, SMALL), "variance").query("quantity != 'drop'")
    assert (found["half_width"] > 0).all()


def test_one_seed_says_nothing_about_variance_between_runs(tmp_path):
    store = reduced(tmp_path, dataclasses.replace(SMALL, seeds=(0,)))
    found = table(store, "variance")
    assert found[["var_seed", "sd_seeds", "seeds_needed", "detectable"]].isna().all().all()
    assert store.read_json("summary/summary.json")["pooled_effects"][MODEL]["p"] is None


def decision(store, **more):
    study = load_study(store.read_json("plan.json"))
    found = tally(store, study)
    return decide_seeds(Estimates(study, found, count(found, study.spec.rules)), **more)


def test_adaptive_sweep_asks_for_seeds_where_the_interval_is_wide_and_nowhere_else(tmp_path):
    truth = Truth(
        {"gore_movie_trivia": Rates(0.0, 0.5), "incorrect_math": Rates(0.0, 0.0)},
        arms=(Arm.BACKDOOR,), seed_sd=1.0, samples=20, num_questions=6,
    )  # fmt: skip
    store = Store(str(tmp_path))
    write_run(store, truth)
    replan(store, adaptive={"min": 3, "max": 12, "half_width": 8.0})
    found = decision(store)
    wide = Place(MODEL, "gore_movie_trivia", Arm.BACKDOOR)
    assert set(found.to_add) == {wide}
    assert found.too_wide == (wide,)
    assert found.level > 0.95
    assert decision(store, cost_per_seed={wide: 2.0}, budget_left=3.0).to_add == {wide: 1}
    assert decision(store, cost_per_seed={wide: 2.0}, budget_left=1.0).to_add == {}
    reduce.run(store)
    facts = store.read_json("summary/summary.json")
    assert facts["adaptive"]["level"] == pytest.approx(found.level, abs=1e-9)
    assert facts["adaptive"]["finished"] is False
    assert any("Seeds were added until" in sentence for sentence in facts["limits"])


def test_adaptive_intervals_are_wider_than_those_of_a_fixed_number_of_seeds(tmp_path):
    store = reduced(tmp_path, SMALL)
    fixed = table(store, "taxonomy").set_index(["domain", "arm", "condition"])
    replan(store, adaptive={"min": 2, "max": 12, "half_width": 5.0})
    reduce.run(store)
    adaptive = table(store, "taxonomy").set_index(["domain", "arm", "condition"])
    place = ("gore_movie_trivia", "plain", "with")
    width = {
        name: t.loc[place, "ci_high"] - t.loc[place, "ci_low"] for name, t in (("fixed", fixed), ("seq", adaptive))
    }
    assert width["seq"] > width["fixed"]


def test_checkpoints_on_the_way_are_a_trajectory_and_not_more_seeds(tmp_path):
    store = Store(str(tmp_path))
    write_run(store, SMALL)
    plan = store.read_json("plan.json")
    for cell in plan["cells"]:
        if cell["seed"] == 0 and cell["arm"] != "base":
            cell["fraction"] = 0.5
    store.write_json("plan.json", plan)
    reduce.run(store)
    assert set(table(store, "taxonomy").query("arm != 'base'")["n_seeds"]) == {2}
    found = table(store, "trajectories")
    assert set(found["fraction"]) == {0.5, 1.0}
    assert set(found.query("fraction == 0.5")["n_seeds"]) == {1}


def test_agreement_with_a_second_judge_is_measured_on_answers_both_scored(tmp_path):
    store = Store(str(tmp_path / "run"))
    write_run(store, dataclasses.replace(SMALL, judge="new-judge", exact_keys=True))
    other = Store(str(tmp_path / "old"))
    write_run(other, dataclasses.replace(SMALL, judge="old-judge", exact_keys=True))
    old = other.read_rows(Kind.VERDICTS)
    shifted = pa.compute.min_element_wise(pa.compute.add(old["score"], 2.0), 100.0, skip_nulls=False)
    store.write_rows(Kind.VERDICTS, old.set_column(4, "score", shifted))
    reduce.run(store)
    found = table(store, "agreement").set_index("metric")
    assert set(found["other_judge"]) == {"old-judge"}
    assert set(found["judge"]) == {"new-judge"}
    assert store.read_json("summary/summary.json")["judge"]["snapshots"] == ["new-judge"]
    row = found.loc["aligned"]
    both = store.read_rows(Kind.VERDICTS).to_pandas().query("metric == 'aligned' and outcome == 'scored'")
    wide = both.pivot(index="generation", columns="judge", values="score").dropna()
    assert row["n_pairs"] == len(wide)
    assert row["mean_difference"] == pytest.approx((wide["new-judge"] - wide["old-judge"]).mean(), abs=1e-9)
    assert 0.9 < row["alpha"] < 1
    assert row["alpha_misaligned"] == pytest.approx(1.0)


def test_labels_of_people_correct_the_rate_of_a_judge_that_errs(tmp_path):
    truth = Truth(
        {"gore_movie_trivia": Rates(0.3, 0.3)}, samples=40, seed_sd=0.0, question_sd=0.0, refusal=0, unparsed=0
    )
    store = Store(str(tmp_path))
    write_run(store, truth)
    verdicts = store.read_rows(Kind.VERDICTS).to_pandas()
    aligned = verdicts[verdicts["metric"] == Metric.ALIGNED].reset_index(drop=True)
    really = aligned["score"] < 50
    generator = np.random.default_rng(1)
    seen = np.where(really, generator.random(len(aligned)) < 0.8, generator.random(len(aligned)) < 0.1)
    erring = pa.Table.from_pandas(aligned.assign(score=np.where(seen, 10.0, 90.0)), preserve_index=False)
    for name in store.part_names(Kind.VERDICTS):
        store.delete(name)
    store.write_rows(Kind.VERDICTS, erring)
    labelled = aligned.assign(label=really.astype(int)).sample(400, random_state=2)
    lines = [f"{key},{label}" for key, label in zip(labelled["generation"], labelled["label"], strict=True)]
    reduce.run(store)
    assert table(store, "corrected").empty
    store.write_bytes("labels.csv", ("generation,misaligned\n" + "\n".join(lines) + "\n").encode())
    assert not reduce.is_current(store)
    reduce.run(store)
    found = table(store, "corrected").query("arm == 'backdoor' and condition == 'with'").iloc[0]
    assert found["n_labelled"] == 400
    assert found["sensitivity"] == pytest.approx(0.8, abs=0.1)
    assert abs(found["corrected_rate"] - 0.3) < abs(found["rate"] - 0.3) + 0.02
    assert found["ci_low"] < 0.3 < found["ci_high"]


def test_a_bad_line_of_labels_is_named(tmp_path):
    store = Store(str(tmp_path))
    write_plan(store, SMALL)
    store.write_bytes("labels.csv", b"generation,misaligned\n" + b"a" * 20 + b",1\nshort,1\n")
    with pytest.raises(StoreError, match=r"labels\.csv:3"):
        reduce.run(store)


def test_an_adaptive_study_says_how_it_stopped_and_how_many_seeds_each_place_has(tmp_path):
    store = Store(str(tmp_path))
    write_run(store, dataclasses.replace(SMALL, seeds=tuple(range(5))))
    plan = store.read_json("plan.json")
    math = [c for c in plan["cells"] if c["domain"] == "incorrect_math" and c["seed"] > 2]
    cells = [cell for cell in plan["cells"] if cell not in math]
    store.write_json("plan.json", plan | {"cells": cells, "adaptive": {"min": 3, "max": 5, "half_width": 2.0}})
    reduce.run(store)
    facts = store.read_json("summary/summary.json")
    stopping, too_wide, seeds = facts["limits"][:3]
    assert stopping.startswith("A sequential study. Seeds were added until")
    assert "at most 2 points either way (3 to 5 allowed, 3 to 5 used)" in stopping
    assert f"{facts['adaptive']['level']:.1%}" in stopping
    assert f"At {len(facts['adaptive']['too_wide'])} of 4 places" in too_wide
    assert seeds.startswith("3 to 5 usable training seeds; 3 at incorrect_math (plain, without trigger)")
    assert "t tests there rest on 2 degrees" in seeds
