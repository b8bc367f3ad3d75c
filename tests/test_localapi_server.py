"""The local server over real HTTP: the official client works against it; limits and faults are what they say."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from emray.errors import UserError
from emray.localapi import Faults, LocalServer, ServerConfig, serving
from emray.localapi.config import load_responder
from emray.localapi.process import READY_PREFIX
from emray.localapi.responders import score_reply

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving() as running:
        yield running


def client(server: LocalServer, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=5)


def ask(server: LocalServer, text: str = "hello", **settings: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client(server).chat.completions.create(model="m", messages=messages, **settings)  # type: ignore[call-overload]


def raw(server: LocalServer, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a POST, through a client that hides nothing."""

    url = f"{server.base_url}/chat/completions"

    async def post() -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers={"Authorization": "Bearer any"}) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, headers, await response.read()

    return asyncio.run(post())


def chat_body(text: str = "hello", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def test_the_official_client_gets_a_completion(server: LocalServer) -> None:
    completion = ask(server)
    choice = completion.choices[0]
    assert choice.message.content == score_reply(HELLO)
    assert choice.finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert [model.id for model in client(server).models.list()] == ["local"]


def test_a_reply_longer_than_max_tokens_is_cut_and_says_so(server: LocalServer) -> None:
    completion = ask(server, max_tokens=3)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3
    assert score_reply(HELLO).startswith(completion.choices[0].message.content)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"model": "m"}', b'{"model": "m", "messages": []}', chat_body(stream=True)]
)
def test_what_it_does_not_understand_is_refused_with_400(server: LocalServer, body: bytes) -> None:
    status, _, content = raw(server, body)
    assert status == 400
    assert json.loads(content)["error"]["type"] == "invalid_request_error"


def test_key_and_model_are_checked_when_asked_to() -> None:
    with serving(api_key="right", models=("m",)) as checked:
        assert client(checked, "right").chat.completions.create(model="m", messages=HELLO)  # type: ignore[call-overload]
        with pytest.raises(openai.AuthenticationError):
            client(checked, "wrong").chat.completions.create(model="m", messages=HELLO)  # type: ignore[call-overload]
        with pytest.raises(openai.NotFoundError):
            client(checked, "right").chat.completions.create(model="n", messages=HELLO)  # type: ignore[call-overload]


def test_stats_count_what_was_asked_again(server: LocalServer) -> None:
    server.reset()
    for text in ("a", "b", "a", "a"):
        ask(server, text)
    stats = server.stats()
    assert (stats["asked"], stats["served"], stats["distinct_served"], stats["served_again"]) == (4, 4, 2, 2)
    assert stats["most_asked"] == 3
    assert stats["by_key"] == {"any": {"asked": 4, "served": 4}}
    assert sorted(server.bodies().values()) == [[1, 1], [3, 3]]
    assert sum(row[1] for row in server.arrivals()["rows"]) == 4


def test_beyond_the_limit_comes_429_with_the_wait_and_the_limit_in_the_headers() -> None:
    with serving(rpm=60, burst_requests=2) as limited:
        for _ in range(2):
            status, headers, _ = raw(limited, chat_body())
            assert status == 200
        status, headers, _ = raw(limited, chat_body())
        assert status == 429
        assert 0 < int(headers["retry-after-ms"]) <= 1000
        assert headers["retry-after"] == "1"
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        time.sleep(int(headers["retry-after-ms"]) / 1000 + 0.05)
        assert raw(limited, chat_body())[0] == 200
        assert limited.stats()["rejected"] == 1


def test_tokens_are_charged_as_usage_reports_them() -> None:
    with serving(tpm=60_000, burst_tokens=1000) as limited:
        completion = ask(limited, "x" * 400)
        _, headers, _ = raw(limited, chat_body("x" * 400))
        spent = 1000 - int(headers["x-ratelimit-remaining-tokens"])
        assert 1.5 * completion.usage.total_tokens < spent <= 2 * completion.usage.total_tokens
        assert raw(limited, chat_body("x" * 8000))[0] == 429


FAULTS: dict[str, Callable[[int, bytes], bool]] = {
    "error_500": lambda status, body: status == 500 and b"error" in body,
    "error_503": lambda status, body: status == 503 and not body.startswith(b"{"),
    "malformed": lambda status, body: status == 200 and not _is_json(body),
    "schema": lambda status, body: status == 200 and "choices" not in json.loads(body),
    "refusal": lambda status, body: status == 200 and json.loads(body)["choices"][0]["message"]["content"] is None,
}


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_with_a_body_is_what_its_name_says(kind: str) -> None:
    with serving(faults=Faults(**{kind: 1.0})) as faulty:
        status, _, body = raw(faulty, chat_body())
        assert FAULTS[kind](status, body), (status, body)
        assert faulty.stats()["by_fault"] == {kind: 1}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("reset", (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)),
        ("truncated", aiohttp.ClientPayloadError),
        ("hang", TimeoutError),
    ],
)
def test_a_fault_of_the_connection_is_what_its_name_says(kind: str, error: type[Exception]) -> None:
    async def post(url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=1.0)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=chat_body()) as response:
            await response.read()

    with serving(faults=Faults(**{kind: 1.0})) as faulty:
        with pytest.raises(error):
            asyncio.run(post(f"{faulty.base_url}/chat/completions"))
        assert faulty.stats()["by_fault"] == {kind: 1}


def outcomes(seed: int, order: list[int]) -> dict[int, tuple[int, bool]]:
    """Status and JSON-ness per request, asked in this order."""
    with serving(seed=seed, faults=Faults(error_500=0.3, malformed=0.3)) as faulty:
        results = {}
        for i in order:
            status, _, body = raw(faulty, chat_body(str(i)))
            results[i] = (status, _is_json(body))
        return results


def test_faults_depend_on_seed_and_request_and_not_on_arrival_order() -> None:
    forward, backward = outcomes(1, list(range(30))), outcomes(1, list(range(29, -1, -1)))
    assert forward == backward
    assert len(set(forward.values())) == 3
    assert outcomes(2, list(range(30))) != forward


def test_latency_has_the_stated_median_and_spread() -> None:
    async def many(url: str) -> list[float]:
        async with aiohttp.ClientSession() as session:

            async def once(i: int) -> float:
                start_s = time.monotonic()
                async with session.post(url, data=chat_body(str(i))) as response:
                    await response.read()
                return time.monotonic() - start_s

            return sorted(await asyncio.gather(*(once(i) for i in range(100))))

    with serving(latency_ms=200, latency_sigma=0.5) as slow:
        asyncio.run(many(f"{slow.base_url}/chat/completions"))
        stats = slow.stats()
    assert 0.15 < stats["latency_p50_s"] < 0.3
    assert stats["latency_p99_s"] > 1.7 * stats["latency_p50_s"]


def test_it_serves_2000_requests_for_each_second_of_its_core(server: LocalServer) -> None:
    async def load(url: str, n: int) -> None:
        pending = iter(range(n))
        async with aiohttp.ClientSession() as session:

            async def work() -> None:
                for i in pending:
                    async with session.post(url, data=chat_body(f"{i} " + "x" * 1200, max_tokens=100)) as response:
                        await response.read()

            await asyncio.gather(*(work() for _ in range(32)))

    def cpu_s() -> float:
        times = psutil.Process(server.pid).cpu_times()
        return times.user + times.system

    server.reset()
    before_s = cpu_s()
    asyncio.run(load(f"{server.base_url}/chat/completions", 2000))
    used_s = cpu_s() - before_s
    assert server.stats()["served"] == 2000
    assert 2000 / used_s >= 2000


def test_it_ends_with_its_parent_and_on_sigterm() -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'emray.localapi', '--exit-with-parent'], stdout=-1, text=True)\n"
        "print(p.pid, p.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, ready = parent.stdout.readline().split(maxsplit=1)
    assert ready.startswith(READY_PREFIX)
    orphan = psutil.Process(int(pid))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    orphan.wait(timeout=5)

    with serving() as running:
        os.kill(running.pid, signal.SIGTERM)
        assert psutil.Process(running.pid).wait(timeout=5) in (0, None)


def test_settings_survive_the_command_line_and_wrong_ones_are_refused() -> None:
    with pytest.raises(UserError, match="add up"):
        Faults(hang=0.6, reset=0.6)
    with pytest.raises(UserError, match="window='sliding'"):
        ServerConfig(window="sliding")
    with pytest.raises(UserError, match="rpm=0"):
        ServerConfig(rpm=0)
    with pytest.raises(UserError, match="no_such_module"):
        load_responder("no_such_module:reply")
    result = subprocess.run(
        [sys.executable, "-m", "emray.localapi", "--fault", "flood=0.1"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "unknown fault 'flood'" in result.stderr


def status(url: str, **headers: str) -> int:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path", ["/stats", "/stats/bodies", "/v1/models", "/v1/files", "/v1/batches", "/", "/nothing"])
def test_a_server_with_a_key_asks_for_it_on_every_path(path: str, keyed_server: LocalServer) -> None:
    assert status(keyed_server.url + path) == 401
    assert status(keyed_server.url + path, Authorization="Bearer wrong") == 401
    known = path not in ("/", "/nothing")
    assert status(keyed_server.url + path, Authorization="Bearer right") == (200 if known else 404)


def test_a_servers_key_is_not_on_its_command_line(keyed_server: LocalServer) -> None:
    assert "right" not in psutil.Process(keyed_server.pid).cmdline()
    assert "right" not in repr(keyed_server)


@pytest.mark.parametrize(("host", "expected"), [
    ("127.0.0.1", 200), ("localhost:80", 200), ("[::1]:5", 200), ("evil.example", 403), ("10.0.0.1", 403), ("", 400),
])  # fmt: skip
def test_a_page_under_a_name_of_its_own_gets_nothing(host: str, expected: int, keyed_server: LocalServer) -> None:
    said = status(f"{keyed_server.url}/stats", Host=host, Authorization="Bearer right")
    assert said == expected or (host == "" and said in (400, 403))


@pytest.fixture(scope="module")
def keyed_server() -> Iterator[LocalServer]:
    with serving(api_key="right") as server:
        yield server
