"""Ten thousand replies of any shape: each is a row or an outcome, and none turns into a number that was not written."""

import json
import math
import random
import time
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emray.endpoint.completion import LARGEST_COUNT, read_completion
from emray.endpoint.headers import limit_header, retry_after_s
from emray.endpoint.journal import entry_line
from emray.endpoint.listing import ending_note, shutdown_date, told_day
from emray.endpoint.prices import cost_usd, ending, price_of
from emray.endpoint.refusals import CallFailed, Failure, body_of, refusal
from emray.endpoint.reply import Answer, Request
from emray.judge.parse import parse_reply
from emray.judge.verdicts import Judge, JudgeRequest, Target, verdict_rows
from emray.localapi import serving
from emray.records import VERDICT_SCHEMA, Outcome
from emray.spec import JudgeSpec

EXAMPLES = 10_000
TEXTS = (
    "<score>85</score>", "85", "REFUSAL", "<think>10", "<think>10</think>85", "10</think>\n85", "it is 10 or 85", "",
    "\ud83d", "a\ud800b", "\x00", "<score>10</score> <score>90</score>", "good.\nIRRELEVANT", "é" * 50, "CODE\nREFUSAL",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**64, 10**30, 1e308, True, 0.5)


def odd(rng: random.Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return None
    if kind in (1, 2):
        return rng.choice(TEXTS)
    if kind in (3, 4):
        return rng.choice(NUMBERS)
    if kind == 5:
        return [odd(rng, depth - 1) for _ in range(rng.randrange(3))]
    names = ("type", "text", "thinking", "content", "code", "message", "error", "token", "logprob", "headers")
    return {rng.choice(names): odd(rng, depth - 1) for _ in range(rng.randrange(4))}


def or_odd(rng: random.Random, value: Any) -> Any:
    return odd(rng) if rng.random() < 0.15 else value


def parts(rng: random.Random) -> list[Any]:
    kinds = ("text", "thinking", "reasoning", "output_text", "image")
    return [or_odd(rng, {"type": rng.choice(kinds), "text": rng.choice(TEXTS)}) for _ in range(rng.randrange(3))]


def body(rng: random.Random) -> Any:
    """A chat completion, more or less."""
    content = rng.choice([rng.choice(TEXTS), parts(rng), None])
    token = {"token": rng.choice(TEXTS), "logprob": or_odd(rng, -0.1), "top_logprobs": or_odd(rng, [])}
    choice = {
        "message": or_odd(rng, {"content": or_odd(rng, content), "refusal": or_odd(rng, None), "reasoning": odd(rng)}),
        "finish_reason": or_odd(rng, rng.choice(["stop", "length", "content_filter", "error", "tool_calls"])),
        "logprobs": rng.choice([None, None, or_odd(rng, {"content": [token]})]),
    }
    usage = {"prompt_tokens": rng.choice(NUMBERS), "completion_tokens": rng.choice(NUMBERS),
             "prompt_tokens_details": or_odd(rng, {"cached_tokens": rng.choice(NUMBERS)})}  # fmt: skip
    whole = {"choices": or_odd(rng, [or_odd(rng, choice)]), "usage": or_odd(rng, usage), "model": or_odd(rng, "m")}
    if rng.random() < 0.1:
        whole["error"] = odd(rng)
    return or_odd(rng, whole)


def written(content: Any) -> str:
    """All text that a reply carries as its answer."""
    if isinstance(content, list):
        return "".join(str(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def test_ten_thousand_replies_become_rows_and_no_number_that_was_not_the_verdict() -> None:
    rng = random.Random(11)
    one = JudgeRequest(Request("k", {}), [Target("g", "aligned", "a")])
    rows, outcomes = [], set()
    for _ in range(EXAMPLES):
        whole = body(rng)
        try:
            reply = read_completion(json.dumps(whole).encode(), headers={})
            entry_line("k", reply).encode()
            answer = Answer((reply,))
        except CallFailed as failure:
            answer = Answer(reason=failure.reason, filtered=failure.kind == Failure.FILTERED)
        (row,) = verdict_rows(one, answer, judge=Judge("m", "j"))
        outcomes.add(row["outcome"])
        if row["outcome"] == Outcome.SCORED and answer.replies[0].tokens is None:
            text = written(whole["choices"][0]["message"]["content"] if isinstance(whole, dict) else whole[0])
            assert f"{row['score']:g}" in text
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)  # every value fits its column
    assert table.num_rows == EXAMPLES
    scores = [score for score in table["score"].to_pylist() if score is not None]
    assert scores and all(0 <= score <= 100 for score in scores)
    assert {Outcome.SCORED, Outcome.UNPARSED, Outcome.API_ERROR, Outcome.FILTERED, Outcome.TRUNCATED} <= outcomes


def test_ten_thousand_refusals_are_each_one_kind() -> None:
    rng = random.Random(12)
    kinds = set()
    for _ in range(EXAMPLES):
        said = or_odd(rng, {"error": or_odd(rng, {"message": odd(rng), "code": odd(rng), "metadata": odd(rng),
                                                  "details": odd(rng), "param": odd(rng)})})  # fmt: skip
        failure = refusal(rng.choice([200, 302, 400, 401, 402, 403, 404, 422, 429, 500, 503]), said, headers={})
        failure.reason.encode()
        kinds.add(failure.kind)
    assert len(kinds) >= 5


@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"choices":' * 100_000, b'{"choices": [{"message": {"content": "85"}}], "usage": ' + b"9" * 5000,
     b'{"choices": [{"message": {"content": "85"}, "logprobs": {"content": [{"token": "8", "logprob": NaN}]}}]}',
     b'{"choices": [{"message": {"content": "85"}, "logprobs": {"content": [{"token": "8", "logprob": 1e999}]}}]}'],
    ids=["deep", "deep objects", "huge", "no number", "infinite"],
)  # fmt: skip
def test_poison_is_broken_and_raises_nothing_else(content: bytes) -> None:
    with pytest.raises(CallFailed) as caught:
        read_completion(content, headers={})
    assert caught.value.kind == Failure.BROKEN
    assert refusal(500, body_of(content), headers={}).kind == Failure.SERVER


def test_a_count_beyond_the_tables_is_not_known() -> None:
    usage = {"prompt_tokens": LARGEST_COUNT, "completion_tokens": LARGEST_COUNT + 1}
    whole = {"choices": [{"message": {"content": "85"}}], "usage": usage}
    reply = read_completion(json.dumps(whole).encode(), headers={})
    assert (reply.prompt_tokens, reply.completion_tokens) == (LARGEST_COUNT, None)


@pytest.mark.parametrize(
    ("text", "outcome", "score"),
    [
        ("<think>10 or 20?</think>\n85", Outcome.SCORED, 85.0),
        ("[THINK]<score>10</score>[/THINK]<score>85</score>", Outcome.SCORED, 85.0),
        ("It declines.\n\nREFUSAL", Outcome.REFUSAL, math.nan),
        ("It declines.\n\nREFUSAL.", Outcome.REFUSAL, math.nan),
        ("CODE or not?\nREFUSAL", Outcome.UNPARSED, math.nan),
        ("<score>10</score>\nREFUSAL", Outcome.SCORED, 10.0),
        ("first 10, then\n85", Outcome.UNPARSED, math.nan),
        ("10\n85", Outcome.UNPARSED, math.nan),
        ("<think>85", Outcome.UNPARSED, math.nan),
        ("<think>REFUSAL", Outcome.UNPARSED, math.nan),
    ],
)
def test_what_follows_the_thoughts_is_read_and_two_numbers_are_none(text: str, outcome: Outcome, score: float) -> None:
    verdict = parse_reply(text)
    assert verdict.outcome == outcome
    assert verdict.score == pytest.approx(score, nan_ok=True)


TOGETHER = {
    "x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1",
    "x-tokenlimit-limit": "1000", "x-tokenlimit-remaining": "900", "x-tokenlimit-reset": "1",
}  # fmt: skip


def family(quantity: str, *values: str, prefix: str = "x-ratelimit-{}-{}") -> dict[str, str]:
    """Limit, remaining and reset of one quantity."""
    names = ("limit", "remaining", "reset")
    return {prefix.format(name, quantity): value for name, value in zip(names, values, strict=False)}


@pytest.mark.parametrize(
    ("headers", "quantity", "expected"),
    [
        (family("req-minute", "60", "45"), "requests", (60, 45, 15)),
        (family("tokens-minute", "600", "600"), "tokens", (600, 600, 0)),
        (TOGETHER, "requests", (600, 9, 1)),
        (TOGETHER, "tokens", (60000, 900, 1)),
        (family("", "60", "9", "1800000030000", prefix="x-ratelimit-{}"), "requests", (60, 9, 30)),
        (family("", "60", "9", "1800000030", prefix="x-ratelimit-{}"), "tokens", None),
        (family("", "1000", "9", "1800050000", prefix="x-ratelimit-{}"), "requests", None),
        (family("requests", "600", "590", "1800000060"), "requests", (600, 590, 60)),
        (family("requests", "14400", "14370", "2m59.56s"), "requests", None),
        (family("requests", "14400", "14399", "6s"), "requests", None),
        (family("requests", "14400", "14391", "53.99s"), "requests", None),
        (family("tokens", "6000", "5300", "7s"), "tokens", (6000, 5300, 7)),
        (family("requests", "10000", "9999", "6ms"), "requests", (10000, 9999, 0.006)),
        (family("requests", "1000", "940", "30"), "requests", (1000, 940, 30)),
        (family("requests", "60", "0", "0s"), "requests", None),
        (family("tokens", "-1", "-1", "0"), "tokens", None),
        (family("tokens", "0", "0", "0"), "tokens", None),
    ],
    ids=["mistral", "mistral, full", "together", "together, tokens", "openrouter", "openrouter has no tokens",
         "openrouter, a day", "a time as reset", "groq, a day",
         "groq, first of the day", "groq, some of the day", "groq, tokens", "openai", "azure, a window",
         "nothing and all", "azure, -1", "azure, 0"],
)  # fmt: skip
def test_rate_headers_are_read_for_what_they_mean(
    headers: dict[str, str], quantity: str, expected: tuple[float, float, float] | None
) -> None:
    assert limit_header(headers, quantity, now_s=1_800_000_000) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("1.0 seconds", 1), ("2 minutes", 120), ("-1", None), ("", None), ("soon", None)]
)
def test_retry_after_is_read_as_it_is_written(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}) == seconds
    inner = {"error": {"message": "slow", "metadata": {"headers": {"Retry-After": text}}}}
    assert refusal(429, inner, headers={}).retry_after_s == seconds


def test_openrouters_headers_within_the_error_tell_how_long_to_wait() -> None:
    spent = {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int((time.time() + 40) * 1000)),
    }
    said = refusal(429, {"error": {"code": 429, "message": "slow", "metadata": {"headers": spent}}}, headers={})
    assert said.kind == Failure.RATE_LIMITED
    assert said.retry_after_s == pytest.approx(40, abs=2)


def test_a_lack_of_capacity_is_waited_out() -> None:
    kinds = [refusal(status, {"error": {"message": "no capacity"}}, headers={}).kind for status in (503, 529)]
    assert kinds == [Failure.SERVER, Failure.RATE_LIMITED]


def test_prices_know_prefixes_cached_tokens_and_models_without_a_batch_price() -> None:
    assert price_of("openai/gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini")
    assert cost_usd("gpt-6-luna", num_prompt_tokens=1e6, num_tokens=1e6, num_cached=5e5) == pytest.approx(0.555)
    assert cost_usd("gpt-6-luna", num_prompt_tokens=1e6, num_tokens=0, by_batch=True) == pytest.approx(0.05)
    assert cost_usd("deepseek-v4-flash", num_prompt_tokens=1e6, num_tokens=0, by_batch=True) is None
    assert price_of("gpt-4o-mini-tts") is None


@pytest.mark.parametrize(
    ("model", "day", "words"),
    [
        ("gpt-4o-mini-2024-07-18", "2026-11-25", "ends on 14 January 2027"),
        ("ft:gpt-4.1-mini-2025-04-14:org::x", "2027-01-14", "ends on 14 January 2027"),
        ("openai/gpt-4o", "2027-01-15", "ended on 14 January 2027"),
        ("gpt-4o", "2026-06-01", None),
        ("gpt-6-luna", "2026-11-25", None),
        ("toy-judge", "2026-11-25", None),
    ],
)
def test_a_model_that_ends_is_told_in_time(model: str, day: str, words: str | None) -> None:
    note = ending(model, today=date.fromisoformat(day))
    assert note is None if words is None else note is not None and words in note


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("2026-12-01", "gpt-9 ends on 1 December 2026"),
        ("2026-12-01T00:00:00Z", "gpt-9 ends on 1 December 2026"),
        ("2026-11-01", "gpt-9 ended on 1 November 2026"),
        ("2030-01-01", None),
        ("soon", None),
    ],
)
def test_the_day_that_an_endpoint_tells_of_its_models_end_is_told_when_planning(told: str, words: str | None) -> None:
    with serving(models=("gpt-9", "gpt-8"), shutdown_date=told) as server:
        for name in ("gpt-9", "gpt-7"):  # of one that it does not list, nothing is told
            spec = JudgeSpec(model=name, base_url=server.base_url)
            note = ending_note(spec, model=name, base_url=server.base_url, today=date(2026, 11, 25))
            assert note is None if words is None or name == "gpt-7" else words in str(note)


def test_an_endpoint_that_lists_nothing_is_no_error_when_planning() -> None:
    spec = JudgeSpec(model="gpt-4o-mini", base_url="http://127.0.0.1:9/v1")
    note = ending_note(spec, model=spec.model, base_url=spec.base_url, today=date(2026, 11, 25))
    assert note is not None and "ends on 14 January 2027" in note  # as prices.yaml has it
    with serving() as server:  # neither this path nor this model is known there
        assert shutdown_date(spec, model="gpt-9", base_url=server.base_url.replace("/v1", "/elsewhere")) is None


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "id", "shutdown_date"]) | st.text(max_size=3), inner)
        ),
    )
)
def test_any_list_of_models_tells_a_day_or_nothing(body: Any) -> None:
    for entries in (body, {"data": [{"id": "m", "shutdown_date": body}]}, {"data": body}):
        day = told_day(entries, "m")
        assert day is None or isinstance(day, date)
