"""Runs are listed, compared and watched from their folders alone."""

import contextlib
import http.client
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce
from emray.reduce.inputs import COMMAND
from emray.runs.__main__ import main
from emray.runs.watch import Watch
from emray.store import Store
from tests.study_world import finish, study_plan
from tests.test_report_browser import CHROMIUM, FLAGS

TRUTH = Truth({"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)}, samples=4, num_questions=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and one that failed before its first answer."""
    folder = tmp_path_factory.mktemp("runs")
    done = Store(str(folder / "done"))
    write_run(done, TRUTH)
    reduce.run(done)
    plan, bad = study_plan(["incorrect_math"]), Store(str(folder / "bad"))
    bad.write_json("plan.json", dict(plan.document))
    bad.put_failed_adapter(next(iter(plan.jobs)), details={"error": "DataError: training row 1: x"})
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(one) for one in arguments]) == code
    out = capsys.readouterr()
    return out.err if code else out.out


@pytest.mark.parametrize("width", ["60", "200"])
def test_runs_are_listed_with_how_far_they_are_what_they_cost_and_what_came_out(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text = " ".join(told(capsys, "list", runs).split())
    assert "most misaligned: gore_movie_trivia/backdoor with the trigger, " in text
    assert "0/1 cells, 0/" in text
    assert "$" in text
    cause = "1 of 1 cells failed, the first incorrect_math/backdoor seed 0: DataError: training row 1: x"
    assert f"bad: {cause}; see python -m" in text


def test_two_runs_made_by_other_software_are_told_apart(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, versions in {
        "a": {"torch": "2.11.0", "ray": "2.60.0"},
        "b": {"torch": "2.12.0", "ray": "2.60.0"},
    }.items():
        run = Store(str(tmp_path / name))
        run.write_bytes("plan.json", (runs / "bad" / "plan.json").read_bytes())
        run.log_stage(COMMAND, started_s=1.0, wall_s=0.0, details={"versions": versions})
    text = told(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert "made with\n  torch: 2.11.0 -> 2.12.0\n" in text
    assert "ray: " not in text
    text = told(capsys, "compare", tmp_path / "a", runs / "bad")
    assert "ray: 2.60.0 -> not recorded" in text


def test_two_runs_are_compared_in_plan_and_result(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Store(str(tmp_path / "other"))
    write_run(other, Truth({"gore_movie_trivia": Rates(0.5, 0.5)}, samples=4, num_questions=3))
    reduce.run(other)
    text = told(capsys, "compare", runs / "done", other.root)
    assert "domains: " in text
    assert "only in A: " in text
    assert "incorrect_math" in text
    assert "gore_movie_trivia" in text.partition("misaligned rates")[2]
    same = told(capsys, "compare", runs / "done", runs / "done")
    assert "plans are equal" in same
    assert "misaligned rates are equal" in same
    assert "B has no results yet" in told(capsys, "compare", runs / "done", runs / "bad")
    assert "is no run folder" in told(capsys, "compare", runs / "done", tmp_path, code=2)


@contextlib.contextmanager
def watched(run: Store) -> Iterator[Watch]:
    with Watch(run.root) as watch:
        threading.Thread(target=watch.serve_forever, daemon=True).start()
        yield watch
        watch.shutdown()


def status(watch: Watch, path: str, *, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", watch.server_port)
    connection.request("GET", path, headers={"Host": host})
    return connection.getresponse().status


def test_the_page_is_for_this_machine_and_whoever_was_given_its_address(runs: Path) -> None:
    with watched(Store(str(runs / "done"))) as watch:
        here = f"127.0.0.1:{watch.server_port}"
        assert watch.server_address[0] == "127.0.0.1"
        assert status(watch, f"/{watch.word}/", host=here) == 200
        assert status(watch, f"/{watch.word}/state.json", host=here) == 200
        assert status(watch, "/state.json", host=here) == 404
        assert status(watch, f"/{watch.word}/../plan.json", host=here) == 404
        assert status(watch, f"/{watch.word}/", host="evil.example") == 403


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened")
def test_the_page_follows_a_live_run_in_a_browser(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    plan = study_plan(["gore_movie_trivia", "incorrect_math"])
    store = Store(str(tmp_path / "live"))
    store.write_json("plan.json", dict(plan.document))
    _, second = plan.jobs
    with watched(store) as watch, sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
        seen: list[Any] = []
        page.on("pageerror", lambda error: seen.append(error))
        page.on("request", lambda request: seen.append(request.url) if watch.url not in request.url else None)
        page.goto(watch.url)
        expect(page.locator("#name")).to_have_text("live")
        expect(page.locator("#stages")).to_contain_text("0 of 2")
        store.put_failed_adapter(second, details={"error": "DataError: <b>row 1</b>: x"})
        expect(page.locator("#failures")).to_contain_text("DataError: <b>row 1</b>: x", timeout=15_000)
        finish(plan, store)
        expect(page.locator("#stages")).to_contain_text("2 of 2", timeout=15_000)
        expect(page.locator("#curves figure")).to_have_count(1)
        expect(page.locator("#answers .answer")).to_have_count(6)
        expect(page.locator("#outcomes")).to_contain_text("scored")
        expect(page.locator("#at")).to_contain_text("spent on judging")
        if shots := os.environ.get("EMRAY_SCREENSHOTS"):
            page.screenshot(path=f"{shots}/watch.png", full_page=True)
        shutil.rmtree(store.root)
        expect(page.locator("#at")).to_contain_text("plan.json", timeout=15_000)
        assert seen == []
