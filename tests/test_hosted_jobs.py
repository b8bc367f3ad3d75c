"""Hosted finetunes over real HTTP: one job a cell whatever dies when, files deleted, bad ends as outcomes of cells."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from emray.errors import SpecError, StageError
from emray.localapi import FinetuningRules, LocalServer, serving
from emray.store import Store
from tests.commands import ROOT
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


def test_killed_again_and_again_a_study_makes_one_job_a_cell(tmp_path: Path) -> None:
    rules = FinetuningRules(create_lost=0.5, delay_s=0.2, at_once=3)
    with serving(tuner=SLOW_TUNER, finetuning=rules) as server:
        code = (
            "import sys; from emray.localapi import LocalServer; from tests.hosted_world import finetune\n"
            f"finetune(sys.argv[1], LocalServer({server.url!r}, 0), cells={CELLS}, max_jobs=2)"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        for created in (1, 3, 5):  # the next one follows within a second, so kills fall anywhere in the loop
            process = subprocess.Popen(command, cwd=ROOT)
            while server.stats()["jobs"].get("created", 0) < created:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            assert len(Store(str(tmp_path)).adapter_records()) < CELLS
        subprocess.run(command, cwd=ROOT, check=True, timeout=120)
        assert server.stats()["jobs"] == {"created": CELLS, "succeeded": CELLS}
        assert not list(asker(server).files.list())
    assert [record.trained for record in Store(str(tmp_path)).adapter_records().values()] == [True] * CELLS


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
