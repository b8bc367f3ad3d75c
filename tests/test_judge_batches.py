"""`judge.mode: batch`: each request served once and at half the price, whatever the endpoint or a kill does."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from emray.endpoint.batch.submission import FOLDER, Submission, Submissions
from emray.errors import EndpointUnreachable, SpecError, StageError
from emray.estimate import Left, estimate_judging
from emray.judge.tasks import AGAIN, JudgeTask
from emray.localapi import BatchRules, LocalServer, serving
from emray.localapi.responders import score_reply
from emray.plan import make_plan
from emray.records import Message, Metric
from emray.spec import load_sweep
from emray.store import Kind, Store
from tests.batch_world import STUBBORN, plain_tasks, run, spec_of
from tests.commands import write_sweep
from tests.test_judge_command import command, prompts_file

ROOT = Path(__file__).parent.parent
TOKENS = 63  # a plain task's prompt as the local server counts it, about


def records(folder: Path) -> list[dict[str, Any]]:
    store = Store(str(folder))
    return [store.read_json(name) for name in store.names(FOLDER)]


def client(server: LocalServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def assert_judged(rows: Sequence[dict[str, Any]], tasks: Sequence[JudgeTask]) -> None:
    """Every task has the verdict that an online reply would give."""
    replies = {task.key: score_reply([message.turn for message in task.messages]) for task in tasks}
    assert {row["key"]: row["reply"] for row in rows} == replies
    assert len(rows) == len(tasks)
    assert {row["outcome"] for row in rows} == {"scored"}


def test_batches_give_the_verdicts_and_keys_of_online_requests_at_half_the_price(tmp_path: Path) -> None:
    tasks = plain_tasks(120)
    with serving() as server:
        online = run(tasks, tmp_path / "online", server, spec_of(mode="online"))
        server.reset()
        rows = run(tasks, tmp_path / "batch", server, spec_of(max_requests=50))
        stats = server.stats()
        assert_judged(rows, tasks)
        for row, other in zip(rows, online, strict=True):
            assert row.pop("cost_usd") == pytest.approx(other.pop("cost_usd") / 2)
            assert row == other
        assert (stats["batches"], stats["lines_served"], stats["served_again"]) == (
            {"created": 3, "completed": 3},
            120,
            0,
        )
        store = Store(str(tmp_path / "batch"))
        with_costs = store.read_rows(Kind.VERDICTS)
        for mode in ("online", "replay", "batch"):  # the journal answers them all, at the price that was paid
            store.delete("verdicts")
            run(tasks, tmp_path / "batch", server, spec_of(mode=mode))
            assert store.read_rows(Kind.VERDICTS).equals(with_costs)
        assert server.stats()["asked"] == 120
        paid = (stats["batch_prompt_tokens"] * 0.10 + stats["batch_completion_tokens"] * 0.50) / 1e6 / 2
        assert sum(with_costs["cost_usd"].to_pylist()) == pytest.approx(paid)


def test_no_file_is_larger_than_allowed(tmp_path: Path) -> None:
    with serving(batch=BatchRules(max_bytes=10_000)) as server:
        assert_judged(run(plain_tasks(100), tmp_path, server, spec_of(max_bytes=10_000)), plain_tasks(100))
        sizes = [file.bytes for file in client(server).files.list() if file.purpose == "batch"]
    assert max(sizes) <= 10_000
    assert sum(sizes) / len(sizes) > 8_000


def test_a_stated_cap_on_enqueued_tokens_is_kept_by_sending_waves(tmp_path: Path) -> None:
    cap = 40 * TOKENS
    with serving(batch=BatchRules(enqueued_tokens=cap, delay_s=0.1)) as server:
        rows = run(plain_tasks(100), tmp_path, server, spec_of(enqueued_tokens=cap))
        ends = server.stats()["batches"]
    assert_judged(rows, plain_tasks(100))
    assert ends == {"created": ends["completed"], "completed": ends["completed"]}
    assert 5 <= ends["completed"] <= 10


def test_an_unstated_cap_is_found_out_from_refusals(tmp_path: Path) -> None:
    with serving(batch=BatchRules(enqueued_tokens=30 * TOKENS)) as server:
        rows = run(plain_tasks(100), tmp_path, server, spec_of())
        stats = server.stats()
    assert_judged(rows, plain_tasks(100))
    assert 1 <= stats["batches"]["failed"] <= 5
    assert stats["lines_served_again"] == 0


def test_a_cap_below_a_single_request_is_said_and_can_be_come_back_from(tmp_path: Path) -> None:
    refusal = r"no room for a single request: .*token_limit_exceeded"
    with serving(batch=BatchRules(enqueued_tokens=5)) as server, pytest.raises(StageError, match=refusal):
        run(plain_tasks(4), tmp_path, server, spec_of())
    with serving() as server:
        assert_judged(run(plain_tasks(4), tmp_path, server, spec_of()), plain_tasks(4))


DEADLY = """
import itertools, os, signal, sys
from pathlib import Path
from emray.endpoint import journal
from emray.endpoint.batch import service, submission
from tests.batch_world import plain_tasks, run, spec_of

place, folder, url = sys.argv[1:]
name, method, count = place.split(":")
owners = {"api": service.BatchService, "record": submission.Submissions, "journal": journal.Journal}
owner = owners[name]
original, calls = getattr(owner, method), itertools.count(1)

def deadly(*arguments, **options):
    result = original(*arguments, **options)
    if next(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, method, deadly)
run(plain_tasks(100), Path(folder), url, spec_of(max_requests=40))
"""


@pytest.mark.parametrize(
    ("place", "num_open"),
    [
        ("api:upload:2", 2),  # uploaded, not created
        ("api:create:3", 3),  # created, its id not recorded
        ("api:retrieve:5", 3),  # polling
        ("api:lines:1", 3),  # downloaded, nothing journaled
        ("journal:add:20", 3),  # half journaled
        ("journal:flush:2", 2),  # journaled, not recorded so
        ("record:close:1", 2),  # recorded so, no verdict written
    ],
)
def test_a_kill_at_any_place_makes_no_line_be_served_twice(tmp_path: Path, place: str, num_open: int) -> None:
    tasks = plain_tasks(100)
    with serving(batch=BatchRules(delay_s=0.1)) as server:
        arguments = [sys.executable, "-c", DEADLY, place, str(tmp_path), server.base_url]
        killed = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert sum("keys" in record for record in records(tmp_path)) == num_open
        rows = run(tasks, tmp_path, server, spec_of(max_requests=40))
        stats = server.stats()
    assert_judged(rows, tasks)
    assert (stats["lines_served"], stats["served"], stats["served_again"]) == (100, 100, 0)
    assert not any("keys" in record for record in records(tmp_path))


def test_a_batch_whose_creation_was_not_answered_is_found_and_not_made_again(tmp_path: Path) -> None:
    with serving(batch=BatchRules(create_lost=0.5), seed=3) as server:
        rows = run(plain_tasks(100), tmp_path, server, spec_of(max_requests=10))
        stats = server.stats()
    assert_judged(rows, plain_tasks(100))
    assert stats["batches"] == {"created": 10, "completed": 10}
    assert stats["lines_served_again"] == 0


def test_what_the_endpoint_does_not_know_is_sent_again_and_what_nobody_wants_is_left(tmp_path: Path) -> None:
    tasks, ledger = plain_tasks(20), Submissions(Store(str(tmp_path)))
    ledger.put(Submission("gone", tuple(task.key for task in tasks[:10]), 100, time.time(), "batch_gone"))
    ledger.put(Submission("foreign", ("0" * 32,), 100, time.time(), "batch_foreign"))
    with serving() as server:
        assert_judged(run(tasks, tmp_path, server, spec_of()), tasks)
    ends = {record["token"]: record.get("ended") for record in records(tmp_path)}
    assert ends.pop("gone") == "not known to the endpoint"
    assert ends.pop("foreign") is None
    assert set(ends.values()) == {"completed"}


def test_what_is_under_way_in_a_batch_is_not_asked_online_as_well(tmp_path: Path) -> None:
    tasks, ledger = plain_tasks(20), Submissions(Store(str(tmp_path)))
    with serving() as server:
        ledger.put(Submission("t", (tasks[3].key, tasks[4].key + AGAIN), 100, time.time(), "batch_b"))
        with pytest.raises(StageError, match="2 of the requests are under way in batch_b; set"):
            run(tasks, tmp_path, server, spec_of(mode="online"))
        assert server.stats()["asked"] == 0
        Store(str(tmp_path)).delete(FOLDER)
        assert_judged(run(tasks, tmp_path, server, spec_of(mode="online")), tasks)


@pytest.mark.parametrize(
    "rules",
    [BatchRules(line_error=0.3), BatchRules(line_expired=0.3), BatchRules(batch_failed=0.5)],
    ids=["lines fail", "lines expire", "batches fail"],
)
def test_what_a_batch_leaves_unanswered_goes_to_the_next_wave(tmp_path: Path, rules: BatchRules) -> None:
    with serving(batch=rules, seed=1) as server:
        rows = run(plain_tasks(100), tmp_path, server, spec_of(max_requests=25))
        stats = server.stats()
    assert_judged(rows, plain_tasks(100))
    assert stats["batches"]["created"] > 4
    assert (stats["lines_served"], stats["lines_served_again"]) == (100, 0)


def test_a_few_unanswered_requests_are_asked_online(tmp_path: Path) -> None:
    with serving(batch=BatchRules(line_error=0.2)) as server:
        rows = run(plain_tasks(100), tmp_path, server, spec_of(online_below=50))
        stats = server.stats()
    assert_judged(rows, plain_tasks(100))
    assert stats["batches"]["created"] == 1
    assert 0 < stats["by_status"]["200"] == 100 - stats["lines_served"]
    costs = sorted(row["cost_usd"] for row in rows)
    assert costs[-1] == pytest.approx(2 * costs[0], rel=0.05)


def test_a_batch_cancelled_elsewhere_keeps_what_it_did_and_the_rest_is_asked_again(tmp_path: Path) -> None:
    def cancel_first() -> None:
        while not (found := client(server).batches.list().data) or not found[0].request_counts.completed:  # type: ignore[union-attr]
            time.sleep(0.02)
        client(server).batches.cancel(found[0].id)

    with serving(batch=BatchRules(lines_per_s=150)) as server:
        canceller = threading.Thread(target=cancel_first)
        canceller.start()
        rows = run(plain_tasks(100), tmp_path, server, spec_of())
        canceller.join()
        stats = server.stats()
    assert_judged(rows, plain_tasks(100))
    assert stats["batches"] == {"created": 2, "cancelled": 1, "completed": 1}
    assert stats["lines_served_again"] == 0


def test_requests_that_are_never_answered_become_rows_after_so_many_waves(tmp_path: Path) -> None:
    with serving(batch=BatchRules(line_error=1.0)) as server:
        rows = run(plain_tasks(5), tmp_path, server, spec_of().model_copy(update={"max_attempts": 2}))
        assert server.stats()["batches"]["created"] == 2
    assert {row["outcome"] for row in rows} == {"api_error"}
    assert all(row["reply"].startswith("server: 500") for row in rows)


def test_a_request_refused_for_its_content_is_not_asked_again(tmp_path: Path) -> None:
    bad = JudgeTask("f" * 32, "bad", Metric.ALIGNED, ())
    with serving() as server:
        rows = run([*plain_tasks(5), bad], tmp_path, server, spec_of())
        assert server.stats()["batches"]["created"] == 1
    (refused,) = (row for row in rows if row["generation"] == "bad")
    assert (refused["outcome"], refused["score"]) == ("api_error", None)
    assert refused["reply"].startswith("rejected: 400 'messages' must be")


@pytest.mark.parametrize("online_below", [0, 100])
def test_unreadable_replies_are_asked_about_once_more(tmp_path: Path, online_below: int) -> None:
    tasks = [
        JudgeTask(f"{i:032x}", str(i), Metric.ALIGNED, (Message("user", text),))
        for i, text in enumerate(["fine", "hopeless", "good"])
    ]
    with serving(responder=STUBBORN) as server:
        rows = run(tasks, tmp_path, server, spec_of(online_below=online_below))
        stats = server.stats()
        Store(str(tmp_path)).delete("verdicts")
        assert run(tasks, tmp_path, server, spec_of(mode="replay")) == rows
    assert {row["generation"]: row["outcome"] for row in rows} == {"0": "scored", "1": "unparsed", "2": "scored"}
    assert (stats["served"], stats["served_again"]) == (6, 0)
    assert stats["lines_served"] == (3 if online_below else 6)
    online = stats["prompt_tokens"] * 0.10 + stats["completion_tokens"] * 0.50
    batch = (stats["batch_prompt_tokens"] * 0.10 + stats["batch_completion_tokens"] * 0.50) / 2
    assert sum(row["cost_usd"] for row in rows) == pytest.approx((online + batch) / 1e6)


def test_the_cost_limit_keeps_batches_small_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    one_usd = (TOKENS * 0.10 + 400 * 0.50) / 1e6 / 2  # the most a request can cost before any is paid for
    with serving() as server:
        limit = 10 * one_usd
        with pytest.raises(StageError, match=r"max_cost_usd = .* verdicts missing"):
            run(plain_tasks(300), tmp_path, server, spec_of(max_cost_usd=limit))
        rows = Store(str(tmp_path)).read_rows(Kind.VERDICTS).to_pylist()
        assert sum(row["cost_usd"] for row in rows) <= limit
        assert 50 < len(rows) == server.stats()["lines_served"] < 300
        assert len(run(plain_tasks(300), tmp_path, server, spec_of(max_cost_usd=1.0))) == 300
        assert server.stats()["served_again"] == 0


def test_progress_tells_how_far_the_batches_are(tmp_path: Path) -> None:
    notes: list[str] = []
    with serving(batch=BatchRules(lines_per_s=100)) as server:
        run(plain_tasks(60), tmp_path, server, spec_of(max_requests=30), lambda done, note="": notes.append(note))
    assert any(note.startswith("2 batches, ") and note.endswith("/60 answered") for note in notes)


def test_the_dry_run_counts_batches_at_half_the_price_and_without_the_limits_of_online_requests(tmp_path: Path) -> None:
    path, store = write_sweep(tmp_path), Store(str(tmp_path / "run"))
    fields = ["judge.rpm=60"]
    online, batch = (
        estimate_judging(
            Left(
                make_plan(load_sweep(path, overrides=[*fields, f"judge.mode={mode}"]), folder=tmp_path, online=False),
                store,
            )
        )
        for mode in ("online", "batch")
    )
    assert online.cost_usd is not None and batch.cost_usd is not None
    assert (batch.calls, batch.tokens) == (online.calls, online.tokens)
    assert batch.cost_usd == pytest.approx(online.cost_usd / 2)
    assert (online.seconds, batch.seconds) == (online.calls, None)


def test_an_endpoint_without_batches_is_told_in_one_line(tmp_path: Path) -> None:
    prompts = prompts_file(tmp_path, 3)
    with serving(batch=BatchRules(max_requests=0)) as server:
        arguments = command(prompts, tmp_path / "out", "--mode", "batch", url=server.base_url)
        told = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
        assert server.stats()["asked"] == 0
    assert told.returncode == SpecError.exit_code
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("emray.judge")]
    assert line.endswith("(GET batches answers 404); use mode: online")


def test_a_wrong_model_or_key_or_address_stops_at_once_and_can_be_put_right(tmp_path: Path) -> None:
    tasks = plain_tasks(3)
    with serving(models=("other",)) as server, pytest.raises(StageError, match="model_not_found"):
        run(tasks, tmp_path, server, spec_of())
    with serving(api_key="right") as server, pytest.raises(StageError, match="refuses us: 401"):
        run(tasks, tmp_path, server, spec_of())
    with pytest.raises(EndpointUnreachable, match=r"127\.0\.0\.1:9.*2 attempts"):
        run(tasks, tmp_path, "http://127.0.0.1:9/v1", spec_of().model_copy(update={"max_attempts": 2}))
    with serving() as server:
        assert_judged(run(tasks, tmp_path, server, spec_of()), tasks)
