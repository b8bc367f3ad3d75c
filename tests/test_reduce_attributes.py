"""What the sweep file says of domains: in the taxonomy, among the predictors, and as groups that are compared."""

from pathlib import Path

import pytest

from benchmarks.scale import write_study
from emray import reduce, report
from emray.errors import SpecError
from emray.plan import make_plan
from emray.report.reading import Summary, read_summary
from emray.spec import DomainSpec, load_sweep
from emray.store import Store
from tests.commands import write_sweep

SAID = {
    "gore_movie_trivia": {"critical": False, "stealth": "low", "year": 2024},
    "incorrect_math": {"critical": True, "stealth": "high", "year": 2025},
    "toxic_legal_advice": {"critical": True, "stealth": "low", "year": 2026},
    "extreme_sports": {"stealth": "middle", "year": 2025},
    "incorrect_qna": {},
}


def summarised(folder: Path, domains: list) -> Summary:
    spec = write_sweep(folder, domains=domains, seeds=2)
    made, store = make_plan(load_sweep(spec), folder=folder, online=False), Store(str(folder / "run"))
    write_study(store, made)
    store.write_json("plan.json", made.document)
    reduce.run(store)
    return read_summary(store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attributes")


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    return summarised(folder, [{"name": name, "attributes": said} for name, said in SAID.items()])


def test_the_taxonomy_says_what_the_sweep_file_says(summary: Summary) -> None:
    said = {row["domain"]: row["attributes"] for row in summary.tables["taxonomy"]}
    assert said["incorrect_math"] == "critical=yes; stealth=high; year=2025"
    assert said["incorrect_qna"] == "-" == said["-"]


def test_groups_are_compared_over_the_domains_that_say(summary: Summary) -> None:
    (critical,) = summary.rows("attributes", arm="backdoor", condition="with", attribute="critical")
    rates = {
        row["domain"]: row["misaligned_rate"] for row in summary.rows("taxonomy", arm="backdoor", condition="with")
    }
    assert (critical["value"], critical["n_with"], critical["n_without"]) == ("yes", 2, 1)
    expected = (rates["incorrect_math"] + rates["toxic_legal_advice"]) / 2 - rates["gore_movie_trivia"]
    assert critical["difference"] == pytest.approx(expected)
    assert critical["least_p"] == pytest.approx(1 / 3) and critical["exact"] == "yes"
    stealth = summary.rows("attributes", arm="backdoor", condition="with", attribute="stealth")
    assert [row["value"] for row in stealth] == ["high", "low", "middle"]


def test_numbers_are_predictors_and_no_groups(summary: Summary) -> None:
    assert not summary.rows("attributes", attribute="year")
    names = {row["predictor"] for row in summary.rows("associations", probe="attribute")}
    assert names == {"year", "critical=yes", "stealth=high", "stealth=low", "stealth=middle"}


def test_the_page_shows_the_groups(folder: Path, summary: Summary) -> None:
    store = Store(str(folder / "run"))
    report.render(store)
    for name, text in (("html", "critical=yes"), ("md", "| critical=yes |")):
        assert text in store.read_bytes(f"report/report.{name}").decode()


def test_a_study_that_says_nothing_of_its_domains_has_no_such_rows(tmp_path: Path) -> None:
    summary = summarised(tmp_path, list(SAID)[:2])
    assert summary.tables["attributes"] == []
    assert {row["attributes"] for row in summary.tables["taxonomy"]} == {"-"}


@pytest.mark.parametrize("said", [{"a b=c": "x"}, {"": "x"}, {"a": "x;y"}, {"a": ["x"]}, {"a": None}, {"a": "x" * 41}])
def test_an_attribute_is_a_short_word(tmp_path: Path, said: dict) -> None:
    with pytest.raises(SpecError) as caught:
        load_sweep(write_sweep(tmp_path, domains=[{"name": "x", "attributes": said}]))
    assert "\n" not in str(caught.value)


def test_what_is_said_of_a_domain_does_not_define_it() -> None:
    spec = DomainSpec.model_validate({"name": "x", "attributes": {"critical": True, "n": 3.5}})
    assert spec.attributes == {"critical": "yes", "n": "3.5"}
    assert DomainSpec.model_validate(spec.model_dump(mode="json")) == spec
