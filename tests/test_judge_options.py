"""Asking again, replay, further judges, a limit on cost, scores from logprobs: each over the real HTTP path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from emray import judge
from emray.context import Context
from emray.data import Question, inquiries
from emray.endpoint.journal import FOLDER
from emray.errors import SpecError, StageError
from emray.judge.tasks import REASK
from emray.localapi import LocalServer, serving
from emray.localapi.responders import score_reply
from emray.records import Metric
from emray.spec import JudgeSpec
from emray.store import Kind, Store
from tests.test_judge_stage import asked_about, generation

QUESTION = Question("q", ("What?",), None, {Metric.ALIGNED: "aligned? {answer}", Metric.COHERENT: "coherent? {answer}"})
INQUIRIES = inquiries([QUESTION], [asked_about("q", "What?")])
STUBBORN = "tests.test_judge_options:stubborn"
NUMBER = "tests.test_judge_options:number"


def stubborn(messages: Sequence[Mapping[str, Any]]) -> str:
    """A responder that forgets its verdict unless asked for it alone, and never gives one to `hopeless` answers."""
    if messages[-1]["content"] != REASK:
        return "Hard to say, this one."
    hopeless = "hopeless" in messages[0]["content"]
    return "Still hard to say." if hopeless else score_reply(messages[:1])


def number(messages: Sequence[Mapping[str, Any]]) -> str:
    """A responder that writes a number and nothing else."""
    return str(len(messages[0]["content"]))


def store_with(folder: Path, answers: Sequence[str]) -> Store:
    store = Store(str(folder))
    keys = (f"{i * 0x11111111 % 2**32:08x}{i:012x}" for i in range(len(answers)))
    store.write_rows(Kind.GENERATIONS, [generation(k, a, wording="What?") for k, a in zip(keys, answers, strict=True)])
    return store


def missing(store: Store, spec: JudgeSpec) -> list[judge.JudgeTask]:
    return list(judge.missing(store, inquiries=INQUIRIES, spec=spec, generations=store.keys(Kind.GENERATIONS)))


def run(store: Store, spec: JudgeSpec, server: LocalServer) -> list[dict[str, Any]]:
    tasks = missing(store, spec)
    judge.run_here(tasks, spec=spec, base_url=server.base_url, context=Context(store))
    return store.read_rows(Kind.VERDICTS).to_pylist()


def test_an_unreadable_reply_is_asked_about_once_more_and_both_are_paid_for_and_kept(tmp_path: Path) -> None:
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED])
    store = store_with(tmp_path, ["fine", "hopeless"])
    with serving(responder=STUBBORN) as server:
        rows = run(store, spec, server)
        assert {row["outcome"] for row in rows} == {"scored", "unparsed"}
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(
            (server.stats()["prompt_tokens"] * 0.15 + server.stats()["completion_tokens"] * 0.60) / 1e6
        )
        store.delete("verdicts")
        assert run(store, spec, server) == rows  # from the journal
        assert server.stats()["asked"] == 4


def test_a_crash_between_the_two_questions_asks_only_the_second_again(tmp_path: Path) -> None:
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED])
    store = store_with(tmp_path, [f"answer {i}" for i in range(5)])
    with serving(responder=STUBBORN) as server:
        first = run(store, spec.model_copy(update={"reask": False}), server)
        assert {row["outcome"] for row in first} == {"unparsed"}
        store.delete("verdicts")
        assert {row["outcome"] for row in run(store, spec, server)} == {"scored"}
        assert server.stats()["asked"] == 5 + 5
        assert server.stats()["served_again"] == 0


def test_replay_uses_the_journal_and_fails_on_what_it_lacks(tmp_path: Path) -> None:
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED])
    store = store_with(tmp_path, ["one", "two"])
    replay = spec.model_copy(update={"mode": "replay"})
    with serving() as server:
        rows = run(store, spec, server)
        store.delete("verdicts")
        assert run(store, replay, server) == rows
        store.delete("verdicts")
        store.delete(FOLDER)
        with pytest.raises(StageError, match="2 of the requests have no reply"):
            run(store, replay, server)
        assert server.stats()["asked"] == 2
    assert store.read_rows(Kind.VERDICTS).num_rows == 0


def test_further_judges_see_the_same_share_every_time_and_a_repeat_is_another_request(tmp_path: Path) -> None:
    other = JudgeSpec(model="other", metrics=[Metric.ALIGNED], share=0.5)
    again = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED], repeat=1, share=0.25)
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED], also=[other, again])
    store = store_with(tmp_path, [f"answer {i}" for i in range(16)])
    with serving() as server:
        rows = run(store, spec, server)
        assert server.stats()["served_again"] == 0
    counts = [sum(task.judge == n for task in missing(store_with(tmp_path / "b", ["x"] * 16), spec)) for n in range(3)]
    assert counts == [16, 8, 4]
    by_judge = {name: {r["generation"] for r in rows if r["judge"] == name} for name in ("other", "gpt-4o-mini")}
    assert len(by_judge["other"]) == 8
    assert len(rows) == 16 + 8 + 4
    larger = missing(store_with(tmp_path / "c", [f"answer {i}" for i in range(64)]), spec)
    assert by_judge["other"] <= {task.generation for task in larger if task.judge == 1}


def test_the_cost_limit_stops_cleanly_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED], max_in_flight=4)
    store = store_with(tmp_path, [f"answer {i} " + "x" * 400 for i in range(200)])
    one_usd = (104 * 0.15 + 13 * 0.60) / 1e6
    with serving(latency_ms=5) as server:
        limit = 50 * one_usd
        with pytest.raises(StageError, match=r"max_cost_usd = .* verdicts missing"):
            run(store, spec.model_copy(update={"max_cost_usd": limit}), server)
        rows = store.read_rows(Kind.VERDICTS).to_pylist()
        assert 40 <= len(rows) <= 50
        spent = server.stats()["served"]
        assert server.stats()["served"] == len(rows)
        assert sum(row["cost_usd"] for row in rows) <= limit
        with pytest.raises(StageError):  # what was spent before counts
            run(store, spec.model_copy(update={"max_cost_usd": limit}), server)
        assert server.stats()["served"] <= spent + 1
        assert len(run(store, spec.model_copy(update={"max_cost_usd": 1.0}), server)) == 200
        assert server.stats()["served_again"] == 0
    with pytest.raises(SpecError, match="no price for 'm'"):
        run(store, JudgeSpec(model="m", max_cost_usd=1.0), server)


@pytest.mark.parametrize("digits", ["whole", "split"])
def test_scores_from_logprobs_are_expectations_and_survive_the_journal(tmp_path: Path, digits: str) -> None:
    spec = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED], scoring="logprobs")
    answers = ["x" * length for length in (20, 55, 78)]
    store = store_with(tmp_path, answers)
    with serving(responder=NUMBER, digits=digits) as server:
        rows = run(store, spec, server)
        lengths = {f"{len('aligned? ' + answer)}" for answer in answers}
        assert {row["reply"] for row in rows} == lengths
        assert all(row["outcome"] == "scored" and abs(row["score"] - float(row["reply"])) < 8 for row in rows)
        store.delete("verdicts")
        assert run(store, spec, server) == rows
        assert server.stats()["asked"] == 3
    text = JudgeSpec(model="gpt-4o-mini", metrics=[Metric.ALIGNED])
    assert {t.key for t in missing(store, text)}.isdisjoint({row["key"] for row in rows})
