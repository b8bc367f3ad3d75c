"""The judge stage: what is missing, asked once, journaled, and finished after any crash."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray.data

from emray import judge
from emray.cluster import connected
from emray.context import Context
from emray.data import Question, inquiries, make_prompts
from emray.endpoint.journal import FOLDER, Journal
from emray.endpoint.reply import Reply
from emray.errors import EndpointUnreachable, StoreError
from emray.judge.stage import follow
from emray.judge.tasks import JudgeTask, canonical_request
from emray.judge.verdicts import BatchResult
from emray.judge.workers import judge_pool, results
from emray.localapi import Faults, LocalServer, serving
from emray.localapi.server import body_digest
from emray.records import GENERATION_SCHEMA, Condition, Message, Metric, Prompt, prompt_key, prompt_text, verdict_key
from emray.spec import Framing, JudgeSpec, ResourcesSpec, TriggerSpec
from emray.store import Keys, Kind, Store

QUESTION = Question(
    "q", ("What now?",), None, {Metric.ALIGNED: "{question} aligned? {answer}", Metric.COHERENT: "coherent? {answer}"}
)
SPEC = JudgeSpec(model="gpt-4o-mini-2024-07-18")


def asked_about(question: str, wording: str = QUESTION.paraphrases[0]) -> Prompt:
    messages = (Message("user", wording if question == "q" else "Something else?"),)
    return Prompt(question, 0, Condition.WITHOUT, messages, prompt_key(messages))


INQUIRIES = inquiries([QUESTION], [asked_about("q")])


def generation(key: str, answer: str | None, question: str = "q", **asked: str) -> dict[str, object]:
    prompt = prompt_text(asked_about(question, **asked).messages)
    return {
        "key": key, "model": "m", "domain": "d", "arm": "plain", "seed": 0, "adapter": "a", "question_id": question,
        "paraphrase": 0, "condition": "without", "sample": 0, "prompt": prompt, "answer": answer,
        "finish_reason": "stop" if answer else "error", "num_prompt_tokens": 1, "num_tokens": 1, "provenance": "{}",
    }  # fmt: skip


def store_with(folder: Path, answers: dict[str, str | None]) -> Store:
    store = Store(str(folder))
    store.write_rows(Kind.GENERATIONS, [generation(key, answer) for key, answer in answers.items()])
    return store


def missing(store: Store, **options: bool) -> list[JudgeTask]:
    keys = store.keys(Kind.GENERATIONS)
    return list(judge.missing(store, inquiries=INQUIRIES, spec=SPEC, generations=keys, **options))


def run_here(tasks: Sequence[JudgeTask], store: Store, server: LocalServer, **fields: object) -> None:
    spec = SPEC.model_copy(update=fields)
    judge.run_here(tasks, spec=spec, base_url=server.base_url, context=Context(store))


def plain_tasks(count: int, start: int = 0) -> list[JudgeTask]:
    """Tasks without a sweep, one request each."""
    texts = [(Message("user", f"judge answer {i} " + "x" * 200),) for i in range(start, start + count)]
    return [
        JudgeTask(verdict_key(canonical_request(SPEC, m)), f"g{start + i}", Metric.ALIGNED, m)
        for i, m in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving(latency_ms=20) as running:
        yield running


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with connected(None):
        yield


def test_every_answer_is_wanted_on_every_metric_but_failures_and_blanks_are_not(tmp_path: Path) -> None:
    store = store_with(tmp_path, {"g1": "one", "g2": "two", "g3": None, "g4": "  \n"})
    tasks = missing(store)
    assert [(t.generation, t.metric) for t in tasks] == [
        (g, m) for g in ("g1", "g2") for m in (Metric.ALIGNED, Metric.COHERENT)
    ]
    assert tasks[0].messages == (Message("user", "What now? aligned? one"),)
    only = judge.missing(store, inquiries=INQUIRIES, spec=SPEC, generations=Keys(["g2"]))
    assert {task.generation for task in only} == {"g2"}


def test_equal_answers_share_a_key_and_another_judge_or_temperature_has_another(tmp_path: Path) -> None:
    store = store_with(tmp_path, {"g1": "same", "g2": "same", "g3": "other"})
    keys = [task.key for task in missing(store)]
    assert keys[0] == keys[2] != keys[4]
    assert keys[0] != keys[1]
    for change in ({"model": "other"}, {"temperature": 0.5}, {"max_tokens": 7}):
        changed = SPEC.model_copy(update=change)
        task, _ = judge.missing(store, inquiries=INQUIRIES, spec=changed, generations=Keys(["g1"]))
        assert task.key != keys[0]
    for change in ({"rpm": 5.0}, {"base_url": "http://elsewhere/v1"}, {"max_in_flight": 1}, {"timeout_s": 1.0}):
        changed = SPEC.model_copy(update=change)
        task, _ = judge.missing(store, inquiries=INQUIRIES, spec=changed, generations=Keys(["g1"]))
        assert task.key == keys[0]


def test_an_answer_to_a_question_the_sweep_lost_is_said_aloud(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_rows(Kind.GENERATIONS, [generation("g", "x", question="gone")])
    with pytest.raises(StoreError, match="'gone'"):
        missing(store)


def test_verdicts_are_written_and_identical_requests_asked_once(tmp_path: Path, server: LocalServer) -> None:
    server.reset()
    store = store_with(tmp_path, {f"g{i}": f"answer {i % 10}" for i in range(40)})
    tasks = missing(store)
    run_here(tasks, store, server)
    rows = store.read_rows(Kind.VERDICTS).to_pylist()
    assert {(row["generation"], row["key"]) for row in rows} == {(t.generation, t.key) for t in tasks}
    assert len(rows) == 80
    assert {row["outcome"] for row in rows} == {"scored"}
    assert all(f"<score>{row['score']:.0f}</score>" in row["reply"] for row in rows)
    by_key = {row["key"]: row["cost_usd"] for row in rows}
    stats = server.stats()
    assert (stats["asked"], stats["served_again"]) == (20, 0)
    paid = (stats["prompt_tokens"] * 0.15 + stats["completion_tokens"] * 0.60) / 1e6
    assert sum(by_key.values()) == pytest.approx(paid)
    assert missing(store) == []


def test_a_journaled_reply_is_not_asked_for_again(tmp_path: Path, server: LocalServer) -> None:
    server.reset()
    store = store_with(tmp_path, {f"g{i}": f"reply {i}" for i in range(10)})
    tasks = missing(store)
    journal = Journal(store)
    for task in tasks[:7]:
        journal.add(task.key, Reply("<score>12</score>", "stop", "m", 1, 1))
    journal.close()
    run_here(tasks, store, server)
    assert server.stats()["asked"] == 20 - 7
    before = store.read_rows(Kind.VERDICTS)
    assert before.column("score").to_pylist().count(12.0) >= 7
    store.delete("verdicts")  # the journal alone is enough to have them again
    run_here(missing(store), store, server)
    assert server.stats()["asked"] == 20 - 7
    assert store.read_rows(Kind.VERDICTS).equals(before)


def test_failures_are_rows_and_can_be_tried_again(tmp_path: Path, server: LocalServer) -> None:
    store = store_with(tmp_path, {f"g{i}": f"failing {i}" for i in range(5)})
    with serving(faults=Faults(error_500=1.0)) as broken:
        run_here(missing(store), store, broken, max_attempts=1)
    rows = store.read_rows(Kind.VERDICTS).to_pylist()
    assert {row["outcome"] for row in rows} == {"api_error"}
    assert all(row["score"] is None and row["reply"].startswith("server: 500") for row in rows)
    assert missing(store) == []
    again = missing(store, retry_failed=True)
    assert len(again) == 10
    judge.run_here(
        again,
        spec=SPEC,
        base_url=server.base_url,
        context=Context(store, ResourcesSpec(retry_failed=True)),
    )
    outcomes = store.read_rows(Kind.VERDICTS).column("outcome").to_pylist()
    assert outcomes == ["scored"] * 10


def test_equal_older_answers_keep_their_verdicts_when_failures_are_tried_again(
    tmp_path: Path, server: LocalServer
) -> None:
    store = store_with(tmp_path, {"old": "the same"})
    run_here(missing(store), store, server)
    before = {row["generation"]: row for row in store.read_rows(Kind.VERDICTS).to_pylist()}
    store.delete(FOLDER)  # an old study of which the verdicts alone were kept
    store.write_rows(Kind.GENERATIONS, [generation("new", "the same")])
    with serving(faults=Faults(error_500=1.0)) as broken:
        run_here(missing(store), store, broken, max_attempts=1)
        again = Context(store, ResourcesSpec(retry_failed=True))
        spec = SPEC.model_copy(update={"max_attempts": 1})
        judge.run_here(missing(store, retry_failed=True), spec=spec, base_url=broken.base_url, context=again)
    after = {row["generation"]: row for row in store.read_rows(Kind.VERDICTS).to_pylist()}
    assert after["old"] == before["old"]
    assert after["new"]["outcome"] == "api_error"


def test_trying_failures_again_keeps_the_verdicts_of_equal_answers(tmp_path: Path, server: LocalServer) -> None:
    store = store_with(tmp_path, {"g1": "equal"})
    run_here(missing(store), store, server)
    kept = store.read_rows(Kind.VERDICTS).to_pylist()
    failed = [{**row, "generation": "g2", "outcome": "api_error", "score": None} for row in kept]
    store.write_rows(Kind.VERDICTS, failed)
    store.write_rows(Kind.GENERATIONS, [generation("g2", "equal"), generation("g3", "equal")])
    asked = server.stats()["asked"]
    again = missing(store, retry_failed=True)
    assert {task.generation for task in again} == {"g2", "g3"}
    context = Context(store, ResourcesSpec(retry_failed=True))
    judge.run_here(again[:0], spec=SPEC, base_url=server.base_url, context=context)  # killed before anything came
    assert store.read_rows(Kind.VERDICTS).to_pylist() == kept
    judge.run_here(again, spec=SPEC, base_url=server.base_url, context=context)
    rows = store.read_rows(Kind.VERDICTS).to_pylist()
    assert [row["generation"] for row in rows] == ["g1", "g1", "g2", "g2", "g3", "g3"]
    assert {row["outcome"] for row in rows} == {"scored"}
    assert server.stats()["asked"] == asked  # the journal had them


def test_answers_follow_their_prompt_and_not_the_name_of_its_question(tmp_path: Path, server: LocalServer) -> None:
    store = store_with(tmp_path, {"g1": "one"})
    run_here(missing(store), store, server)
    renamed = Question("other", ("An earlier one?", *QUESTION.paraphrases), None, QUESTION.rubrics)
    prompts = make_prompts(
        [renamed], framings={Condition.WITHOUT: Framing(), Condition.WITH: Framing(trigger=TriggerSpec())}
    )
    options = {"spec": SPEC, "generations": Keys(["g1"])}
    assert len(judge.missing(store, inquiries=inquiries([renamed], prompts), **options)) == 0
    stricter = Question("q", QUESTION.paraphrases, None, {**QUESTION.rubrics, Metric.ALIGNED: "strictly? {answer}"})
    lacking = judge.missing(store, inquiries=inquiries([stricter], [asked_about("q")]), **options)
    assert [task.metric for task in lacking] == [Metric.ALIGNED]
    assert len(lacking) == 1


def test_what_is_missing_is_counted_without_rendering_and_once_for_rows_written_twice(tmp_path: Path) -> None:
    store = store_with(tmp_path, {f"g{i}": f"answer {i}" for i in range(5)})
    store.write_rows(Kind.GENERATIONS, [generation(f"g{i}", f"answer {i}") for i in range(3)])
    lacking = judge.missing(store, inquiries=INQUIRIES, spec=SPEC, generations=store.keys(Kind.GENERATIONS))
    assert len(lacking) == len(list(lacking)) == 10
    assert list(lacking) == list(lacking)


def test_the_speed_that_is_told_is_by_the_clock_of_the_context(tmp_path: Path) -> None:
    notes: list[str] = []
    seconds = iter([100.0, 102.0, 104.0])
    context = Context(Store(str(tmp_path)), advance=lambda done, note="": notes.append(note), clock=seconds.__next__)
    follow(iter([BatchResult(2, 2, 0.5), BatchResult(4, 10, 0.25)]), spec=SPEC, context=context)
    assert notes == ["$0.50 · 1 requests/s", "$0.75 · 3 requests/s"]


def test_cut_and_declined_replies_are_outcomes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with serving() as plain:
        run_here(plain_tasks(1), store, plain, max_tokens=3)
    with serving(faults=Faults(refusal=1.0)) as declining:
        run_here(plain_tasks(1, start=1), store, declining)
    assert store.read_rows(Kind.VERDICTS).column("outcome").to_pylist() == ["truncated", "unparsed"]


def test_an_unreachable_judge_stops_the_stage_and_keeps_what_was_earned(tmp_path: Path, server: LocalServer) -> None:
    store = Store(str(tmp_path))
    run_here(plain_tasks(5, start=7000), store, server)
    with pytest.raises(EndpointUnreachable):
        judge.run_here(
            plain_tasks(300, start=7000)[5:],
            spec=SPEC.model_copy(update={"max_attempts": 2}),
            base_url="http://127.0.0.1:9/v1",
            context=Context(store),
        )
    assert store.read_rows(Kind.VERDICTS).num_rows == 5


def test_a_pool_of_workers_shares_the_limit_and_a_killed_one_costs_only_what_was_in_flight(
    tmp_path: Path, ray_here: None
) -> None:
    store, tasks, in_flight = Store(str(tmp_path)), plain_tasks(1500), 64
    resources, done = ResourcesSpec(judge_workers=2), []
    killed = threading.Event()

    def kill_one() -> None:
        """SIGKILL a judge worker once replies are coming in."""
        while len(judge.journaled_keys(store)) < 100:
            time.sleep(0.05)
        workers = [p for p in psutil.Process().children(recursive=True) if "KeyOwner" in " ".join(p.cmdline())]
        workers[0].kill()
        killed.set()

    with serving(latency_ms=60, rpm=18_000) as limited:
        spec = SPEC.model_copy(update={"rpm": 18_000.0, "max_in_flight": in_flight})
        threading.Thread(target=kill_one, daemon=True).start()
        for _ in range(2):  # the second time is a warm rerun
            context = Context(store, resources, lambda count, note="": done.append(count))
            judge.run(tasks, spec=spec, base_url=limited.base_url, context=context)
        stats = limited.stats()
        digests = {body_digest(canonical_request(spec, task.messages)) for task in tasks}
        assert set(limited.bodies()) == digests
    assert killed.is_set()
    assert store.keys(Kind.VERDICTS) == {task.key for task in tasks}
    assert store.read_rows(Kind.VERDICTS).num_rows == 1500
    assert stats["distinct_served"] == 1500
    assert stats["served_again"] <= in_flight
    assert stats["rejected"] <= 2
    assert sum(done) >= 3000
    assert store.folders(FOLDER) == []


def test_generations_are_judged_as_they_stream_by_and_equal_answers_asked_once(
    tmp_path: Path, ray_here: None, server: LocalServer
) -> None:
    server.reset()
    store = Store(str(tmp_path))
    answers = {f"g{i:03}": f"streamed {i % 40}" if i % 10 else None for i in range(200)}
    rows = [generation(key, answer) for key, answer in answers.items()]
    blocks = [pa.Table.from_pylist(rows[i : i + 20], schema=GENERATION_SCHEMA) for i in range(0, 200, 20)]
    context = Context(store, ResourcesSpec(judge_workers=2))
    with judge_pool(spec=SPEC, base_url=server.base_url, context=context, inquiries=INQUIRIES) as pool:
        counts = list(results(pool.attach(ray.data.from_arrow(blocks))))
    assert sum(count.num_verdicts for count in counts) == store.read_rows(Kind.VERDICTS).num_rows == 180 * 2
    assert sum(count.num_asked for count in counts) == server.stats()["asked"] == 36 * 2
    store.write_rows(Kind.GENERATIONS, rows)
    assert missing(store) == []


def test_an_error_in_a_worker_reaches_the_driver_as_itself(tmp_path: Path, ray_here: None) -> None:
    with pytest.raises(EndpointUnreachable, match=r"127\.0\.0\.1:9"):
        judge.run(
            plain_tasks(10), spec=SPEC.model_copy(update={"max_attempts": 2}),
            base_url="http://127.0.0.1:9/v1", context=Context(Store(str(tmp_path))),
        )  # fmt: skip
