"""Files and batches of the local server through the official client: what OpenAI documents is what it does."""

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import openai
import psutil
import pytest
from openai.types import Batch

from emray.errors import UserError
from emray.localapi import BatchRules, LocalServer, ServerConfig, serving
from emray.localapi.__main__ import _parser
from emray.localapi.completions import body_digest, count_prompt_tokens
from emray.localapi.responders import score_reply

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ENDS = ("failed", "completed", "expired", "cancelled")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving() as running:
        yield running


def client(server: LocalServer, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=5)


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": messages(text), **fields}


def line(custom_id: str, content: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    row = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": content or body(custom_id)}
    return row | fields


def jsonl(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in lines).encode()


def submit(asker: openai.OpenAI, content: bytes, **fields: Any) -> Batch:
    file = asker.files.create(file=("requests.jsonl", content), purpose="batch")
    return asker.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", **fields)


def finished(asker: openai.OpenAI, batch: Batch, timeout_s: float = 10) -> Batch:
    end_s = time.monotonic() + timeout_s
    while batch.status not in ENDS:
        assert time.monotonic() < end_s, batch
        time.sleep(0.02)
        batch = asker.batches.retrieve(batch.id)
    return batch


def results(asker: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(text) for text in asker.files.content(file_id).text.splitlines()]


def counts(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed


def codes(batch: Batch) -> list[tuple[str | None, int | None]]:
    assert batch.errors is not None and batch.errors.data is not None
    return [(error.code, error.line) for error in batch.errors.data]


def test_a_file_is_kept_as_it_came_listed_and_deleted(server: LocalServer) -> None:
    asker, content = client(server, "shelf"), jsonl([line("one")])
    file = asker.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(content), "requests.jsonl", "batch", "file")
    assert asker.files.retrieve(file.id) == file
    assert asker.files.content(file.id).read() == content
    assert [found.id for found in asker.files.list()] == [file.id]
    with pytest.raises(openai.NotFoundError):
        client(server, "stranger").files.content(file.id)
    assert asker.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        asker.files.retrieve(file.id)


def test_files_that_are_no_batch_input_or_too_large_are_refused(server: LocalServer) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client(server).files.create(file=("x.jsonl", b"x"), purpose="fine-tune")
    with serving(batch=BatchRules(max_bytes=1000)) as small:
        client(small).files.create(file=("x.jsonl", b"x" * 1000), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="1,001 bytes; 1,000 are allowed") as caught:
            client(small).files.create(file=("x.jsonl", b"x" * 1001), purpose="batch")
        assert caught.value.status_code == 413


def test_a_batch_answers_every_line_as_a_single_request_would_be_in_another_order(server: LocalServer) -> None:
    server.reset()
    asker = client(server)
    ids = [f"request {i}" for i in range(250)]
    batch = submit(asker, jsonl([line(name) for name in ids]), metadata={"emray": "digest"})
    assert batch.metadata == {"emray": "digest"}
    batch = finished(asker, batch)
    assert (batch.status, batch.model, batch.error_file_id, batch.errors) == ("completed", "m", None, None)
    assert counts(batch) == (250, 250, 0)
    reached = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert None not in reached
    assert list(reached) == sorted(reached)  # type: ignore[type-var]
    rows = results(asker, batch.output_file_id)
    names = [row["custom_id"] for row in rows]
    assert sorted(names) == sorted(ids)
    assert names != ids
    for row in rows:
        assert (row["response"]["status_code"], row["error"]) == (200, None)
        assert row["response"]["body"]["choices"][0]["message"]["content"] == score_reply(messages(row["custom_id"]))
    usages = [row["response"]["body"]["usage"] for row in rows]
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)
    stats = server.stats()
    assert stats["batches"] == {"created": 1, "completed": 1}
    assert (stats["lines_served"], stats["lines_served_again"], stats["lines_by_status"]) == (250, 0, {"200": 250})
    assert stats["batch_prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert stats["prompt_tokens"] == 0
    assert server.bodies()[body_digest(body("request 0"))] == [1, 1]


def test_what_was_served_before_is_served_again_and_counted_so(server: LocalServer) -> None:
    server.reset()
    asker = client(server)
    for _ in range(2):
        finished(asker, submit(asker, jsonl([line("a"), line("b")])))
    asker.chat.completions.create(**body("a"))
    stats = server.stats()
    assert (stats["lines_served"], stats["lines_served_again"]) == (4, 2)
    assert (stats["served"], stats["served_again"]) == (5, 3)


def test_a_batch_passes_through_its_states_at_its_pace() -> None:
    with serving(batch=BatchRules(delay_s=0.3, lines_per_s=100)) as slow:
        asker = client(slow)
        batch = submit(asker, jsonl([line(str(i)) for i in range(40)]))
        seen, done = [str(batch.status)], []
        while batch.status not in ENDS:
            batch = asker.batches.retrieve(batch.id)
            done.append(counts(batch)[1])
            if batch.status != seen[-1]:
                seen.append(str(batch.status))
            time.sleep(0.02)
    assert seen == ["validating", "in_progress", "finalizing", "completed"]
    assert done == sorted(done)
    assert len(set(done)) > 5


BAD_LINES: dict[str, tuple[bytes, list[tuple[str, int | None]]]] = {
    "nothing": (b"\n", [("empty_file", None)]),
    "not JSON": (b"{\n" + jsonl([line("a")]) + b"[]\n", [("invalid_json_line", 1), ("invalid_json_line", 3)]),
    "no custom_id": (jsonl([line("a"), line("b") | {"custom_id": None}]), [("missing_required_parameter", 2)]),
    "no body": (jsonl([line("a") | {"body": 5}]), [("missing_required_parameter", 1)]),
    "no model": (jsonl([line("a", {"messages": []})]), [("missing_required_parameter", 1)]),
    "GET": (jsonl([line("a", method="GET")]), [("invalid_method", 1)]),
    "another url": (jsonl([line("a", url="/v1/embeddings")]), [("url_mismatch", 1)]),
    "an id twice": (jsonl([line("a"), line("b"), line("a")]), [("duplicate_custom_id", 3)]),
    "two models": (jsonl([line("a"), line("b", body("b") | {"model": "n"})]), [("model_mismatch", 2)]),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_file_with_a_wrong_line_fails_as_a_whole_and_says_where(server: LocalServer, name: str) -> None:
    server.reset()
    content, expected = BAD_LINES[name]
    asker = client(server)
    batch = finished(asker, submit(asker, content))
    assert (batch.status, codes(batch)) == ("failed", expected)
    assert batch.output_file_id is None
    assert server.stats()["lines_served"] == 0


def test_too_many_lines_and_unknown_models_fail_the_batch() -> None:
    with serving(models=("m",), batch=BatchRules(max_requests=3)) as strict:
        asker = client(strict)
        many = finished(asker, submit(asker, jsonl([line(str(i)) for i in range(4)])))
        assert codes(many) == [("too_many_tasks", None)]
        other = finished(asker, submit(asker, jsonl([line("a", body("a") | {"model": "n"})])))
        assert codes(other) == [("model_not_found", None)]
        assert finished(asker, submit(asker, jsonl([line(str(i)) for i in range(3)]))).status == "completed"


def test_a_wrong_order_is_refused_at_once(server: LocalServer) -> None:
    asker = client(server)
    file = asker.files.create(file=("x.jsonl", jsonl([line("a")])), purpose="batch")
    with pytest.raises(openai.NotFoundError):
        asker.batches.create(input_file_id="file-x", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        asker.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        asker.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="1h")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="metadata"):
        submit(asker, jsonl([line("a")]), metadata={"x": "y" * 513})
    output = finished(asker, submit(asker, jsonl([line("a")]))).output_file_id
    assert output is not None
    with pytest.raises(openai.BadRequestError, match="purpose"):
        asker.batches.create(input_file_id=output, endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.NotFoundError):
        asker.batches.retrieve("batch_x")


def test_what_one_line_asks_wrongly_goes_to_the_error_file_with_its_status(server: LocalServer) -> None:
    asker = client(server)
    batch = finished(asker, submit(asker, jsonl([line("good"), line("bad", body("bad", stream=True))])))
    assert (batch.status, counts(batch)) == ("completed", (2, 1, 1))
    assert [row["custom_id"] for row in results(asker, batch.output_file_id)] == ["good"]
    (bad,) = results(asker, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"], bad["error"]) == ("bad", 400, None)
    assert "stream" in bad["response"]["body"]["error"]["message"]


def test_lines_fail_by_the_stated_share_and_most_of_them_not_when_asked_again() -> None:
    with serving(batch=BatchRules(line_error=0.3)) as faulty:
        asker = client(faulty)
        batch = finished(asker, submit(asker, jsonl([line(str(i)) for i in range(200)])))
        failed = [row["custom_id"] for row in results(asker, batch.error_file_id)]
        assert 30 <= len(failed) <= 90
        assert counts(batch) == (200, 200 - len(failed), len(failed))
        again = finished(asker, submit(asker, jsonl([line(name) for name in failed])))
        assert counts(again)[1] > len(failed) / 3
        assert faulty.stats()["lines_served_again"] == 0


def test_lines_never_reached_expire_their_batch_and_the_others_are_kept() -> None:
    with serving(batch=BatchRules(line_expired=0.2)) as busy:
        asker = client(busy)
        batch = finished(asker, submit(asker, jsonl([line(str(i)) for i in range(100)])))
        expired = results(asker, batch.error_file_id)
        assert batch.status == "expired"
        assert {(row["error"]["code"], row["response"]) for row in expired} == {("batch_expired", None)}
        assert len(results(asker, batch.output_file_id)) == 100 - len(expired) == busy.stats()["lines_served"]
        assert len(expired) > 5


def test_a_batch_expires_when_its_window_ends() -> None:
    with serving(batch=BatchRules(lines_per_s=50, window_s=0.5)) as slow:
        asker = client(slow)
        batch = finished(asker, submit(asker, jsonl([line(str(i)) for i in range(50)])))
        assert batch.status == "expired"
        assert batch.expired_at is not None and batch.expires_at is not None
        assert 10 <= len(results(asker, batch.output_file_id)) <= 30
        assert sum(counts(batch)[1:]) == 50


def test_a_cancelled_batch_keeps_what_was_done() -> None:
    with serving(batch=BatchRules(lines_per_s=50)) as slow:
        asker = client(slow)
        batch = submit(asker, jsonl([line(str(i)) for i in range(1000)]))
        while counts(asker.batches.retrieve(batch.id))[1] < 5:
            time.sleep(0.02)
        assert asker.batches.cancel(batch.id).status == "cancelling"
        batch = finished(asker, batch)
        assert batch.status == "cancelled"
        assert len(results(asker, batch.output_file_id)) == slow.stats()["lines_served"] < 100
        with pytest.raises(openai.ConflictError):
            asker.batches.cancel(batch.id)


def test_prompt_tokens_of_unfinished_batches_are_capped_per_model_and_key() -> None:
    need = count_prompt_tokens(body("x" * 400))
    content = jsonl([line("x" * 400)])
    with serving(batch=BatchRules(enqueued_tokens=2 * need, delay_s=0.5)) as capped:
        asker = client(capped)
        batches = [submit(asker, content) for _ in range(3)]
        elsewhere = submit(client(capped, "another"), content)
        ends = [finished(asker, batch) for batch in batches]
        assert [batch.status for batch in ends] == ["completed", "completed", "failed"]
        assert codes(ends[2]) == [("token_limit_exceeded", None)]
        assert finished(client(capped, "another"), elsewhere).status == "completed"
        assert finished(asker, submit(asker, content)).status == "completed"  # there is room again


def test_batches_are_listed_newest_first_in_pages_and_to_their_owner_only(server: LocalServer) -> None:
    asker = client(server, "lister")
    made = [submit(asker, jsonl([line(str(i))])).id for i in range(5)]
    assert [batch.id for batch in asker.batches.list(limit=2)] == made[::-1]
    assert [batch.id for batch in asker.batches.list(limit=2).data] == made[:2:-1]
    assert [batch.id for batch in asker.batches.list(after=made[2]).data] == [made[1], made[0]]
    assert client(server, "nobody").batches.list().data == []
    with pytest.raises(openai.NotFoundError):
        client(server, "nobody").batches.retrieve(made[0])


def test_batches_fail_by_the_stated_share() -> None:
    with serving(batch=BatchRules(batch_failed=1.0)) as broken:
        batch = finished(client(broken), submit(client(broken), jsonl([line("a")])))
        assert (batch.status, codes(batch)) == ("failed", [("server_error", None)])


def test_a_batch_can_be_made_though_its_creation_was_never_answered() -> None:
    with serving(batch=BatchRules(create_lost=1.0)) as broken:
        with pytest.raises(openai.APIConnectionError):
            submit(client(broken), jsonl([line("a")]), metadata={"emray": "token"})
        (batch,) = client(broken).batches.list()
        assert batch.metadata == {"emray": "token"}
        assert finished(client(broken), batch).status == "completed"


def test_a_responder_that_raises_fails_the_batch_and_says_so() -> None:
    with serving(responder="operator:itemgetter") as broken:  # itemgetter of a list is no text
        batch = finished(client(broken), submit(client(broken), jsonl([line("a")])))
        assert batch.status == "failed"
        assert batch.errors is not None and batch.errors.data is not None
        assert "TypeError" in str(batch.errors.data[0].message)


def test_an_endpoint_can_be_without_batches_and_a_key_is_checked() -> None:
    with serving(batch=BatchRules(max_requests=0)) as plain, pytest.raises(openai.NotFoundError):
        client(plain).batches.list()
    with serving(api_key="right") as checked, pytest.raises(openai.AuthenticationError):
        client(checked, "wrong").files.create(file=("x.jsonl", b"x"), purpose="batch")


def test_batch_settings_survive_the_command_line_and_wrong_ones_are_refused() -> None:
    rules = BatchRules(max_requests=7, enqueued_tokens=2e6, delay_s=0.25, line_error=0.5)
    given = _parser().parse_args(ServerConfig(batch=rules).flags()).batch
    assert given == ["max_requests=7", "enqueued_tokens=2000000.0", "delay_s=0.25", "line_error=0.5"]
    with pytest.raises(UserError, match="lines_per_s=0"):
        BatchRules(lines_per_s=0)
    with pytest.raises(UserError, match="add up"):
        BatchRules(line_error=0.6, line_expired=0.6)


def test_all_uploads_together_have_a_limit_and_deleting_one_makes_room() -> None:
    with serving(batch=BatchRules(max_bytes=10_000, max_total_bytes=25_000)) as small:
        asker = client(small)
        kept = [asker.files.create(file=("a.jsonl", b"x" * 9_000), purpose="batch") for _ in range(2)]
        with pytest.raises(openai.APIStatusError, match="delete some") as refused:
            asker.files.create(file=("b.jsonl", b"x" * 9_000), purpose="batch")
        assert refused.value.status_code == 413
        asker.files.delete(kept[0].id)
        asker.files.create(file=("b.jsonl", b"x" * 9_000), purpose="batch")


def test_an_upload_without_an_end_is_cut_off_and_takes_no_memory() -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with serving(batch=BatchRules(max_bytes=1_000_000)) as small:
        server = psutil.Process(small.pid)
        before = server.memory_info().rss
        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as sent:
            start = f"POST /v1/files HTTP/1.1\r\nHost: {host}:{port}\r\nTransfer-Encoding: chunked\r\n"
            sent.sendall(start.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n")
            sent.sendall(f"{len(head):x}\r\n".encode() + head + b"\r\n")
            reply, most = b"", 200
            while not reply and most:
                most -= 1
                with suppress(OSError):  # it has closed its end
                    sent.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
                if select.select([sent], [], [], 0)[0]:
                    reply = sent.recv(4096) or b"closed"
        assert reply.startswith(b"HTTP/1.1 413"), reply[:200]
        assert server.memory_info().rss - before < 64 * 2**20
