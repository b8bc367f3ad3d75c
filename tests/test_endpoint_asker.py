"""A request's way to its answer over real HTTP: retries, waits, timeouts, and what stops the stage."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import openai
import pytest

from emray.endpoint.access import Access
from emray.endpoint.asker import Asker, Size, Timeouts, TokenEstimates
from emray.endpoint.client import CallFailed, ChatClient, Failure, read_completion
from emray.endpoint.pacing import Pacer
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.reply import Answer, Reply, Request
from emray.errors import EndpointUnreachable, StageError, UserError
from emray.localapi import Faults, serving
from emray.localapi.responders import score_reply
from emray.spec import EndpointSpec

NOWHERE = "http://127.0.0.1:9/v1"


def request(text: str, **fields: Any) -> Request:
    body = {"model": "m", "temperature": 0.0, "max_tokens": 400, "messages": [{"role": "user", "content": text}]}
    return Request(text, {**body, **fields}, "aligned")


def with_asker(base_url: str | None, spec: EndpointSpec, use: Callable[[Asker], Awaitable[Any]]) -> Any:
    """Run `use` with an asker on an event loop of its own."""

    async def main() -> Any:
        client = ChatClient(spec, Access.read(spec, base_url=base_url))
        pacer = Pacer(LocalPort(RateLimits(spec.rpm, spec.tpm, spec.max_in_flight)))
        try:
            return await use(Asker(client, pacer, spec))
        finally:
            await pacer.close()
            await client.close()

    return asyncio.run(main())


def ask_all(base_url: str, spec: EndpointSpec, texts: Sequence[str]) -> list[Answer]:
    async def use(asker: Asker) -> list[Answer]:
        return await asyncio.gather(*(asker.ask(request(text)) for text in texts))

    return with_asker(base_url, spec, use)


def expected(text: str) -> str:
    return score_reply([{"role": "user", "content": text}])


def test_every_fault_ends_in_the_right_reply_or_a_reason_and_nothing_is_lost() -> None:
    shares = Faults(error_500=0.05, error_503=0.05, reset=0.03, hang=0.01, malformed=0.03, truncated=0.03, schema=0.03)
    texts = [str(i) for i in range(300)]
    with serving(latency_ms=20, faults=shares) as server:
        answers = ask_all(server.base_url, EndpointSpec(timeout_s=3), texts)
        stats = server.stats()
    assert len(answers) == len(texts)
    for text, answer in zip(texts, answers, strict=True):
        if not answer.replies:
            assert answer.reason
        else:
            assert answer.replies[0].text == expected(text)
    assert sum(not answer.replies for answer in answers) <= 4  # 0.23 ** 6 of them, and bad luck
    assert set(stats["by_fault"]) == {"error_500", "error_503", "reset", "hang", "malformed", "truncated", "schema"}
    assert stats["served_again"] == 0


@pytest.mark.parametrize("form", ["seconds", "ms", "date", "none"])
def test_a_rejection_is_waited_out_in_every_form_of_retry_after(form: str) -> None:
    with serving(rpm=300, burst_requests=2, retry_after=form) as server:
        # Told nothing of the limit and starting five at once, it must be turned away at first.
        answers = ask_all(server.base_url, EndpointSpec(), [str(i) for i in range(5)])
        stats = server.stats()
    assert all(answer.replies for answer in answers)
    assert 1 <= stats["rejected"] <= 6


def test_a_stated_limit_is_kept_without_a_rejection() -> None:
    texts = [f"{i} " + "x" * 400 for i in range(120)]
    with serving(rpm=3000, tpm=600_000, latency_ms=50) as server:
        start_s = time.monotonic()
        ask_all(server.base_url, EndpointSpec(rpm=3000, tpm=600_000), texts)
        wall_s = time.monotonic() - start_s
        assert server.stats()["rejected"] == 0
    assert wall_s >= (120 - 50) / 50


def test_nothing_listening_is_unreachable_after_bounded_attempts() -> None:
    start_s = time.monotonic()
    with pytest.raises(EndpointUnreachable, match=r"127\.0\.0\.1:9.*3 attempts"):
        ask_all(NOWHERE, EndpointSpec(max_attempts=3), ["a"])
    assert time.monotonic() - start_s < 5
    with pytest.raises(EndpointUnreachable, match=r"no-such-host\.invalid"):
        ask_all("http://no-such-host.invalid/v1", EndpointSpec(max_attempts=1), ["a"])


def test_a_server_that_always_fails_is_a_reason_not_a_crash() -> None:
    with serving(faults=Faults(error_500=1.0)) as server:
        (answer,) = ask_all(server.base_url, EndpointSpec(max_attempts=2), ["a"])
        assert server.stats()["asked"] == 2
    assert not answer.replies
    assert answer.reason is not None and answer.reason.startswith("server: 500")


def test_a_wrong_key_or_model_stops_the_stage_at_once() -> None:
    with serving(api_key="right", models=("other",)) as server, pytest.raises(StageError, match="refuses us: 401"):
        ask_all(server.base_url, EndpointSpec(), ["a"])
    with serving(models=("other",)) as server:
        with pytest.raises(StageError, match="refuses us: 404"):
            ask_all(server.base_url, EndpointSpec(), ["a"])
        assert server.stats()["by_status"] == {"404": 1}


def test_a_request_the_server_refuses_is_not_sent_again() -> None:
    with serving() as server:

        async def use(asker: Asker) -> Answer:
            return await asker.ask(request("a", stream=True))

        answer = with_asker(server.base_url, EndpointSpec(), use)
        assert not answer.replies
        assert answer.reason is not None and answer.reason.startswith("rejected: 400")
        assert server.stats()["by_status"] == {"400": 1}


def test_a_declining_judge_is_a_reply_without_text() -> None:
    with serving(faults=Faults(refusal=1.0)) as server:
        (answer,) = ask_all(server.base_url, EndpointSpec(), ["a"])
    (reply,) = answer.replies
    assert reply.text is None
    assert reply.refusal


def test_the_timeout_is_learned_from_the_latencies_seen() -> None:
    timeouts = Timeouts(longest_s=120)
    assert timeouts.limit_s(0) == 120
    for _ in range(Timeouts.LEAST_SEEN):
        timeouts.saw(0.5)
    assert timeouts.limit_s(0) == pytest.approx(2.0)
    assert timeouts.limit_s(3) == pytest.approx(16.0)
    assert timeouts.limit_s(10) == 120


def test_a_hang_costs_a_learned_timeout_and_not_the_allowed_minute() -> None:
    texts = [str(i) for i in range(200)]
    with serving(latency_ms=20, faults=Faults(hang=0.01)) as server:
        start_s = time.monotonic()

        answers = ask_all(server.base_url, EndpointSpec(timeout_s=60, max_in_flight=20), texts)
        hung = server.stats()["by_fault"]["hang"]
    assert hung >= 1
    assert all(answer.replies for answer in answers)
    assert time.monotonic() - start_s < 30


def test_what_is_waited_for_is_known_also_where_the_endpoint_does_not_complain() -> None:
    async def use(asker: Asker) -> tuple[str, str, str]:
        before = asker.complaint()
        asking = asyncio.gather(*(asker.ask(request(text)) for text in ("1", "2", "3")))
        while not asker.complaint().startswith("1 at"):
            await asyncio.sleep(0.01)
        during = asker.complaint()
        await asking
        return before, during, asker.complaint()

    with serving(latency_ms=300) as server:
        told = with_asker(server.base_url, EndpointSpec(max_in_flight=1), use)
    assert told == ("", "1 at the endpoint, 2 wait for their turn", "")


def test_token_estimates_converge_on_usage() -> None:
    estimates, aligned, coherent = TokenEstimates(), Size("aligned", 1000, 400), Size("coherent", 1000, 400)
    assert estimates.need(aligned) == pytest.approx(700)
    for _ in range(3):
        charged = estimates.learn(aligned, Reply("x", "stop", "m", 250, 20), 700.0)
        assert charged == 270
    assert estimates.need(aligned) == pytest.approx(270)
    assert estimates.need(aligned._replace(chars=2000)) == pytest.approx(520)
    assert estimates.need(coherent) == pytest.approx(700)
    assert estimates.learn(coherent, Reply("x", "stop", "m", None, None), 700.0) == 700


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}',
     b'{"choices": [{"message": {"content": 5}}]}', b'{"choices": {"0": 1}}', b"\xff\xfe",
     b'{"choices": [{"message": {}}], "usage": 7}'],
)  # fmt: skip
def test_what_is_not_a_chat_completion_is_broken_and_never_raises_anything_else(content: bytes) -> None:
    with pytest.raises(CallFailed) as caught:
        read_completion(content, headers={})
    assert caught.value.kind == Failure.BROKEN


def test_half_a_surrogate_pair_in_a_reply_can_be_stored() -> None:
    reply = read_completion(b'{"choices": [{"message": {"content": "a\\ud800b"}}]}', headers={})
    assert reply.text == "a?b"


def test_the_key_and_the_address_come_from_where_openai_users_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match="set OPENAI_API_KEY"):
        Access.read(EndpointSpec(), base_url=None)
    assert Access.read(EndpointSpec(), base_url="http://127.0.0.1:1/v1").key == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert Access.read(EndpointSpec(), base_url=None).key == "sk-1"
    monkeypatch.setenv("MY_KEY", "sk-2")
    assert Access.read(EndpointSpec(api_key_env="MY_KEY"), base_url=None).key == "sk-2"
    with serving(api_key="sk-1") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)

        async def use(asker: Asker) -> Answer:
            return await asker.ask(request("a"))

        assert with_asker(None, EndpointSpec(), use).replies[0].text == expected("a")
    assert openai.OpenAI().base_url == server.base_url + "/"
