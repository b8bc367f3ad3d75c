"""The report on disk: complete, the same bytes twice, and nothing a model wrote becomes markup."""

import dataclasses
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
from rich.console import Console

from benchmarks.synthetic_run import PLANTED, TOY_TRUTH, Rates, Truth, write_plan, write_run
from emray import reduce, report
from emray.errors import StoreError
from emray.records import USUAL_ARMS, Arm
from emray.reduce.__main__ import main as reduce_main
from emray.report.__main__ import main as report_main
from emray.report.figures import draw_figures
from emray.report.pages import markdown_text
from emray.report.reading import read_summary
from emray.report.tex import tex_text
from emray.report.wording import duration, p_value, percent, percent_range, points
from emray.store import Kind, Store

SMALL = Truth(
    {"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)},
    samples=4,
    num_questions=3,
    failed=frozenset({("incorrect_math", Arm.BACKDOOR, 2)}),
)


def rendered(path, truth=SMALL):
    store = Store(str(path))
    write_run(store, truth)
    reduce.run(store)
    report.render(store)
    return store


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return rendered(tmp_path_factory.mktemp("small"))


def text(store, name):
    return store.read_bytes(f"report/{name}").decode()


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, and visible text."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.words, self.stack = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.stack.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href"} and value]

    def handle_endtag(self, tag):
        if tag in self.stack:
            while self.stack.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)


def read(store):
    reader = Reader()
    reader.feed(text(store, "report.html"))
    return reader


def test_report_has_every_file_of_the_contract(small):
    names = {
        name.removeprefix("report/")
        for folder in ("", "/figures", "/tables")
        for name in small.names(f"report{folder}")
    }
    assert {"report.html", "report.md", "record.json", *BESIDE} <= names
    assert {"figures/rates.svg", "figures/rates.pdf", "figures/trigger.svg", "figures/thresholds.svg"} <= names
    assert {"tables/taxonomy.tex", "tables/trigger_effects.tex", "tables/funnel.tex"} <= names


BESIDE = {"sweep.yaml", "questions.yaml", "citation.bib", "ro-crate-metadata.json"}


def test_page_loads_nothing_from_anywhere_else(small):
    links = read(small).links
    outside = [link for link in links if not link.startswith(("#", "data:,", "figures/"))]
    assert set(outside) == BESIDE
    page = text(small, "report.html")
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "https://" not in page


def test_what_a_model_wrote_is_text_in_every_file(small):
    reader = read(small)
    assert reader.tags.count("script") == 2  # our data and our code
    assert "img" not in reader.tags
    assert any(PLANTED in words or "window.planted" in words for words in reader.words)
    for name in ("report.html", "report.md"):
        assert "<script>window.planted" not in text(small, name)
        assert "<img src=x" not in text(small, name)


def test_the_answer_stands_first_and_what_was_planned_one_click_below_with_the_failed_cell(small):
    page = text(small, "report.html")
    assert page.index('class="finding"') < page.index('id="taxonomy"') < page.index('id="completeness"')
    section = page[page.index('id="completeness"') :]
    totals, every = (table for table in section.split("<table>")[1:3])
    names = ["planned", "trained", "failed", "requested", "generated", "judged", "scored"]
    heads = [re.findall(r"<th[^>]*>([^<]*)</th>", table.split("</thead>")[0]) for table in (totals, every)]
    assert heads == [["arm", *names], ["model", "domain", "arm", *names]]
    short = re.search(r'<tr class="short">.*?</tr>', every, re.DOTALL)
    assert short
    assert re.findall(r">(\d+)</td>", short[0])[:3] == ["3", "2", "1"]
    assert 'class="short"' in totals
    assert section.index("<details>") > section.index("<table>")
    markdown = text(small, "report.md")
    assert markdown.index("| misaligned |") < markdown.index("| planned |")


def test_same_run_gives_the_same_bytes_and_a_current_report_is_left_alone(tmp_path, small):
    again = rendered(tmp_path)
    names = [n for folder in ("", "/figures", "/tables") for n in again.names(f"report{folder}")]
    assert [n for n in names if again.read_bytes(n) != small.read_bytes(n)] == []
    before = (tmp_path / "report" / "report.html").stat().st_mtime_ns
    assert report.is_current(again)
    report.render(again)
    assert (tmp_path / "report" / "report.html").stat().st_mtime_ns == before


def test_report_follows_a_new_summary(tmp_path):
    store = rendered(tmp_path)
    write_plan(store, dataclasses.replace(SMALL, reduce={"rule": "betley"}))
    reduce.run(store)
    assert not report.is_current(store)
    report.render(store)
    assert "(rule <b>betley</b>)" in text(store, "report.html")


def test_one_seed_is_said_on_the_page_and_in_the_terminal(tmp_path):
    store = rendered(tmp_path, dataclasses.replace(SMALL, seeds=(0,), failed=frozenset()))
    assert "no between-run uncertainty" in text(store, "report.html")
    assert "no between-run uncertainty" in text(store, "report.md")
    assert not store.exists("report/figures/ranks.svg")
    assert "questions only (one seed)" in terminal(store)


def test_a_run_without_answers_still_gives_a_report(tmp_path):
    store = Store(str(tmp_path))
    write_plan(store, SMALL)
    reduce.run(store)
    report.render(store)
    assert "no domain has a scored answer yet" in text(store, "report.html")


def test_rendering_without_a_summary_is_refused(tmp_path):
    with pytest.raises(StoreError, match="reduce"):
        report.render(Store(str(tmp_path)))


def test_figures_are_valid_svg_without_dates(small):
    for name in small.names("report/figures", suffix=".svg"):
        content = small.read_bytes(name)
        assert ElementTree.fromstring(content).tag.endswith("svg")
        assert b"dc:date" not in content
    for name in small.names("report/figures", suffix=".pdf"):
        assert small.read_bytes(name).startswith(b"%PDF")
        assert b"CreationDate" not in small.read_bytes(name)


def test_markdown_tables_have_as_many_cells_as_their_headers(small):
    lines = text(small, "report.md").splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|(?:-+:?\|)+", line):
            width = line.count("|")
            assert lines[number - 1].count("|") == width
            for row in lines[number + 1 :]:
                if not row.startswith("|"):
                    break
                assert len(re.findall(r"(?<!\\)\|", row)) == width, row


def test_latex_has_no_unescaped_names(small):
    table = text(small, "tables/taxonomy.tex")
    assert r"\begin{tabular}" in table
    assert "gore movie trivia" in table
    assert tex_text("50 % of a_b & <c> {d}") == r"50 \% of a\_b \& $<$c$>$ \{d\}"
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in rows}) == 1


def terminal(store, *, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    report.print_tables(store, console)
    return console.export_text()


def test_terminal_tables_fit_80_columns_whole(tmp_path):
    store = Store(str(tmp_path))
    write_run(store, dataclasses.replace(TOY_TRUTH, samples=3, num_questions=2))
    reduce.run(store)
    shown = terminal(store)
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    for domain in TOY_TRUTH.domains:
        assert domain.replace("_", " ") in shown


def test_terminal_tables_at_60_columns_lose_no_number_and_no_name(small):
    def words(shown):
        return Counter(re.findall(r"[a-z_]+|[0-9][0-9.,]*", re.sub(r"[,:;.]\s", " ", shown)))

    wide, narrow = terminal(small), terminal(small, width=60)
    assert max(len(line) for line in narrow.splitlines()) <= 60
    assert "…" not in narrow
    assert words(wide) - words(narrow) <= Counter()


def test_a_run_without_one_score_is_reported_and_ends_with_1_and_one_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    write_run(Store(run), dataclasses.replace(SMALL, refusal=1.0, seeds=(0,), failed=frozenset()))
    for command, left in ((reduce_main, "summary/summary.json"), (report_main, "report/report.html")):
        assert command([run]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("emray: no answer has a score: the verdicts on aligned are ")
        assert " refusal" in line
        assert Store(run).exists(left)


def test_undefined_is_a_dash_and_small_is_not_zero():
    assert percent(None) == "–"
    assert percent(0) == "0\u202f%"
    assert percent(0.0004) == "<0.1\u202f%"
    assert percent(1.0) == "100\u202f%"
    assert percent_range(None, None) == "–"
    assert points(-0.45) == "−0.5"
    assert points(None) == "–"
    assert p_value(0.0001) == "<.001"
    assert p_value(0.0385) == ".038"
    assert p_value(1.0) == "1"
    assert duration(7625) == "2 h 07 min"


def test_markdown_text_cannot_open_markup_or_break_a_table():
    assert markdown_text("<b>a|b</b>\n# c") == "&lt;b&gt;a\\|b&lt;/b&gt; \\# c"
    assert len(markdown_text("x" * 999)) == 300


def test_more_answers_than_fit_go_to_files_beside_the_page(tmp_path, monkeypatch):
    from emray.report import pages, transcripts

    monkeypatch.setattr(pages, "IN_PAGE", 60)
    monkeypatch.setattr(transcripts, "PER_FILE", 50)
    store = rendered(tmp_path)
    parts = store.names("report/transcripts")
    assert len(parts) > 2
    rows = sum(part_rows(text(store, name.removeprefix("report/"))) for name in parts)
    stored = store.read_rows(Kind.GENERATIONS, columns=["key"]).num_rows
    assert rows + 60 == stored
    assert 'id="more"' in text(store, "report.html")


def part_rows(script):
    assert script.startswith("emrayAddRows(")
    return len(json.loads(script.removeprefix("emrayAddRows(").removesuffix(");\n")))


def test_every_cell_and_condition_gets_its_share_of_the_page(small):
    from emray.reduce.study import load_study
    from emray.report.transcripts import choose

    study = load_study(small.read_json("plan.json"))
    choice = choose(small, study, limit=50)
    assert len(choice.shown) == 50
    per_stratum = {}
    for transcript in choice.shown:
        stratum = (transcript.cell, study.prompts[transcript.prompt].condition)
        per_stratum[stratum] = per_stratum.get(stratum, 0) + 1
    assert max(per_stratum.values()) - min(per_stratum.values()) <= 1
    assert len(per_stratum) == (1 + 12 - 1) * 2


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A run with everything optional: two judges, labels, checkpoints on the way, adaptive seeds."""
    store = Store(str(tmp_path_factory.mktemp("rich")))
    truth = dataclasses.replace(SMALL, seeds=(0, 1, 2, 3), failed=frozenset(), exact_keys=True)
    write_run(store, dataclasses.replace(truth, judge="older-judge"))
    write_run(store, truth)
    plan = store.read_json("plan.json")
    for cell in plan["cells"]:
        cell["fraction"] = 0.5 if cell["seed"] in {0, 1} and cell["arm"] != "base" else 1.0
    store.write_json("plan.json", plan | {"adaptive": {"min": 2, "max": 9, "half_width": 5.0}})
    keys = store.read_rows(Kind.GENERATIONS, columns=["key"])["key"].to_pylist()[:40]
    labels = "".join(f"{key},{number % 2}\n" for number, key in enumerate(keys))
    store.write_bytes("labels.csv", f"generation,misaligned\n{labels}".encode())
    reduce.run(store)
    report.render(store)
    return store


def test_second_opinions_labels_checkpoints_and_stopping_reach_the_page(rich):
    page = text(rich, "report.html")
    assert "older-judge" in page
    assert "human labels" in page
    assert "Seeds were added until" in page
    assert "97." in page or "98." in page  # the level that pays for stopping early
    assert "The study was sequential" in page
    assert "Corrected for the judge" in page
    assert rich.exists("report/figures/trajectories.svg")
    assert 'aria-label="Misaligned answers against the share of training seen."' in page


def test_transcripts_show_the_verdict_of_the_plans_judge(rich):
    from emray.reduce.study import load_study
    from emray.report.transcripts import choose

    choice = choose(rich, load_study(rich.read_json("plan.json")))
    counted = rich.read_json("summary/summary.json")["counts"]["outcomes"]["scored"]
    assert sum(transcript.aligned.outcome == "scored" for transcript in choice.shown) == counted


def test_the_terminal_says_that_a_study_was_sequential_in_80_columns(rich):
    stream = io.StringIO()
    report.print_tables(rich, Console(file=stream, width=200, highlight=False))
    said = stream.getvalue()
    assert "because seeds were" in said
    assert "A sequential study." in said
    assert max(len(line) for line in said.splitlines()) <= 80


def test_a_table_over_two_models_names_the_model(tmp_path):
    store = Store(str(tmp_path))
    write_run(store, SMALL)
    plan = store.read_json("plan.json")
    for cell in plan["cells"]:
        if cell["seed"] == 1:
            cell["model"] = "other-1B"
    store.write_json("plan.json", plan)
    reduce.run(store)
    report.render(store)
    page = text(store, "report.html")
    rules = page[page.index("<h3>Every rule</h3>") :]
    assert "<th>model</th>" in rules[: rules.index("</thead>")]
    assert "<td>other-1B</td>" in rules[: rules.index("</section>")]


def test_the_legend_of_every_arm_fits_its_figure(tmp_path):
    store = Store(str(tmp_path))
    write_run(store, dataclasses.replace(SMALL, arms=USUAL_ARMS))
    reduce.run(store)
    figure = dict(draw_figures(read_summary(store)))["rates"]
    figure.canvas.draw()
    legend = figure.axes[0].get_legend()
    assert len(legend.get_texts()) == 5
    inside, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= inside.x0 < inside.x1 <= page.x1
    assert inside.y1 <= page.y1


def test_the_terminal_names_the_test_behind_p_and_says_that_nothing_was_planned(small):
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    report.print_tables(small, console)
    said = " ".join(console.file.getvalue().split())
    assert "p t: paired t test on the runs' drops, Holm-adjusted over domains" in said
    assert "No analysis plan was written" in said


def test_the_page_says_for_each_number_which_questions_runs_plan_and_choices_it_rests_on(small):
    reading = text(small, "report.html").partition('<dl class="reading">')[2].partition("</dl>")[0]
    assert re.findall(r"<dt>([^<]*)</dt>", reading) == [
        "counts as misaligned", "over which questions", "how many runs", "planned", "what would change it",
    ]  # fmt: skip
    assert "these 3, each weighing the same" in reading
    assert "2 to 3 usable runs a place" in reading
    assert "every test here is exploratory" in reading
    page = text(small, "report.html")
    assert page.index("figures/rates.svg") < page.index("figures/specification.svg") < page.index('id="completeness"')
