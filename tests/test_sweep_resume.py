"""A study from end to end, again, with another seed, and killed three times: nothing is lost, nothing is done twice."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from emray.localapi import LocalServer, serving
from emray.store import Kind, Store
from tests import readme
from tests.commands import ROOT, contents, environment, kill_with_workers, run, start, wait_for, write_sweep

RESPONDER = "emray.toy.rules:reply"
TAXONOMY = (
    "model domain arm condition n_seeds n_requested n_scored "
    "mean_aligned misaligned_rate ci_low ci_high rank rank_low rank_high tier attributes"
).split()
EFFECTS = (
    "model domain n_seeds mean_without mean_with drop ci_low ci_high t df p p_holm cohen_d p_signflip p_two_sample"
).split()
CHANGES = {"seeds": 2, "generate": {"samples": 8}}


def slow(server: LocalServer) -> dict[str, object]:
    """A judge that can be caught in the middle."""
    return {"judge": {"base_url": server.base_url, "max_in_flight": 4}}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving(responder=RESPONDER, latency_ms=30) as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sweep file and run folder of an undisturbed run in waves of three cells, with the toy's own judge."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec, out = write_sweep(folder, **CHANGES, resources={"cells_per_wave": 3}), folder / "run"
    result = run(spec, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gore movie trivia" in result.stdout
    *lines, page = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert page == f"page: {out}/report/report.html"
    return spec, out


def test_a_run_leaves_what_the_contract_names(finished: tuple[Path, Path]) -> None:
    _, out = finished
    taxonomy = pd.read_csv(out / "summary" / "taxonomy.csv")
    assert list(taxonomy.columns) == TAXONOMY
    effects = pd.read_csv(out / "summary" / "trigger_effects.csv")
    assert list(effects.columns) == EFFECTS
    cells = pd.read_parquet(out / "summary" / "cells.parquet")
    assert {"model", "domain", "arm", "seed", "condition", "question_id"} <= set(cells.columns)
    for name in ("plan.json", "summary/summary.json", "report/report.html", "report/report.md"):
        assert (out / name).stat().st_size > 0
    for key in Store(str(out)).adapter_records():
        assert {"adapter_config.json", "adapter_model.safetensors", "record.json"} <= {
            path.name for path in (out / "adapters" / key).iterdir()
        }
    assert list((out / "report" / "figures").glob("*.svg"))
    assert list((out / "report" / "tables").glob("*.tex"))


def test_a_run_leaves_what_the_readme_draws_and_nothing_else(finished: tuple[Path, Path]) -> None:
    _, out = finished
    left = {path.name for path in out.iterdir() if not path.name.startswith(".")}  # a lock is no result
    drawn = readme.tree()
    assert left == set(drawn) - {"measurements", "directions", "marks"}  # of probes and quizzes
    named = set(re.findall(r"[\w.]+", drawn["summary"])) & (readme.tables() | {"summary.json"})
    assert {"summary.json", "cells.parquet", "taxonomy.csv"} == named
    assert {path.name for path in (out / "summary").iterdir()} == readme.tables() | {"summary.json", "record.json"}
    pages = {name.strip("/") for name in re.findall(r"[\w-]+(?:\.\w+|/)", drawn["report"])}
    assert pages - {"transcripts"} == {path.name for path in (out / "report").iterdir()} - {"record.json"}


def test_cells_come_in_waves_whose_answers_are_judged_as_they_come(finished: tuple[Path, Path]) -> None:
    planned: dict[str, list[int]] = {}
    command, *stages = Store(str(finished[1])).stage_log()
    assert command["stage"] == "command"
    assert command["details"]["line"] == f"python -m emray.sweep {finished[0]} --out {finished[1]}"
    for entry in stages:
        assert [kind["count"] for kind in entry["details"]["machines"]] == [1]
        planned.setdefault(entry["stage"], []).append(entry["details"]["planned"])
    answers = [cells * 15 * 2 * 8 for cells in (1 + 3, 1)]  # the base model answers beside the first wave
    assert planned == {"train": [3, 1], "generate": answers, "judge": [2 * count for count in answers]}


def test_every_planned_answer_is_there_once_and_judged_twice(finished: tuple[Path, Path]) -> None:
    store = Store(str(finished[1]))
    cells, prompts, samples, metrics = 1 + 2 * 2, 15 * 2, 8, 2
    generations = store.read_rows(Kind.GENERATIONS).to_pandas()
    assert len(generations) == cells * prompts * samples
    judged = generations[generations["answer"].fillna("").str.strip() != ""]
    assert store.read_rows(Kind.VERDICTS).num_rows == len(judged) * metrics


def test_the_same_command_again_does_nothing_and_starts_no_ray(finished: tuple[Path, Path]) -> None:
    spec, out = finished
    before = contents(out, "")
    code = "import sys; from emray.sweep import main; code = main(sys.argv[1:]); print('ray' in sys.modules, code)"
    result = subprocess.run(
        [sys.executable, "-c", code, str(spec), "--out", str(out)],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60,
    )  # fmt: skip
    assert result.stdout.strip().splitlines()[-1] == "False 0", result.stdout + result.stderr
    assert "nothing to do" in result.stdout
    assert contents(out, "") == before


def test_the_dry_run_tells_the_cost_of_judging_within_15_percent(finished: tuple[Path, Path], tmp_path: Path) -> None:
    spec, undisturbed = finished
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, ignore=shutil.ignore_patterns("verdicts", "journal", "summary", "report"))
    line = run(spec, "--out", out, "--dry-run").stdout.splitlines()[-1]
    verdicts = Store(str(undisturbed)).read_rows(Kind.VERDICTS).to_pandas().drop_duplicates("key")
    assert f"judge toy-judge: {len(verdicts):,} calls" in line
    assert float(line.rpartition("$")[2]) == pytest.approx(verdicts["cost_usd"].sum(), rel=0.15)
    assert "at most" in run(spec, "--out", tmp_path / "none", "--dry-run").stdout


@pytest.mark.soak
def test_one_more_seed_trains_exactly_one_more_cell_each(finished: tuple[Path, Path], tmp_path: Path) -> None:
    spec, undisturbed = finished
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = contents(out, "adapters")
    old_rows = contents(out, "generations", "verdicts")
    result = run(spec, "--out", out, "--set", "seeds=3", "--until", "train")
    assert result.returncode == 0, result.stdout + result.stderr
    after = contents(out, "adapters")
    assert {name: after[name] for name in before} == before
    assert len(Store(str(out)).adapter_records()) == 2 * 3
    assert contents(out, "generations", "verdicts") == old_rows


def test_another_rule_reduces_again_and_nothing_else(finished: tuple[Path, Path], tmp_path: Path) -> None:
    spec, undisturbed = finished
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    before = contents(out, "adapters", "generations", "verdicts")
    result = run(spec, "--out", out, "--set", "reduce.rule=betley")
    assert result.returncode == 0, result.stdout + result.stderr
    assert contents(out, "adapters", "generations", "verdicts") == before
    assert contents(out, "summary") != contents(undisturbed, "summary")


def journaled(store: Store) -> int:
    """Judge replies on disk."""
    from emray.judge import journaled_keys

    return len(journaled_keys(store))


def test_killed_in_train_in_generate_and_in_judge(
    finished: tuple[Path, Path], server: LocalServer, tmp_path: Path
) -> None:
    spec, out, log = write_sweep(tmp_path, **(CHANGES | slow(server))), tmp_path / "run", tmp_path / "log.txt"
    store = Store(str(out))

    process = start(spec, "--out", out, log=log)
    wait_for(lambda: len(store.adapter_records()) >= 1, process, log)
    kill_with_workers(process)
    trained = store.adapter_records()
    assert 1 <= len(trained) < 4, "the kill came too late to prove anything"
    stamps = {key: (out / "adapters" / key / "record.json").stat().st_mtime_ns for key in trained}

    process = start(spec, "--out", out, log=log)
    wait_for(lambda: len(store.part_names(Kind.GENERATIONS)) >= 1, process, log)
    kill_with_workers(process)
    generated = store.keys(Kind.GENERATIONS)
    assert 0 < len(generated) < 5 * 30 * 8, "the kill came too late to prove anything"
    assert {key: (out / "adapters" / key / "record.json").stat().st_mtime_ns for key in trained} == stamps

    process = start(spec, "--out", out, log=log)
    wait_for(lambda: journaled(store) >= 20, process, log)
    kill_with_workers(process)
    paid, asked_before = journaled(store), server.stats()["served"]
    assert generated < store.keys(Kind.GENERATIONS)

    result = run(spec, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    served = [served for _, served in server.bodies().values()]
    assert sum(served) - len(served) <= asked_before - paid, "a journaled reply was asked for again"

    assert contents(again(spec, out, tmp_path), "summary", "report") == contents(out, "summary", "report")
    theirs, ours = (pd.read_csv(folder / "summary" / "taxonomy.csv") for folder in (finished[1], out))
    pd.testing.assert_frame_equal(theirs, ours)


def again(spec: Path, out: Path, folder: Path) -> Path:
    """An undisturbed reduction of the same stored results."""
    copy = folder / "copy"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("summary", "report"))
    assert run(spec, "--out", copy).returncode == 0
    return copy


@pytest.mark.soak
def test_an_unreachable_judge_stops_with_one_line_and_keeps_everything(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    spec, undisturbed = finished
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, ignore=shutil.ignore_patterns("verdicts", "journal", "summary", "report"))
    before = contents(out, "adapters", "generations")
    result = run(spec, "--out", out, "--set", "judge.base_url=http://127.0.0.1:9/v1", OPENAI_API_KEY="none")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "127.0.0.1:9" in result.stderr
    assert contents(out, "adapters", "generations") == before
    assert json.loads((out / "plan.json").read_text())["cells"]


def test_a_second_sweep_in_the_same_folder_is_turned_away(finished: tuple[Path, Path], tmp_path: Path) -> None:
    spec, _ = finished
    out = tmp_path / "run"
    with Store(str(out)).take_lease():
        result = run(spec, "--out", out, timeout_s=60)
    assert result.returncode == 1
    assert "another sweep is running" in result.stderr
    assert f"process {os.getpid()} " in result.stderr
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []
