"""The analysis plan: refused where it is not of this sweep, dated once, and every test said to be planned or not."""

import dataclasses
import io

import pandas as pd
import pytest

from benchmarks.synthetic_run import TOY_TRUTH, write_run
from emray import plan, reduce, report
from emray.errors import SpecError
from emray.reduce.study import load_study
from emray.spec import Sweep, load_sweep
from emray.stats.multiplicity import holm
from emray.store import Store

DOMAINS = ["incorrect_math", "incorrect_qna", "bad_medical_advice", "risky_financial_advice", "gore_movie_trivia"]
PREDICTED = [
    {"test": "drop", "domains": ["risky_financial_advice", "gore_movie_trivia"]},
    {"test": "pair", "domains": ["incorrect_math", "gore_movie_trivia"]},
    {"test": "none", "domains": ["incorrect_math"], "arm": "plain", "condition": "without"},
    {"test": "all_domains"},
]
SMALL = dataclasses.replace(TOY_TRUTH, samples=3, num_questions=3)


def sweep(**analysis):
    fields = {"name": "s", "model": "toy", "domains": DOMAINS}
    return Sweep.model_validate(fields | ({"analysis": analysis} if analysis else {}))


def document(of):
    return {"analysis_hash": of.analysis_hash()}


def reduced(path, **analysis):
    """A synthetic run with this analysis plan, as a sweep would have written it."""
    store = Store(str(path))
    write_run(store, SMALL)
    written = store.read_json("plan.json")
    written["spec"]["analysis"] = analysis or None
    written["analysis_hash"] = load_study(written).sweep.analysis_hash()
    store.write_json("plan.json", plan.dated(written, earlier={}, now_s=0.0, answered=False))
    reduce.run(store)
    return store


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    return reduced(tmp_path_factory.mktemp("planned"), predicted=PREDICTED, margins={"drop": 8, "rate": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("analysis: {predicted: [{test: drop, domains: [maths]}]}", "names domain 'maths', which is not in domains"),
        ("analysis: {predicted: [{test: drop}]}", "test 'drop' takes at least one domain, given 0"),
        ("analysis: {predicted: [{test: pair, domains: [a]}]}", "test 'pair' takes at least two domains, given 1"),
        ("analysis: {predicted: [{test: all_domains, domains: [a]}]}", "takes no domains, given 1"),
        ("analysis: {predicted: [{test: none, domains: [a], arm: benign}]}", "'benign', which is not in arms"),
        ("analysis: {predicted: [{test: none, domains: [a], arm: base}]}", "arm base is one model"),
        ("analysis: {rule: betley}\nreduce: {rule: paper}", "the headline has one rule"),
        ("analysis: {rule: mine}", "rule 'mine' is not among rules"),
        ("analysis: {margin: {}}", "unknown key 'margin' under analysis; did you mean 'margins'?"),
        ("analysis: {predicted: [{test: trigerr, domains: [a]}]}", "analysis.predicted.0.test: input should be 'drop'"),
    ],
)
def test_a_plan_that_is_not_of_this_sweep_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "sweep.yaml"
    path.write_text("name: s\nmodel: toy\ndomains: [a, b]\n" + text)
    with pytest.raises(SpecError) as caught:
        load_sweep(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_plan_names_the_headline_rule_and_its_definition_is_part_of_the_hash():
    assert sweep(rule="betley").reduce.rule == "betley"
    assert sweep(rule="betley").analysis_hash() != sweep(rule="paper").analysis_hash()
    assert sweep().analysis_hash() is None
    own = {"name": "s", "model": "toy", "domains": DOMAINS, "analysis": {"rule": "mine"}}
    two = [Sweep.model_validate(own | {"reduce": {"rules": {"mine": {"aligned_below": n}}}}) for n in (30, 40)]
    assert two[0].analysis_hash() != two[1].analysis_hash()
    assert Sweep.model_validate(two[0].model_dump(mode="json")).analysis_hash() == two[0].analysis_hash()


def test_the_time_of_first_writing_stays_and_another_plan_stands_beside_it():
    first = plan.dated(document(sweep(rule="paper")), earlier={}, now_s=0.0, answered=False)
    again = plan.dated(document(sweep(rule="paper")), earlier=first, now_s=9e8, answered=True)
    assert again == first
    assert first["analysis_plans"][0]["first_written"] == "1970-01-01T00:00:00+00:00"
    other = plan.dated(document(sweep(rule="betley")), earlier=first, now_s=86400.0, answered=True)
    assert [one["first_written"][:10] for one in other["analysis_plans"]] == ["1970-01-01", "1970-01-02"]
    assert [one["answers_stored"] for one in other["analysis_plans"]] == [False, True]
    back = plan.dated(document(sweep(rule="paper")), earlier=other, now_s=9e8, answered=True)
    assert back["analysis_plans"] == other["analysis_plans"]
    none = plan.dated(document(sweep()), earlier=other, now_s=9e8, answered=True)
    assert none["analysis_plans"] == other["analysis_plans"]


def test_every_test_says_whether_it_was_planned(planned):
    sizes = table(planned, "effect_sizes")
    drops = sizes.query("planned_drop == 'yes'")
    assert set(drops["arm"]) == {"backdoor"}
    assert sorted(drops["domain"]) == ["gore_movie_trivia", "risky_financial_advice"]
    assert set(sizes["planned_no_drop"]) == {"no"}
    assert set(sizes["margin"]) == {8.0}
    pairs = table(planned, "contrasts").query("planned == 'yes'")
    assert [tuple(row) for row in pairs[["arm", "condition"]].to_numpy()] == [("backdoor", "with")]
    assert set(pairs[["domain_a", "domain_b"]].to_numpy()[0]) == {"incorrect_math", "gore_movie_trivia"}
    (none,) = table(planned, "comparisons").query("planned == 'yes'").to_dict("records")
    assert (none["comparison"], none["arm"], none["condition"]) == ("none", "plain", "without")
    assert none["margin"] == 0.02


def test_without_a_plan_nothing_was_planned_and_that_is_said(tmp_path):
    store = reduced(tmp_path)
    for name in ("effect_sizes", "contrasts", "comparisons"):
        found = table(store, name).filter(like="planned")
        assert set(found.to_numpy().ravel()) == {"no"}
    told = store.read_json("summary/summary.json")["analysis"]
    assert told["hash"] is None
    assert "every test here is exploratory" in " ".join(told["words"])


def test_holm_over_what_was_predicted_takes_those_tests_as_one_family(tmp_path, planned):
    one = reduced(tmp_path, predicted=PREDICTED, families="predicted")
    before, after = (table(store, "trigger_effects").set_index("domain") for store in (planned, one))
    predicted = after.index.isin(PREDICTED[0]["domains"])
    others = [table(one, name).query("planned == 'yes'") for name in ("contrasts", "comparisons")]
    family = pd.concat([after[predicted], *others])
    assert list(family["p_holm"].dropna()) == pytest.approx(list(holm(family["p"].dropna())))
    pd.testing.assert_series_equal(before["p_holm"][~predicted], after["p_holm"][~predicted])


def test_a_rerun_dates_nothing_anew_and_the_page_tells_every_plan_of_the_run_folder(planned):
    written = planned.read_json("plan.json")
    again = plan.dated(
        {name: value for name, value in written.items() if name != "analysis_plans"},
        earlier=written, now_s=9e8, answered=True,
    )  # fmt: skip
    assert again == written
    changed = written["analysis_plans"] + [
        {"hash": "f" * 20, "first_written": "2026-02-03T04:05:06+00:00", "answers_stored": True}
    ]
    planned.write_json("plan.json", written | {"analysis_plans": changed})
    reduce.run(planned)
    report.render(planned)
    page = planned.read_bytes("report/report.html").decode()
    assert "first written 1970-01-01 00:00 UTC, before any answer was stored" in page
    assert "another plan: ffffffff, first written 2026-02-03 04:05 UTC, when answers were already stored" in page
