"""Benchmarks run to their end on any machine: what breaks is a row that says how; README tells what results hold."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as every
from benchmarks.compared import LACKING, Compared, last_line, need_gpus, told
from benchmarks.judge import Broken, Entry, Scenario, compared, run
from benchmarks.reduce import truth_of
from benchmarks.synthetic_run import write_run
from emray.localapi import Faults
from emray.store import Kind, Store
from tests import readme
from tests.commands import ROOT

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
STARTED_BY_OTHERS = {"field_script", "judge_contenders"}  # processes of benchmarks.train and benchmarks.judge


def done(code: int, *, out: str = "", err: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess([], code, out, err)


def test_every_benchmark_is_run_by_make_bench_and_has_a_small_size() -> None:
    programs = {path.stem: path.read_text() for path in BENCHMARKS.glob("*.py") if "\nif __name__" in path.read_text()}
    assert set(programs) - STARTED_BY_OTHERS - {"__main__"} == set(every.NAMES)
    for name in every.NAMES:
        assert f"    python -m benchmarks.{name}" in programs[name]
        assert "--small" in programs[name].split('"""')[1]
        assert "told(" in programs[name]
    for name in (name for name in every.NAMES if name.startswith("gpu_")):
        assert f'need_gpus("benchmarks.{name}"' in programs[name]
    assert "-m benchmarks --small" in (ROOT / "Makefile").read_text()


def test_what_a_machine_lacks_is_a_row_with_its_reason_and_no_failure() -> None:
    ended = every.read("gpu_train", done(LACKING, err="benchmarks.gpu_train: needs an NVIDIA GPU\n"), wall_s=1.0)
    assert ended.rows[0].ended == "not here: benchmarks.gpu_train: needs an NVIDIA GPU"
    assert not ended.broke


def test_a_peer_that_breaks_is_a_row_and_emray_breaking_is_a_failure() -> None:
    theirs = Compared("judging", "share", 0.99, "peer", None, ended="broke: KeyError: 'x'")
    ours = Compared("judging", "share", None, "peer", 0.5, ended="broke: KeyError: 'y'")
    for row, broke in ((theirs, False), (ours, True)):
        ended = every.read("judge", done(0, out="a table\n" + json.dumps(told([row]))), wall_s=1.0)
        assert (ended.rows, ended.broke) == ((row,), broke)
    died = every.read(
        "judge", done(1, err="Traceback\n  at\nValueError: no\nsys:1: RuntimeWarning: left\n"), wall_s=1.0
    )
    assert (died.rows[0].ended, died.broke) == ("broke: ValueError: no", True)


def test_ratios_say_how_many_times_better_whichever_way_better_is() -> None:
    assert Compared("", "1/s", 30.0, "peer", 10.0).ratio == 3.0
    assert Compared("", "s", 10.0, "peer", 30.0, more_is_better=False).ratio == 3.0
    assert Compared("", "1/s", 30.0, "peer", None).ratio is None


def test_the_error_is_told_and_not_what_was_said_after_it() -> None:
    said = (
        "Traceback (most recent call last):\njson.decoder.JSONDecodeError: bad\nsys:1: RuntimeWarning: never awaited\n"
    )
    assert last_line(said) == "json.decoder.JSONDecodeError: bad"
    assert last_line("\n") == "nothing was said"


def test_a_judge_client_that_a_broken_reply_ends_is_a_row_that_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    every_reply = Scenario("spoiled", (1.0,), rpm=6000, faults=Faults(malformed=1.0), latency_ms=1.0)
    broken = run(Entry(every_reply, "sdk", sys.executable, 3))
    assert isinstance(broken, Broken)
    assert "JSONDecodeError" in broken.how
    assert "Traceback" in capsys.readouterr().err
    (row,) = compared([broken])
    assert (row.theirs, row.peer, row.ended) == (None, "openai SDK", broken.how)


@pytest.mark.parametrize("asked", [4_000, 10_000_000])
def test_the_benchmark_of_the_reducer_has_as_many_verdicts_as_it_says(asked: int, tmp_path: Path) -> None:
    truth = truth_of(asked)
    cells = len(truth.domains) * len(truth.arms) * len(truth.seeds)
    assert 2 * 2 * cells * truth.num_questions * truth.samples == asked
    if asked < 10_000:
        write_run(Store(str(tmp_path)), truth)
        assert Store(str(tmp_path)).read_rows(Kind.VERDICTS, columns=["key"]).num_rows == asked


def test_without_a_gpu_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as ended:
        need_gpus("benchmarks.gpu_memory")
    assert ended.value.code == LACKING
    assert capsys.readouterr().err.count("\n") == 1


# README's table ----------------------------------------------------------------------------------------------------


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def test_every_result_is_in_the_table_of_the_readme_and_no_other() -> None:
    assert {row.result for row in readme.measured()} == {path.name for path in RESULTS.glob("*.json")}


@pytest.mark.parametrize("row", readme.measured(), ids=lambda row: row.what[:40])
def test_figures_and_commands_of_the_readme_are_those_of_the_result(row: readme.Figures) -> None:
    held = list(leaves(json.loads((RESULTS / row.result).read_text())))
    assert row.command in {one for one in held if isinstance(one, str)}
    assert ("H100" in row.where) == ("h100" in row.result)
    numbers = [one for one in held if isinstance(one, int | float)]
    figures = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?!\w)", f"{row.emray} {row.beside}")
    assert figures
    for figure in figures:
        places = len(figure.partition(".")[2])
        assert float(figure.replace(",", "")) in {round(number, places) for number in numbers}, figure
