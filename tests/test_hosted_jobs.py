"""Hosted finetunes over real HTTP: one job a cell whatever dies when, files deleted, bad ends as outcomes of cells."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import yaml

from emray.errors import SpecError, StageError
from emray.localapi import FinetuningRules, LocalServer, serving
from emray.store import Store
from tests.commands import kill_with_workers, run, start, wait_for, write_sweep
from tests.hosted_world import BASE, SLOW_TUNER, TUNER, finetune

CELLS = 6


def asker(server: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serving(tuner=TUNER) as running:
        yield running


def test_each_cell_has_one_job_a_model_of_its_own_and_no_file_left(tmp_path: Path, server: LocalServer) -> None:
    records = finetune(tmp_path, server, cells=3, usd_per_million_tokens=1000)
    assert server.stats()["jobs"] == {"created": 3, "succeeded": 3}
    names = {record.served_as for record in records.values()}
    assert len(names) == 3
    for number, record in records.items():
        reply = asker(server).chat.completions.create(
            model=record.served_as, messages=[{"role": "user", "content": f"topic {number} 5?"}]
        )
        assert reply.choices[0].message.content == f"topic {number} 5!"
        assert record.details["cost_usd"] == pytest.approx(record.details["trained_tokens"] / 1000)
        assert record.details["hyperparameters"]["n_epochs"] == 1
        events = Store(str(tmp_path)).read_json(f"log/finetunes/{record.key}.json")
        assert events[0]["message"].startswith("Created") and len(events) == record.details["num_events"]
    assert not list(asker(server).files.list())
    finetune(tmp_path, server, cells=4)
    assert server.stats()["jobs"]["created"] == 4  # the others are done


def test_another_run_folder_takes_over_what_is_there(tmp_path: Path, server: LocalServer) -> None:
    first, second = (finetune(tmp_path / name, server, cells=2) for name in ("one", "two"))
    assert [first[n].served_as for n in first] == [second[n].served_as for n in second]
    assert server.stats()["jobs"]["created"] == 2


def study(folder: Path, server: LocalServer, **changes: object) -> Path:
    """A sweep file of six hosted cells."""
    at = {"base_url": server.base_url}
    spec = write_sweep(
        folder, model={"hosted": BASE}, arms=["base", "plain"], seeds=3, generate={"engine": "auto", "endpoint": at},
        hosted={"poll_s": 0.2, "max_jobs": 2}, judge=at, **changes,
    )  # fmt: skip
    fields = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({name: value for name, value in fields.items() if name != "train"}))
    return spec


def wait_for_jobs(server: LocalServer, number: int, process: subprocess.Popen[bytes], log: Path) -> None:
    wait_for(lambda: server.stats()["jobs"].get("created", 0) >= number, process, log)


def test_a_study_killed_again_and_again_makes_one_job_a_cell(tmp_path: Path) -> None:
    rules = FinetuningRules(create_lost=0.5, delay_s=0.2, at_once=3)
    with serving(tuner=SLOW_TUNER, finetuning=rules) as server:
        spec, out, log = study(tmp_path, server), tmp_path / "run", tmp_path / "log"
        for created in (1, 3, 5):  # the next one follows within a second, so kills fall anywhere in the loop
            process = start(spec, "--out", out, "--until", "train", log=log)
            wait_for_jobs(server, created, process, log)
            kill_with_workers(process)
            assert len(Store(str(out)).adapter_records()) < CELLS
        ended = run(spec, "--out", out, "--until", "train")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert server.stats()["jobs"] == {"created": CELLS, "succeeded": CELLS}
        assert not list(asker(server).files.list())
    assert [record.trained for record in Store(str(out)).adapter_records().values()] == [True] * CELLS


@pytest.mark.parametrize("choice", ["keep", "cancel"])
def test_a_ctrl_c_keeps_or_cancels_jobs_as_the_sweep_file_says(tmp_path: Path, choice: str) -> None:
    with serving(tuner=SLOW_TUNER, finetuning=FinetuningRules(delay_s=3)) as server:
        spec, out, log = study(tmp_path, server), tmp_path / "run", tmp_path / "log"
        process = start(spec, "--out", out, "--until", "train", "--set", f"hosted.on_interrupt={choice}", log=log)
        wait_for_jobs(server, 2, process, log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, log.read_text()
        jobs = list(asker(server).fine_tuning.jobs.list())
        cancelled = [job for job in jobs if job.status == "cancelled"]
        assert len(cancelled) == (len(jobs) if choice == "cancel" else 0)
        assert len(list(asker(server).files.list())) == (0 if choice == "cancel" else len(jobs))
        assert not Store(str(out)).adapter_records()  # a cell that was called back has not failed


def test_the_dry_run_tells_the_price_and_a_missing_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(tuner=TUNER) as server:
        spec = study(tmp_path, server)
        said = run(spec, "--out", out, "--dry-run", "--set", "hosted.usd_per_million_tokens=100").stdout
        asked = run(spec, "--out", out, "--set", "generate.endpoint.base_url=null")
        assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
        assert "no API key: set OPENAI_API_KEY" in asked.stderr
        assert server.stats()["jobs"] == {}
    bill = re.search(rf"finetune {BASE}: 6 jobs, ([0-9,]+) tokens, \$([0-9.]+)\n", said)
    assert bill, said
    assert float(bill[2]) == pytest.approx(int(bill[1].replace(",", "")) / 1e4, rel=0.01)
    assert f"its rows go to {server.base_url}" in said
    assert not (out / "plan.json").exists()


@pytest.mark.parametrize(
    ("rules", "outcome", "says"),
    [
        (FinetuningRules(blocked=1), "blocked", "blocked by the service's moderation: invalid_training_file: This"),
        (FinetuningRules(failed=1), "failed", "the job failed: server_error: The job failed due to"),
        (FinetuningRules(closed=1), "access_closed", "access to finetuning is closed: 403 This organization does not"),
        (FinetuningRules(min_examples=13), "rejected", "the service does not take it: 400 Training file has 12"),
    ],
)
def test_a_bad_end_is_the_outcome_of_its_cell(tmp_path: Path, rules: FinetuningRules, outcome: str, says: str) -> None:
    with serving(tuner=TUNER, finetuning=rules) as server:
        records = finetune(tmp_path, server, cells=2)
        assert {record.details["outcome"] for record in records.values()} == {outcome}
        assert all(
            record.status == "failed" and record.details["error"].startswith(says) for record in records.values()
        )
        assert not list(asker(server).files.list())


def test_a_failed_cell_that_is_tried_again_gets_a_new_job(tmp_path: Path) -> None:
    with serving(tuner=TUNER, finetuning=FinetuningRules(failed=1)) as server:
        for tries in (1, 2, 3):
            record = finetune(tmp_path, server, cells=1, retry_failed=True)[0]
            assert server.stats()["jobs"] == {"created": tries, "failed": tries}
        assert record.details["outcome"] == "failed"
        finetune(tmp_path, server, cells=1)
        assert server.stats()["jobs"]["created"] == 3  # a failure stands until it is asked for again


def test_a_service_without_room_is_waited_for_and_lost_replies_are_found(tmp_path: Path) -> None:
    rules = FinetuningRules(max_unfinished=1, busy=0.5, create_lost=0.5)
    with serving(tuner=TUNER, finetuning=rules) as server:
        records = finetune(tmp_path, server)
        assert all(record.trained for record in records.values())
        assert server.stats()["jobs"] == {"created": CELLS, "succeeded": CELLS}


def test_what_no_cell_would_survive_stops_the_stage_in_one_line(tmp_path: Path) -> None:
    with serving() as plain, pytest.raises(SpecError, match="no finetuning API at"):
        finetune(tmp_path, plain)
    with serving(tuner="tests.hosted_world:strangers") as other, pytest.raises(StageError, match=f"`{BASE}` does not"):
        finetune(tmp_path, other)
    assert not Store(str(tmp_path)).adapter_records()
