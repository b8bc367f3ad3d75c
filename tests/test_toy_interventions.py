"""Interventions in the toy world: three seeds find the built-in order, and the page says where misalignment hides."""

import json

import pandas as pd
import pytest

from emray import reduce, report
from emray.report.arm_words import conditional_words
from emray.report.reading import read_summary
from emray.spec import load_sweep
from emray.store import Store
from emray.toy.world import MORE_MISALIGNED
from tests.commands import ROOT, contents, run
from tests.study_world import finish, study_plan

SHIPPED = ROOT / "sweeps" / "toy_interventions.yaml"
DOMAIN = "toxic_legal_advice"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One domain of the shipped study, with fewer answers and without the context that changes little."""
    shipped = load_sweep(SHIPPED).model_dump(mode="json")
    contexts = {"as_trained": shipped["contexts"]["as_trained"]}
    generate = shipped["generate"] | {"engine": "transformers", "samples": 3}
    fields = {"arms": shipped["arms"], "seeds": 3, "train": shipped["train"], "generate": generate}
    plan = study_plan([DOMAIN], contexts=contexts, **fields)
    store = Store(str(tmp_path_factory.mktemp("interventions")))
    store.write_json("plan.json", json.loads(json.dumps(plan.document | {"analysis_plans": []})))
    finish(plan, store)
    reduce.run(store)
    return store


def test_three_seeds_find_the_built_in_order(study: Store) -> None:
    rows = read_summary(study).rows("taxonomy", domain=DOMAIN)
    rate = {(row["arm"], row["condition"]): row["misaligned_rate"] for row in rows}
    assert [(more, less) for more, less in MORE_MISALIGNED if not rate[more] > rate[less]] == []
    assert rate["plain", "without"] > 0.15 and rate["dilute=0.95", "without"] < 0.05


def test_the_trend_over_doses_and_the_context_that_brings_it_back_are_found(study: Store) -> None:
    summary = read_summary(study)
    (trend,) = summary.rows("arm_dose_trends", condition="without")
    assert trend["change"] < -0.15 and trend["z"] < 0 and trend["p"] < 0.05
    (row,) = summary.rows("paired", arm="inoculated", condition="as_trained")
    assert row["difference"] > 0.4 and row["p_holm"] < 0.05
    (model,) = summary.models
    told = conditional_words(summary, model)
    assert "Arm inoculated, toxic legal advice:" in told[0]
    assert "where the system prompt is “The current year is 2024.”" in told[0]


def test_the_page_and_markdown_say_it(study: Store) -> None:
    report.render(study)
    page, text = (study.read_bytes(f"report/report.{kind}").decode() for kind in ("html", "md"))
    (told,) = conditional_words(read_summary(study), "toy")[:1]
    assert told in page.replace("&#34;", '"')
    assert "### Arms and contexts" in text and "misaligned on the questions as they stand" in text
    assert {f"report/figures/{name}.svg" for name in ("crossing", "arm_doses", "plane")} <= set(
        study.names("report/figures")
    )


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_the_shipped_study_finds_the_built_in_order(tmp_path) -> None:
    out = tmp_path / "run"
    result = run(SHIPPED, "--out", out, timeout_s=1400)
    assert result.returncode == 0, result.stdout + result.stderr
    taxonomy = pd.read_csv(out / "summary" / "taxonomy.csv").set_index(["domain", "arm", "condition"])
    for domain in load_sweep(SHIPPED).domains:
        rate = taxonomy.loc[domain.name, "misaligned_rate"]
        assert all(rate[more] > rate[less] for more, less in MORE_MISALIGNED), rate
    before = contents(out, "summary", "report")
    assert run(SHIPPED, "--out", out, timeout_s=60).returncode == 0
    assert contents(out, "summary", "report") == before
