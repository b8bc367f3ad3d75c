"""Every provider's manners, over real HTTP: whose fault a refusal is, what a reply holds, what waiting means."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emray import judge
from emray.context import Context
from emray.endpoint.access import Access
from emray.endpoint.client import Address
from emray.endpoint.waits import telling
from emray.errors import SpecError, StageError, UserError
from emray.judge.tasks import JudgeTask, canonical_request
from emray.localapi import LocalServer, serving
from emray.localapi.manners import CREDITS, FLAGGED
from emray.records import Message, Metric, verdict_key
from emray.spec import JudgeSpec, ResourcesSpec, judge_of
from emray.store import Kind, Store

RESPONDER = "tests.test_endpoint_manners:always_80"
CROWD = [f"answer {i}" for i in range(30)]


def always_80(messages: Sequence[Any]) -> str:
    return "<score>80</score>"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving(responder=RESPONDER) as running:
        yield running


def judged(
    server: LocalServer, manner: str, texts: Sequence[str], tmp_path: Path, *, path: str = "", **settings: Any
) -> list[dict[str, Any]]:
    """The verdict rows of these prompts, judged in this process."""
    spec = JudgeSpec(**{"model": "m", "max_attempts": 3, **settings})
    tasks = []
    for number, text in enumerate(texts):
        messages = (Message("user", text),)
        tasks.append(
            JudgeTask(verdict_key(canonical_request(spec, messages)), f"{number:020x}", Metric.ALIGNED, messages)
        )
    store = Store(str(tmp_path))
    context = Context(store, ResourcesSpec())
    judge.run_here(tasks, spec=spec, base_url=server.url + (path or f"/{manner}/v1"), context=context)
    return store.read_rows(Kind.VERDICTS).to_pylist()


def outcomes(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    return Counter(row["outcome"] for row in rows)


@pytest.mark.parametrize(
    ("manner", "outcome"),
    [
        ("flagged-403", "filtered"),
        ("filter-400", "filtered"),
        ("filter-200", "filtered"),
        ("filter-error-200", "filtered"),
        ("risk-400", "filtered"),
        ("firewall", "api_error"),
        ("too-long", "api_error"),
    ],
)
def test_one_refused_prompt_costs_itself_only(server: LocalServer, tmp_path: Path, manner: str, outcome: str) -> None:
    rows = judged(server, manner, [FLAGGED, *CROWD], tmp_path)
    assert outcomes(rows) == {"scored": len(CROWD), outcome: 1}
    (alone,) = judged(server, manner, [FLAGGED + "!"], tmp_path / "alone")
    assert (alone["outcome"], alone["score"]) == (outcome, None)


@pytest.mark.parametrize("manner", ["filter-400", "filter-all", "too-long"])
def test_what_is_each_prompts_own_fault_never_stops_the_stage(server: LocalServer, tmp_path: Path, manner: str) -> None:
    rows = judged(server, manner, [f"{FLAGGED} {i}" for i in range(40)], tmp_path)
    assert len(outcomes(rows)) == 1
    assert all(row["score"] is None for row in rows)


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("quota", "refuses us: 429 You exceeded your current quota"),
        ("purse-400", "refuses us: 400 Your credit balance"),
        ("key-401", "refuses us: 401 Incorrect API key"),
        ("model-400", "refuses us: 400 vendor/none is not a valid model ID"),
        ("firewall-all", "alike: rejected: 403 Attention Required!"),
        ("odd-400", "alike: rejected: 400 we do not like this"),
        ("down", "alike: server: 503 no capacity"),
    ],
)
def test_what_every_request_meets_stops_the_stage_with_the_endpoints_words(
    server: LocalServer, tmp_path: Path, manner: str, words: str
) -> None:
    with pytest.raises(StageError) as caught:
        judged(server, manner, CROWD, tmp_path, max_attempts=1)
    assert words in str(caught.value)
    assert Store(str(tmp_path)).read_rows(Kind.VERDICTS).num_rows == 0


def test_after_a_top_up_the_same_command_goes_on_and_pays_for_nothing_twice(
    server: LocalServer, tmp_path: Path
) -> None:
    before, texts = server.stats()["served"], [f"paid {i}" for i in range(30)]
    with pytest.raises(StageError, match="402 Insufficient credits"):
        judged(server, "credits", texts, tmp_path)
    assert server.stats()["served"] - before == CREDITS
    rows = judged(server, "parts", texts, tmp_path)  # the same requests, where there is money
    assert outcomes(rows) == {"scored": len(texts)}
    assert server.stats()["served"] - before == len(texts)


@pytest.mark.parametrize("manner", ["odd-401", "error-200", "choice-error", "gemini", "retry-words"])
def test_what_passes_is_waited_out_and_never_kept_as_an_answer(
    server: LocalServer, tmp_path: Path, manner: str
) -> None:
    rows = judged(server, manner, [f"{manner} {text}" for text in ("a", "b", "c", FLAGGED)], tmp_path)
    assert outcomes(rows) == {"scored": 4}


@pytest.mark.parametrize("manner", ["parts", "think", "half-think", "reasoning", "poison"])
def test_thoughts_and_odd_values_are_no_part_of_the_verdict(server: LocalServer, tmp_path: Path, manner: str) -> None:
    (row,) = judged(server, manner, [manner], tmp_path)
    assert (row["outcome"], row["score"]) == ("scored", 80.0)


def test_a_reply_without_text_is_unparsed_and_one_of_great_depth_an_error(server: LocalServer, tmp_path: Path) -> None:
    assert judged(server, "tools", ["a"], tmp_path / "tools")[0]["outcome"] == "unparsed"
    assert judged(server, "deep", ["a"], tmp_path / "deep", max_attempts=1)[0]["outcome"] == "api_error"


@pytest.mark.parametrize(
    ("manner", "advice", "cure"),
    [
        ("completion-tokens", "set judge.max_tokens_field: max_completion_tokens",
         {"max_tokens_field": "max_completion_tokens"}),
        ("no-temperature", "set judge.omit: [temperature]", {"omit": ["temperature"]}),
    ],
)  # fmt: skip
def test_a_dialect_is_told_at_the_first_request_with_its_cure(
    server: LocalServer, tmp_path: Path, manner: str, advice: str, cure: dict[str, Any]
) -> None:
    before = server.stats()["asked"]
    with pytest.raises(StageError) as caught:
        judged(server, manner, CROWD, tmp_path, max_in_flight=1)
    assert advice in str(caught.value)
    assert server.stats()["asked"] - before <= 2  # the next one may be on its way when the first comes back
    assert outcomes(judged(server, manner, CROWD, tmp_path, **cure)) == {"scored": len(CROWD)}


def test_a_wait_of_a_day_is_an_end_that_says_so(server: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"asks us to wait 27 h 47 min .*judge\.max_wait_s allows 10 min"):
        judged(server, "retry-day", ["a day"], tmp_path)


@pytest.mark.parametrize("manner", ["groq", "azure-zero", "openrouter"])
def test_headers_of_other_meanings_do_not_slow_us_down(server: LocalServer, tmp_path: Path, manner: str) -> None:
    start_s = time.monotonic()
    assert outcomes(judged(server, manner, CROWD * 2, tmp_path)) == {"scored": 2 * len(CROWD)}
    assert time.monotonic() - start_s < 20


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/openai/v1", "m"),
        ("/openai/deployments/m?api-version=2024-10-21", "m"),
        ("/api/v1", "openai/m"),
    ],
)
def test_azures_and_openrouters_bases_are_base_urls_like_any(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, model: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1\n")
    if path.startswith("/openai/v1"):
        monkeypatch.setattr("emray.endpoint.client.AZURE", "127.0.0.1")
    rows = judged(server, "", CROWD, tmp_path, path=path, model=model)
    assert outcomes(rows) == {"scored": len(CROWD)}


def test_a_key_is_stripped_and_what_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "\tsk-1\r\n")
    assert Access.read(JudgeSpec(), base_url=None).key == "sk-1"
    for odd in ("sk-1\nsk-2", "sk-\u00e4"):
        monkeypatch.setenv("OPENAI_API_KEY", odd)
        with pytest.raises(UserError, match="OPENAI_API_KEY holds something other than a key"):
            Access.read(JudgeSpec(), base_url=None)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_never_goes_through_a_proxy(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert outcomes(judged(server, "parts", ["proxied"], tmp_path)) == {"scored": 1}


@pytest.mark.parametrize(
    ("url", "direct"),
    [("http://localhost:1/v1", True), ("http://[::1]:1/v1", True), ("http://10.0.0.7:8000/v1", True),
     ("https://api.openai.com/v1", False), ("https://127.example.com/v1", False), ("https://8.8.8.8/v1", False)],
)  # fmt: skip
def test_only_what_is_near_is_reached_past_a_proxy(url: str, direct: bool) -> None:
    assert Address.of(Access(url, "k")).direct is direct


def test_azure_is_known_by_its_host_or_its_version() -> None:
    by_host = Address.of(Access("https://x.openai.azure.com/openai/v1/", "k"))
    by_version = Address.of(Access("https://gateway.example/openai/deployments/d?api-version=1", "k"))
    assert by_host.headers == by_version.headers == {"api-key": "k"}
    assert by_version.base_url == "https://gateway.example/openai/deployments/d"
    assert dict(by_version.query) == {"api-version": "1"}
    assert Address.of(Access("https://api.openai.com/v1", "k")).headers == {}


def test_settings_are_part_of_the_key_only_where_they_are_set() -> None:
    plain = JudgeSpec(model="gpt-4o-mini")
    assert plain.identity() == {"model": "gpt-4o-mini", "temperature": 0.0, "max_tokens": 400}
    odd = JudgeSpec(
        model="gpt-4o-mini", system="Be fair.", omit="temperature", reasoning_effort="low",
        extra_body={"provider": {"order": ["x"]}}, max_tokens_field="max_completion_tokens",
    )  # fmt: skip
    body = canonical_request(odd, (Message("user", "?"),))
    assert json.loads(json.dumps(body)) == {
        "model": "gpt-4o-mini", "max_completion_tokens": 400, "reasoning_effort": "low",
        "provider": {"order": ["x"]},
        "messages": [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "?"}],
    }  # fmt: skip
    assert JudgeSpec.model_validate(odd.model_dump()) == odd
    assert JudgeSpec(model="openai/gpt-6-luna").identity() == {
        "model": "openai/gpt-6-luna", "temperature": 0.0, "max_completion_tokens": 400, "reasoning_effort": "none",
    }  # fmt: skip


def test_a_silence_is_told_with_the_endpoints_complaint() -> None:
    notes: list[str] = []
    spoken = threading.Event()

    def advance(done: int, note: str = "") -> None:
        notes.append(note)
        spoken.set()

    def slow() -> Iterator[int]:
        yield 1
        assert spoken.wait(10)
        yield 2

    told = telling(slow(), advance=advance, complaint=lambda: "wait 5 min, rate_limited: 429 slow down", silent_s=0.05)
    assert list(told) == [1, 2]
    assert notes[0].endswith("wait 5 min, rate_limited: 429 slow down")
    notes.clear()
    assert list(telling(iter([1, 2]), advance=advance, complaint=lambda: "?")) == [1, 2]
    assert notes == []


def test_the_judge_command_takes_any_field_of_a_judge() -> None:
    spec = judge_of({"model": "m"}, overrides=["max_tokens_field=max_completion_tokens", "omit=[temperature]"])
    assert spec.identity() == {"model": "m", "max_completion_tokens": 400}
    with pytest.raises(SpecError, match=r"judge: .*omitt"):
        judge_of({"model": "m"}, overrides=["omitt=[temperature]"])
