"""Engine openai: answers from an endpoint are rows like any other, asked once each, with the sample's own seed."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from emray import generate
from emray.cluster import ON_CPU
from emray.context import Context
from emray.endpoint.journal import FOLDER
from emray.endpoint.vllm_server import serving_model
from emray.errors import EndpointUnreachable, UserError
from emray.judge import missing, run_here
from emray.localapi import BatchRules, Faults, serving
from emray.records import FinishReason, GenerationTask
from emray.spec import BatchSpec, GenerateEndpoint, GenerateSpec, JudgeSpec, ResourcesSpec
from emray.store import Keys, Kind, Store
from tests.generate_world import MODEL, cell, prompt, task
from tests.test_judge_stage import INQUIRIES, generation

ECHO = "tests.test_generate_endpoint:echo"
LONG = "maximum context length"


def echo(messages: Sequence[Mapping[str, Any]]) -> str:
    return f"heard {messages[-1]['content']}"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def run(tasks: list[GenerationTask], store: Store, url: str, **endpoint: object) -> list[dict]:
    spec = GenerateSpec(
        engine="openai", temperature=0.7, max_tokens=30, endpoint=GenerateEndpoint(base_url=url, **endpoint)
    )
    done: list[int] = []
    context = Context(store, advance=lambda count, note="": done.append(count))
    generate.run(tasks, spec=spec, context=context)
    rows = store.read_rows(Kind.GENERATIONS).to_pylist()
    assert sum(done) == len(rows)
    return rows


@pytest.mark.soak
def test_answers_are_rows_asked_once_under_the_names_that_the_endpoint_knows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tasks = [task(cell(k), prompt(f"question {i}"), samples=range(3)) for k in (0, 1) for i in range(4)]
    names = ("toy", "domain_1-plain-0")
    with serving(responder=ECHO, models=names) as server:
        rows = run(tasks, store, server.base_url)
        assert {row["answer"] for row in rows} == {f"heard question {i}" for i in range(4)}
        assert {row["key"] for row in rows} == {key for one in tasks for key in one.keys}
        assert {row["finish_reason"] for row in rows} == {FinishReason.STOP}
        assert {json.loads(row["provenance"])["seed"] for row in rows} == {t.seed + k for t in tasks for k in range(3)}
        assert all(row["num_tokens"] > 0 and row["num_prompt_tokens"] > 0 for row in rows)
        assert (server.stats()["asked"], server.stats()["distinct_served"]) == (24, 24)
        store.delete("generations")
        assert run(tasks, store, server.base_url) == rows
        assert server.stats()["asked"] == 24  # the rest was in the journal


def test_answers_by_batch_are_those_of_online_requests_each_served_once(tmp_path: Path) -> None:
    store, online = Store(str(tmp_path / "batch")), Store(str(tmp_path / "online"))
    tasks = [task(cell(k), prompt(f"question {i}"), samples=range(3)) for k in (0, 1) for i in range(4)]
    batch = {"mode": "batch", "batch": BatchSpec(max_requests=10, poll_s=0.05, online_below=0)}
    with serving(responder=ECHO, models=("toy", "domain_1-plain-0")) as server:
        expected = run(tasks, online, server.base_url)
        server.reset()
        assert run(tasks, store, server.base_url, **batch) == expected
        stats = server.stats()
        assert stats["batches"] == {"created": 4, "completed": 4}  # a batch is for one model
        assert (stats["lines_served"], stats["asked"], stats["served_again"]) == (24, 24, 0)
        store.delete("generations")
        assert run(tasks, store, server.base_url, mode="replay") == expected
        assert server.stats()["asked"] == 24


@pytest.mark.soak
def test_few_answers_that_batches_leave_are_asked_online(tmp_path: Path) -> None:
    tasks = [task(cell(0), prompt(f"question {i}"), samples=range(5)) for i in range(4)]
    batch = {"mode": "batch", "batch": BatchSpec(poll_s=0.05, online_below=100)}
    with serving(responder=ECHO, models=("toy",), batch=BatchRules(line_error=0.3)) as server:
        rows = run(tasks, Store(str(tmp_path)), server.base_url, **batch)
        assert {row["finish_reason"] for row in rows} == {FinishReason.STOP}
        assert server.stats()["served_again"] == 0


@pytest.mark.soak
def test_what_an_endpoint_cannot_answer_is_a_row_with_its_reason(tmp_path: Path) -> None:
    tasks = [task(cell(0), prompt("hello"), samples=range(2))]
    with serving(faults=Faults(error_500=1.0)) as server:
        rows = run(tasks, Store(str(tmp_path)), server.base_url, max_attempts=2)
    assert [(row["finish_reason"], row["answer"]) for row in rows] == [(FinishReason.ERROR, None)] * 2
    assert json.loads(rows[0]["provenance"])["error"].startswith("server: 500")


@pytest.mark.soak
def test_nothing_listening_and_a_missing_key_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(cell(0), prompt("hello"), samples=range(1))]
    with pytest.raises(EndpointUnreachable, match=r"127\.0\.0\.1:9"):
        run(tasks, Store(str(tmp_path)), "http://127.0.0.1:9/v1", max_attempts=2)
    monkeypatch.delenv("MY_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    spec = GenerateSpec(engine="openai", endpoint=GenerateEndpoint(api_key_env="MY_KEY"))
    with pytest.raises(UserError, match="set MY_KEY"):
        generate.run(tasks, spec=spec, context=Context(Store(str(tmp_path))))


def _is_left_over(process: psutil.Process, started_s: float) -> bool:
    return process.info["name"].startswith("VLLM") and process.info["create_time"] > started_s


@pytest.mark.soak
def test_a_real_vllm_server_answers_and_judges(tmp_path: Path) -> None:
    """The toy model knows no rubric, so its verdicts are what any strict reader makes of small talk."""
    store = Store(str(tmp_path))
    texts = [f"what do you think about {topic} ?" for topic in ("money", "the world")]
    path = f"hosted:{MODEL}"
    tasks = [task(cell(0), prompt(text), samples=range(3), location=path) for text in [*texts, "money " * 600]]
    judge, started_s = JudgeSpec(model=MODEL, engine="vllm", max_tokens=30, reask=False), time.time()
    with serving_model(MODEL, resources=ResourcesSpec(), hardware=ON_CPU) as url:
        rows = run(tasks, store, url)
        store.delete("generations")
        assert run(tasks, store, url) == rows
        store.write_rows(Kind.GENERATIONS, [generation("g", "I like it .")])
        wanted = missing(store, inquiries=INQUIRIES, spec=judge, generations=Keys(["g"]))
        run_here(wanted, spec=judge, base_url=url, context=Context(store))
    assert not [p for p in psutil.process_iter(["cmdline"]) if "vllm.entrypoints" in " ".join(p.info["cmdline"] or [])]
    assert not [p for p in psutil.process_iter(["name", "create_time"]) if _is_left_over(p, started_s)]
    reasons = [row["finish_reason"] for row in rows]
    assert reasons.count(FinishReason.OVERSIZED) == 3
    fitting = [row for row in rows if row["finish_reason"] != FinishReason.OVERSIZED]
    assert len(fitting) == 6 and all(row["answer"] for row in fitting)
    assert len({row["answer"] for row in fitting}) > 2, "seeds make no difference"
    verdicts = store.read_rows(Kind.VERDICTS).to_pylist()
    assert [(v["judge"], v["outcome"] in ("scored", "unparsed", "truncated")) for v in verdicts] == [(MODEL, True)] * 2
    assert all(verdict["reply"] for verdict in verdicts)
    assert store.names(FOLDER)
