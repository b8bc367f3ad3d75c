"""Ctrl-C and SIGTERM at every stage: soon over, nothing lost, nothing done twice, and a word on how to go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from emray.ending import GRACE_S
from emray.localapi import LocalServer, serving
from emray.store import Kind, Store
from tests.commands import ROOT, environment, run, start, wait_for, write_sweep

GO_ON = "stopped; run the same command to go on"
LIMIT_S = 10.0  # from the signal to the end
SPEC: dict[str, object] = {"seeds": 2, "generate": {"samples": 2}}
IN_FLIGHT = 4


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving(responder="emray.toy.rules:reply", latency_ms=60) as running:
        yield running


def stop(process: subprocess.Popen[bytes], log: Path, *, number: int) -> None:
    """Signal a command, look at its end."""
    family = psutil.Process(process.pid).children(recursive=True)
    began_s = time.monotonic()
    if number == signal.SIGINT:  # a terminal's goes to everything in the foreground
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number, log.read_text()
    assert time.monotonic() - began_s < LIMIT_S, log.read_text()
    _, alive = psutil.wait_procs(family, timeout=LIMIT_S)
    assert not alive
    said = log.read_text()
    assert said.count(GO_ON) == 1, said
    assert "Traceback" not in said
    assert "without a word" not in said


def stop_sweep(arguments: list[object], log: Path, *, number: int, when: Callable[[], bool]) -> None:
    process = start(*arguments, log=log, group=True)
    wait_for(when, process, log)
    stop(process, log, number=number)


def test_ctrl_c_while_cells_train_ends_the_sweep_and_keeps_the_cells_that_are_done(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    arguments: list[object] = [write_sweep(tmp_path, **SPEC), "--out", out, "--until", "train"]
    stop_sweep(arguments, log, number=signal.SIGINT, when=lambda: bool(records(out)))
    assert 0 < len(records(out)) < 4
    assert not (out / "lease.json").exists()


@pytest.mark.soak
def test_stopped_in_every_stage_and_run_again_a_sweep_ends_as_if_undisturbed(
    tmp_path: Path, server: LocalServer
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    spec = write_sweep(tmp_path, **SPEC, judge={"base_url": server.base_url, "max_in_flight": IN_FLIGHT})
    arguments: list[object] = [spec, "--out", out]

    stop_sweep(arguments, log, number=signal.SIGTERM, when=lambda: bool(records(out)))
    trained = records(out)
    stop_sweep(arguments, log, number=signal.SIGTERM, when=lambda: any(out.glob("generations/*.parquet")))
    assert trained.items() <= records(out).items()
    answers = Store(str(out)).read_rows(Kind.GENERATIONS)["key"].to_pylist()
    asked_so_far = server.stats()["served"]
    stop_sweep(arguments, log, number=signal.SIGINT, when=lambda: server.stats()["served"] > asked_so_far + 4)
    result = run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr

    assert trained.items() <= records(out).items()
    store = Store(str(out))
    in_the_end = store.read_rows(Kind.GENERATIONS)["key"].to_pylist()
    assert set(answers) <= set(in_the_end)
    assert len(in_the_end) == len(set(in_the_end)) == 5 * 15 * 2 * 2  # cells, questions, conditions, samples
    assert store.read_json("summary/summary.json")["counts"]["judged"] == len(in_the_end)
    assert server.stats()["served_again"] <= 2 * IN_FLIGHT  # what was under way at two of the signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_judge_command_that_is_stopped_keeps_its_replies(tmp_path: Path, server: LocalServer, number: int) -> None:
    prompts, log = tmp_path / "prompts.jsonl", tmp_path / "log"
    prompts.write_text("".join(f'{{"prompt": "{tmp_path.name} {n}"}}\n' for n in range(100)))
    command = [sys.executable, "-m", "emray.judge", str(prompts), "--model", "m", "--out", str(tmp_path / "out"),
               "--base-url", server.base_url, "--max-in-flight", str(IN_FLIGHT)]  # fmt: skip
    before = server.stats()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment(), process_group=0
        )
    wait_for(lambda: server.stats()["served"] > before["served"] + 10, process, log)
    stop(process, log, number=number)
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    assert len((tmp_path / "out" / "replies.jsonl").read_text().splitlines()) == 100
    assert json.loads(again.stdout)["asked"] <= 100 - 10
    assert server.stats()["served_again"] - before["served_again"] <= IN_FLIGHT


STUBBORN = """
import time
from emray.ending import Stopped, stoppable, tell_how_to_go_on
try:
    with stoppable():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("closing", flush=True)
            time.sleep(60)
except Stopped:
    tell_how_to_go_on()
"""


def test_a_second_ctrl_c_ends_a_command_that_takes_its_time_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - began_s < GRACE_S / 2
    assert process.stdout.read().count(GO_ON) == 1


SPEAKING = """
import os, sys
from emray.ending import last_word
with last_word("it died", to=2):
    if sys.argv[1] == "die":
        os._exit(1)  # as a library's core does
"""


@pytest.mark.parametrize(("how", "said"), [("die", "it died"), ("end", "")])
def test_the_last_word_is_said_by_a_process_that_dies_and_by_no_other(how: str, said: str) -> None:
    result = subprocess.run([sys.executable, "-c", SPEAKING, how], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.stderr.strip() == said


def records(out: Path) -> dict[str, int]:
    """When each cell was recorded, by adapter key."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("adapters/*/record.json")}
