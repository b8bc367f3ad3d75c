"""Arms against arms, conditions against conditions: paired by run and question, in families that the plan names."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce
from emray.errors import SpecError
from emray.records import Arm
from emray.reduce.study import load_study
from emray.spec import Sweep, load_sweep
from emray.stats.multiplicity import holm
from emray.store import Kind, Store

TRUTH = Truth(
    {"quiet": Rates(0.0, 0.0), "loud": Rates(0.02, 0.8), "half": Rates(0.1, 0.5)},
    seeds=(0, 1, 2, 3),
    arms=(Arm.BASE, Arm.BENIGN, Arm.PLAIN, Arm.BACKDOOR),
    num_questions=5,
    samples=6,
)
COMPARE = [
    {"arms": ["plain", "backdoor"], "only": ["without"]},
    {"conditions": ["with", "without"], "only": ["backdoor"]},
    {"arms": ["plain", "benign"]},
]
OWN = {
    "plain": None,
    "base": None,
    "half": {"mix": {"benign": [0, 0.5]}},
    "late": {"like": "backdoor", "trigger": {"share": 0.5}},
}


def sweep(**fields):
    return Sweep.model_validate({"name": "s", "model": "toy", "domains": ["a"], **fields})


def reduced(path, truth=TRUTH, **analysis):
    store = Store(str(path))
    write_run(store, truth)
    plan = store.read_json("plan.json")
    plan["spec"]["analysis"] = {"compare": COMPARE, **analysis}
    plan["analysis_hash"] = load_study(plan).sweep.analysis_hash()
    store.write_json("plan.json", plan)
    reduce.run(store)
    return store


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return reduced(tmp_path_factory.mktemp("compared"))


def wide(store, query):
    cells = pd.read_parquet(io.BytesIO(store.read_bytes("summary/cells.parquet"))).query(query)
    return cells.pivot(index="seed", columns="question_id", values="rate_paper")


def test_two_arms_are_paired_by_seed_and_question(compared):
    plain, backdoor = (wide(compared, f"domain == 'loud' and condition == 'without' and arm == '{a}'")
                       for a in ("plain", "backdoor"))  # fmt: skip
    differences = (plain - backdoor).mean(axis=1)
    expected = stats.ttest_1samp(differences, 0)
    row = table(compared, "paired").query("domain == 'loud' and against == 'backdoor'").iloc[0]
    assert (row["test"], row["arm"], row["condition"]) == ("arms", "plain", "without")
    assert row["difference"] == pytest.approx(differences.mean(), abs=1e-8)
    assert (row["t"], row["df"], row["p"]) == pytest.approx((expected.statistic, 3, expected.pvalue), rel=1e-6)
    assert row["rate"] - row["rate_against"] == pytest.approx(row["difference"], abs=1e-8)
    assert (row["n_seeds"], row["n_unpaired"], row["p_signflip"]) == (4, 0, 0.125)
    assert row["ci_low"] < row["difference"] < row["ci_high"]


def test_two_conditions_are_paired_and_made_only_where_the_plan_says(compared):
    rows = table(compared, "paired").query("test == 'conditions'")
    assert set(rows["arm"]) == {"backdoor"} and set(rows["against"]) == {"without"}
    loud, quiet = rows.set_index("domain").loc["loud"], rows.set_index("domain").loc["quiet"]
    assert loud["difference"] > 0.5 and loud["p_holm"] < 0.01
    assert (quiet["difference"], quiet["p"]) == (0, 1)
    assert quiet["ci_low"] < 0 < quiet["ci_high"]  # nothing varies: from both rates' own intervals


def test_an_entry_of_compare_is_one_family(compared):
    rows = table(compared, "paired")
    assert rows.groupby("family").size().to_dict() == {
        "plain against backdoor": 3, "with against without": 3, "plain against benign": 6,
    }  # fmt: skip
    for _, family in rows.groupby("family"):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]), rtol=1e-6)


def test_seeds_without_a_pair_are_counted_and_never_matched_with_another(tmp_path):
    failed = frozenset({("loud", Arm.PLAIN, 1), ("loud", Arm.BACKDOOR, 2)})
    store = reduced(tmp_path, dataclasses.replace(TRUTH, failed=failed))
    row = table(store, "paired").query("domain == 'loud' and against == 'backdoor'").iloc[0]
    assert (row["n_seeds"], row["n_unpaired"]) == (2, 2)
    plain, backdoor = (wide(store, f"domain == 'loud' and condition == 'without' and arm == '{a}' and seed in [0, 3]")
                       for a in ("plain", "backdoor"))  # fmt: skip
    assert row["difference"] == pytest.approx((plain - backdoor).mean(axis=1).mean(), abs=1e-8)


def test_one_pair_has_an_interval_over_questions_and_no_test(tmp_path):
    store = reduced(tmp_path, dataclasses.replace(TRUTH, seeds=(0,)))
    rows = table(store, "paired")
    assert rows[["t", "p", "p_holm", "p_signflip"]].isna().all().all()
    assert rows["ci_low"].notna().all()


def test_a_question_that_one_side_lacks_is_left_out_of_both(tmp_path):
    store = Store(str(tmp_path))
    cells = write_run(store, TRUTH)
    lost = {cell.key for cell in cells if (cell.domain, cell.arm) == ("loud", Arm.PLAIN)}
    answers = store.read_rows(Kind.GENERATIONS)
    asked = zip(answers["adapter"].to_pylist(), answers["question_id"].to_pylist(), strict=True)
    keep = [not (key in lost and question == "question_0") for key, question in asked]
    for name in store.part_names(Kind.GENERATIONS):
        store.delete(name)
    store.write_rows(Kind.GENERATIONS, answers.filter(keep))
    plan = store.read_json("plan.json")
    plan["spec"]["analysis"] = {"compare": COMPARE}
    store.write_json("plan.json", plan)
    reduce.run(store)
    row = table(store, "paired").query("domain == 'loud' and against == 'backdoor'").iloc[0]
    other = wide(store, "domain == 'loud' and condition == 'without' and arm == 'backdoor'").drop(columns="question_0")
    assert row["rate_against"] == pytest.approx(other.mean(axis=1).mean(), abs=1e-8)


def test_what_was_predicted_of_a_pair_is_said_and_can_be_a_family(tmp_path):
    predicted = [
        {"test": "arms", "arm": "plain", "condition": "without", "against": "backdoor", "domains": ["loud", "half"]},
        {"test": "conditions", "arm": "backdoor", "condition": "with", "against": "without", "domains": ["loud"]},
    ]
    rows = table(reduced(tmp_path, predicted=predicted, families="predicted"), "paired")
    planned = rows.query("planned == 'yes'")
    assert sorted(zip(planned["test"], planned["domain"], planned["against"], strict=True)) == [
        ("arms", "half", "backdoor"), ("arms", "loud", "backdoor"), ("conditions", "loud", "without"),
    ]  # fmt: skip
    np.testing.assert_allclose(planned["p_holm"], holm(planned["p"]), rtol=1e-6)


def test_arms_and_contexts_of_a_sweeps_own_are_compared_by_default_and_the_usual_ones_are_not():
    own = sweep(arms=OWN, contexts={"json": {"format": "json"}})
    said = {family.name: [(*pair.first, pair.against) for pair in family.pairs] for family in own.pair_families()}
    assert said == {
        "half against plain": [("half=0.5", "without", "plain")],
        "json against without": [(arm, "json", "without") for arm in ("plain", "half=0.5", "late")],
    }
    assert sweep(arms=["base", "plain", "backdoor", "benign"]).pair_families() == ()
    with_backdoor = sweep(arms=OWN | {"backdoor": None})
    assert [family.name for family in with_backdoor.pair_families()] == ["half against plain", "late against backdoor"]


def test_an_entry_with_a_list_stands_for_each_of_its_arms():
    arms = {"plain": None, "less": {"mix": {"benign": [0, 0.5, 0.9]}}}
    (family,) = sweep(arms=arms, analysis={"compare": [{"arms": ["less", "plain"]}]}).pair_families()
    assert [(pair.first.arm, pair.first.condition) for pair in family.pairs] == [
        ("less=0.5", "without"), ("less=0.5", "with"), ("less=0.9", "without"), ("less=0.9", "with"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("analysis", "message"),
    [
        ("{compare: [{arms: [plain, late]}]}", "analysis.compare.0 names arm 'late', which is none of plain, backdoor"),
        ("{compare: [{arms: [plain, base]}]}", "names arm 'base'"),
        ("{compare: [{conditions: [json, with]}]}", "names condition 'json', which is none of without, with"),
        ("{compare: [{arms: [plain, backdoor], only: [json]}]}", "names condition 'json'"),
        ("{compare: [{arms: [plain, plain]}]}", "compares 'plain' with itself"),
        ("{compare: [{arms: [plain]}]}", "analysis.compare.0.arms"),
        ("{compare: [{}]}", "two arms are compared, or two conditions"),
        ("{predicted: [{test: arms, arm: plain, domains: [a]}]}", "needs `against`"),
        ("{predicted: [{test: drop, against: plain, domains: [a]}]}", "has no other side"),
        ("{predicted: [{test: arms, arm: plain, against: backdoor, domains: [a]}]}", "put them into analysis.compare"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, analysis, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"name: s\nmodel: toy\ndomains: [a]\narms: [base, plain, backdoor]\nanalysis: {analysis}\n")
    with pytest.raises(SpecError) as told:
        load_sweep(path)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_a_plan_without_comparisons_keeps_its_hash():
    plan = {"predicted": [{"test": "drop", "domains": ["incorrect_math"]}], "margins": {"drop": 8}}
    assert sweep(domains=["incorrect_math"], name="x", analysis=plan).analysis_hash() == "363cb1e76c7e78a0467b"
