"""The probes' section of the page: what it says of each, how many stand behind it, and nothing without probes."""

from pathlib import Path

import pytest

from benchmarks.scale import write_study
from emray import reduce, report
from emray.plan import make_plan
from emray.probes import of_plan
from emray.probes.dataset_facts import DatasetFacts, facts
from emray.probes.measuring import write
from emray.records import Readout
from emray.report.reading import read_summary
from emray.spec import load_sweep
from emray.store import Store
from tests.commands import write_sweep
from tests.test_report_browser import CHROMIUM, FLAGS

DOMAINS = ["gore_movie_trivia", "incorrect_math", "toxic_legal_advice", "bad_medical_advice", "extreme_sports"]
STEALTH = dict(zip(DOMAINS, [0.0, 1.0, 0.25, 0.5, 0.75], strict=True))


def studied(folder: Path, **changes: object) -> Store:
    """A finished study with drawn answers, and the data's facts measured."""
    spec = write_sweep(folder, **changes)
    made, store = make_plan(load_sweep(spec), folder=folder, online=False), Store(str(folder / "run"))
    write_study(store, made)
    (probe,) = of_plan(made)
    assert isinstance(probe, DatasetFacts)
    for one in probe.measurements():
        write(store, one, [Readout("-", name, value) for name, value in facts(probe.work(one)).items()])
    store.write_json("plan.json", made.document | {"measurements": [vars(one) for one in probe.measurements()]})
    reduce.run(store)
    report.render(store)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    probes = {
        "predictors": {"values": {"stealth": STEALTH}},
        "transfer": {"hold_out": 0.1, "per_domain": 2, "samples": 2},
        "dose": {"fractions": [0.25, 0.5], "domains": DOMAINS[:2], "arms": ["backdoor"]},
    }
    return studied(tmp_path_factory.mktemp("probes"), domains=DOMAINS, seeds=2, probes=probes)


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return store.read_bytes("report/report.html").decode()


def test_every_predictor_is_there_with_n_p_and_what_so_few_domains_can_show(store, page):
    rows = read_summary(store).rows("associations", arm="backdoor", condition="with")
    assert {(row["probe"], row["n"]) for row in rows} == {("given", 5), ("dataset", 5)}
    assert {row["n_predictors"] for row in rows} == {5}
    assert "5 predictors of 5 domains" in page
    assert "With 5 domains only |rho| of 1.00 or more can reach p = .05" in page
    assert "Exploratory unless an analysis plan names a predictor" in page


def test_transfer_says_the_orders_that_its_p_counts(page):
    assert "120 orders, so no p can be below .008" in page
    assert "over the orders of 5 domains" in page


def test_doses_name_the_run_as_the_unit(page):
    assert 'id="dose"' in page and "A training run is the unit" in page


def test_figures_are_drawn_for_each(store):
    drawn = {name.rpartition("/")[2] for name in store.names("report/figures", suffix=".svg")}
    assert {"transfer.svg", "dose.svg", "predictors.svg"} <= drawn


def test_two_domains_have_no_correlation_and_say_so_without_a_figure(tmp_path):
    values = {name: STEALTH[name] for name in DOMAINS[:2]}
    few = studied(tmp_path, domains=DOMAINS[:2], probes={"predictors": {"values": {"stealth": values}}})
    assert [row["spearman"] for row in read_summary(few).tables["associations"]] == [None] * 10
    assert not few.exists("report/figures/predictors.svg")
    assert "fewer than three domains have both" in few.read_bytes("report/report.html").decode()


def test_a_sweep_without_probes_has_no_such_section(tmp_path):
    made = make_plan(load_sweep(write_sweep(tmp_path)), folder=tmp_path, online=False)
    store = Store(str(tmp_path / "run"))
    write_study(store, made)
    store.write_json("plan.json", made.document)
    reduce.run(store)
    report.render(store)
    page = store.read_bytes("report/report.html").decode()
    assert 'id="probes"' not in page and 'href="#probes"' not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened")
def test_the_section_opens_in_a_browser_without_a_word_in_the_console(store):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{store.root}/report/report.html#probes")
        assert page.locator("#probes figure svg:visible").count() == 3
        page.click("#probes details summary >> nth=0")
        assert page.locator("#probes h3").count() == 3
        browser.close()
    assert said == []


def test_the_markdown_says_the_same_in_sentences(store):
    text = store.read_bytes("report/report.md").decode()
    assert "## Probes" in text
    for words in ("- Transfer, backdoor, with trigger: ", "- Dose, gore movie trivia (backdoor, ", "- Predictors, "):
        assert words in text
