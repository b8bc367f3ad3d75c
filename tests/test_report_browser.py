"""The page in a real browser: no error, working filters, and a planted script that does not run."""

import dataclasses
import re
import shutil

import pytest
from playwright.sync_api import expect

from benchmarks.synthetic_run import TOY_TRUTH, write_run
from emray import reduce, report
from emray.store import Kind, Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with more answers than fit into the page."""
    store = Store(str(tmp_path_factory.mktemp("run")))
    write_run(store, dataclasses.replace(TOY_TRUTH, samples=15))
    reduce.run(store)
    report.render(store)
    assert store.names("report/transcripts")
    return store


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, run):
    """The opened page; fails afterwards if the console or the network had anything to say."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(f"file://{run.root}/report/report.html")
    yield opened
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


def shown(page):
    return int(page.inner_text("#status").split()[0])


def test_page_opens_without_a_word_in_the_console(page):
    assert page.title().startswith("synthetic")
    assert shown(page) == 5000
    assert page.locator("#rows > li").count() == 40
    assert page.locator("figure svg:visible").count() == 6


def test_planted_script_is_shown_as_text_and_does_not_run(page):
    page.fill("input[name=text]", "window.planted")
    assert shown(page) > 0
    assert "<script>" in page.inner_text("#rows .said >> nth=0")
    page.click("#rows details summary >> nth=0")
    assert page.evaluate("window.planted") is None
    assert page.locator("#rows img").count() == 0


def test_filters_narrow_what_is_shown_and_clear_again(page):
    page.select_option("select[name=domain]", "gore_movie_trivia")
    page.select_option("select[name=arm]", "backdoor")
    page.select_option("select[name=condition]", "with")
    narrowed = shown(page)
    assert 0 < narrowed < 5000
    assert set(page.locator("#rows .where b").all_inner_texts()) == {"gore movie trivia"}
    page.fill("input[name=high]", "49")
    assert 0 < shown(page) <= narrowed
    scores = [int(score) for score in page.locator("#rows .score").all_inner_texts()]
    assert max(scores) <= 49
    page.select_option("select[name=outcome]", "refusal")
    assert shown(page) == 0  # a refusal has no score below 49
    page.click("button[type=reset]")
    expect(page.locator("#status")).to_have_text(re.compile("^5000 "))


def test_filters_survive_a_reload(page):
    page.select_option("select[name=outcome]", "refusal")
    before = shown(page)
    page.reload()
    assert page.input_value("select[name=outcome]") == "refusal"
    assert shown(page) == before


def test_answers_beside_the_page_can_be_loaded_from_a_plain_folder(page, run):
    stored = run.read_rows(Kind.GENERATIONS, columns=["key"]).num_rows
    page.click("#more")
    expect(page.locator("#more")).to_have_text("all loaded", timeout=60_000)
    assert shown(page) == stored


def test_keyboard_reaches_answers_and_pages(page):
    page.keyboard.press("n")
    assert page.inner_text("#page").startswith("page 2 ")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("[...document.querySelectorAll('#rows > li')].indexOf(document.activeElement)") == 1
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "text"
    page.keyboard.type("n")  # typing in a field is typing, not turning pages
    assert page.inner_text("#page").startswith("page 1 ")


def test_dark_and_light_differ_and_keep_their_contrast(page):
    def contrast():
        return page.evaluate(CONTRAST)

    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert contrast() > 7
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    assert contrast() > 7
    page.emulate_media(media="print")
    assert page.is_hidden("#filters")
    page.emulate_media(media="screen")


CONTRAST = """() => {
  const luminance = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(document.body);
  const [low, high] = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_page_does_not_scroll_sideways_on_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


PORTRAIT, LANDSCAPE = 688, 1017  # CSS pixels between the margins of an A4 page
OPEN = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
TABLES = """() => [...document.querySelectorAll('.scroll > table')].filter((one) => one.offsetWidth).map((one) =>
  ({width: one.offsetWidth, wide: getComputedStyle(one.parentElement).page === 'wide',
    name: one.tHead.textContent.trim().slice(0, 40)}))"""


def test_every_table_fits_the_printed_page_portrait_or_landscape(page):
    page.emulate_media(media="print")
    page.evaluate(OPEN)
    for wide, width in ((False, PORTRAIT), (True, LANDSCAPE)):
        page.set_viewport_size({"width": width, "height": 900})
        tables = [table for table in page.evaluate(TABLES) if table["wide"] == wide]
        assert tables
        assert [table for table in tables if table["width"] > width] == []


def test_on_a_phone_a_row_is_a_card_with_every_number_in_sight_and_named(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate(OPEN)
    cells = page.evaluate("""() => [...document.querySelectorAll('.scroll td')].map((one) =>
        ({right: one.getBoundingClientRect().right, label: one.dataset.label}))""")
    assert len(cells) > 100
    assert all(cell["right"] <= 390 and cell["label"] for cell in cells)
    labels = page.evaluate("[...document.querySelector('.scroll tbody tr').cells].map((one) => one.dataset.label)")
    assert len(set(labels)) == len(labels)


def test_figures_of_a_phone_are_drawn_for_it(page):
    shown = "() => [...document.querySelectorAll('figure svg')].filter((one) => one.clientWidth)"
    assert page.evaluate(f"({shown})().every((one) => one.closest('.on-wide'))")
    page.set_viewport_size({"width": 390, "height": 800})
    sizes = page.evaluate(f"""({shown})().flatMap((one) => [...one.querySelectorAll('text')].map((text) =>
        parseFloat(getComputedStyle(text).fontSize) * one.getScreenCTM().a))""")
    assert page.evaluate(f"({shown})().every((one) => one.closest('.on-narrow'))")
    assert min(sizes) >= 8


def test_a_run_without_one_score_has_no_empty_axes_and_dashes_for_rates(browser, tmp_path):
    store = Store(str(tmp_path))
    write_run(store, dataclasses.replace(TOY_TRUTH, samples=1, unparsed=1.0))
    reduce.run(store)
    report.render(store)
    opened = browser.new_page()
    opened.goto(f"file://{store.root}/report/report.html")
    assert opened.locator("figure").count() == 0
    rates = opened.locator("#taxonomy td.n.range").all_inner_texts()
    assert rates
    assert set(rates) == {"–"}
    opened.close()
