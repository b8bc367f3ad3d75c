"""Whatever can be known before money is spent is known then: keys, judges and their rubrics, models, disks."""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.reply import Answer, Reply, Request
from emray.endpoint.worker import Worker
from emray.errors import DataError, StageError, UserError
from emray.judge.rehearsal import rehearse
from emray.judge.tasks import follow_up, useless
from emray.localapi import serving
from emray.plan import PLAN, Plan, make_plan
from emray.records import verdict_key
from emray.spec import JudgeSpec, TrainSpec, load_sweep
from emray.stages import Ahead, check_keys
from emray.stages.ahead import _room
from emray.store import Store
from emray.sweep import main
from emray.toy import MODEL_DIR
from emray.train.foresight import foresee
from tests.commands import run, write_sweep


def planned(folder: Path, **changes: object) -> Plan:
    return make_plan(load_sweep(write_sweep(folder, **changes)), folder=folder, online=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield Store(str(tmp_path / "run"))


def test_a_key_that_is_missing_is_told_before_anything_is_written(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    plan = planned(tmp_path, judge={"model": "gpt-6-luna", "base_url": None})
    with pytest.raises(UserError, match="judge cannot be asked: no API key: set OPENAI_API_KEY"):
        check_keys(Ahead.of(plan, store, until="report"))
    check_keys(Ahead.of(plan, store, until="generate"))  # which asks no judge


def test_what_a_killed_run_left_damaged_is_mended_before_keys_are_looked_for(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    store.write_json(PLAN, dict(planned(tmp_path, judge={"model": "gpt-6-luna", "base_url": None}).document))
    store.write_bytes("generations/part-0.parquet", b"cut short")
    assert main([str(tmp_path / "small.yaml"), "--out", store.root]) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert "note: generations/part-0.parquet is damaged" in said
    assert "judge cannot be asked: no API key" in said
    assert store.read_bytes("damaged/generations/part-0.parquet") == b"cut short"


@pytest.mark.parametrize("flag", ["--pilot", None])
def test_a_judge_that_cannot_be_read_ends_the_command_before_training(tmp_path: Path, flag: str | None) -> None:
    with serving(responder="tests.judge_words:hm") as server:
        spec = write_sweep(tmp_path, judge={"base_url": server.base_url})
        result = run(spec, "--out", tmp_path / "run", *([flag] if flag else []))
        assert server.stats()["asked"] <= 4  # two rubrics, each asked again once
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert "nothing has been trained or paid for yet" in line
    assert "Hm, hard to say." in line
    assert "change judge.model, judge.max_tokens or the rubric" in line
    assert not (tmp_path / "run" / "adapters").exists()
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_judge_is_asked_every_rubric_at_first_then_one_new_request_and_none_twice(
    tmp_path: Path, store: Store
) -> None:
    plan = planned(tmp_path)
    with serving(responder="emray.toy.rules:reply") as server:
        spec = plan.sweep.judge.model_copy(update={"base_url": server.base_url})
        counts = []
        for _ in range(3):
            found = rehearse(store, inquiries=plan.inquiries, spec=spec, base_url=server.base_url)
            counts.append(len(found.verdicts))
        stats = server.stats()
    assert counts == [2, 1, 1]
    assert (stats["asked"], stats["distinct_served"], stats["served_again"]) == (4, 4, 0)
    assert "judge toy-judge answers in" in found.line
    assert found.num_tokens > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("another",)}, "refuses us: 404"),
        ({"api_key": "secret"}, "refuses us: 401"),
    ],
)
def test_a_judge_that_refuses_us_is_told_in_its_words(
    tmp_path: Path, store: Store, options: dict[str, Any], message: str
) -> None:
    plan = planned(tmp_path)
    with serving(responder="emray.toy.rules:reply", **options) as server, pytest.raises(StageError, match=message):
        rehearse(store, inquiries=plan.inquiries, spec=plan.sweep.judge, base_url=server.base_url)


def copy_of_toy(folder: Path) -> Path:
    return Path(shutil.copytree(MODEL_DIR, folder / "model"))


def job_of(folder: Path, model: Path) -> Any:
    plan = planned(folder, model=str(model))
    return next(iter(plan.jobs.values()))


def test_what_a_model_takes_is_known_without_reading_its_weights(tmp_path: Path) -> None:
    job = job_of(tmp_path, copy_of_toy(tmp_path))
    spec = TrainSpec(lora_rank=8, target_modules="all-linear")
    found = foresee(job, spec=spec)
    with safe_open(job.model_path + "/model.safetensors", "np") as weights:
        assert found.num_parameters == sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118
    assert found.adapter_bytes == found.num_trained * 4
    assert foresee(job, spec=spec.model_copy(update={"lora_rank": 16})).num_trained == 2 * found.num_trained
    assert foresee(job, spec=spec.model_copy(update={"strategy": "full"})).num_trained == found.num_parameters


def test_a_model_cut_off_and_modules_it_does_not_have_are_told_before_training(tmp_path: Path) -> None:
    model = copy_of_toy(tmp_path)
    job = job_of(tmp_path, model)
    with pytest.raises(DataError, match=r"train\.target_modules .* do not fit this model"):
        foresee(job, spec=TrainSpec(target_modules=["no_such_proj"]))
    weights = next(model.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"does not load: .*its header says"):
        foresee(job, spec=TrainSpec())
    weights.unlink()
    with pytest.raises(DataError, match="its folder holds no weights"):
        foresee(job, spec=TrainSpec())


def test_a_disk_too_small_for_the_study_is_told_with_both_sizes(tmp_path: Path) -> None:
    assert "free" in _room(tmp_path / "not" / "there", 1000, what="2 adapters")
    with pytest.raises(UserError, match=r"has .* free, and 2 adapters take about 1,048,576\.0 GiB"):
        _room(tmp_path, 2**50, what="2 adapters")


@pytest.mark.parametrize(("responder", "stops"), [("tests.judge_words:hm", True), ("tests.judge_words:refusal", False)])
def test_a_judge_whose_first_replies_cannot_be_read_is_asked_no_more(
    tmp_path: Path, store: Store, responder: str, stops: bool
) -> None:
    bodies = [{"model": "m", "messages": [{"role": "user", "content": f"answer {n}"}]} for n in range(200)]
    requests = [Request(verdict_key(body), body, "aligned") for body in bodies]
    with serving(responder=responder) as server:
        spec = JudgeSpec(model="m", base_url=server.base_url, max_in_flight=4)
        limits = RateLimits(None, None, 4)
        worker = Worker(
            Endpoint.at(server.base_url, spec=spec, model="m"),
            store=store,
            port=lambda: LocalPort(limits),
            terms=Terms(follow_up=follow_up(spec), useless=useless),
        )
        told = pytest.raises(StageError, match=r"the first 24 replies are all of no use: .*Hm, hard to say")
        with told if stops else nullcontext():
            worker.answers(requests)
        worker.close()
        assert server.stats()["asked"] <= (100 if stops else 200)  # of 200, or with what is asked again 400


def test_what_no_rubric_asked_for_is_of_use_whatever_it_says() -> None:
    answer = Answer((Reply("a poem", "stop", "m", 1, 1),))
    assert useless(Request("k", {}, "prompt"), answer) is None
    assert "a poem" in str(useless(Request("k", {}, "aligned"), answer))
