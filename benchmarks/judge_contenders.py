"""One process of one contender of benchmarks.judge: a share of the prompts, sent as that tool's users would send it.

    python judge_contenders.py NAME SETTINGS.json

Prints `ready`, waits for a line on stdin, works, and prints one line of JSON. Runs under any interpreter that has the
tool (its top imports only the standard library), so peers live in environments of their own. Settings: base_url, model,
prompts (JSONL with id and text), limits rpm and tpm (this process's share; the whole limit for emray), max_tokens,
in_flight (this process's share), ray_address (emray with several processes), store (emray).
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNLIMITED = 1e9

Settings = dict[str, Any]
Answers = dict[str, str]  # prompt id -> reply text
Work = Callable[[], Answers | Callable[[], Answers]]  # done when it returns; counting may follow, off the clock


def main() -> None:
    name, path = sys.argv[1:]
    settings = json.loads(Path(path).read_text())
    os.environ.setdefault("OPENAI_API_KEY", "none")
    os.environ["OPENAI_BASE_URL"] = settings["base_url"]
    lines = Path(settings["prompts"]).read_text().splitlines()
    prompts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    work = CONTENDERS[name](settings, prompts)
    print("ready", flush=True)
    sys.stdin.readline()
    start_s, start_cpu_s = time.monotonic(), _cpu_s()
    answers = work()
    wall_s, cpu_s = time.monotonic() - start_s, _cpu_s() - start_cpu_s
    right = sum(bool(text) for text in (answers() if callable(answers) else answers).values())
    print("\n" + json.dumps({"answered": right, "wall_s": wall_s, "cpu_s": cpu_s}), flush=True)
    os._exit(0)  # without the closing ceremonies of whatever was imported


def emray(settings: Settings, prompts: Answers) -> Work:
    """This project: one worker, its limiter shared through Ray when there are several."""
    from emray.endpoint.asking import Endpoint, Terms
    from emray.endpoint.ports import ClusterPort, LimiterPort, LocalPort, RateLimits
    from emray.endpoint.reply import Request
    from emray.endpoint.worker import Worker
    from emray.judge.tasks import canonical_request, follow_up
    from emray.judge.verdicts import Judge, JudgeRequest, Target, judge_batch, warm_up
    from emray.records import Message
    from emray.spec import JudgeSpec
    from emray.store import Kind, Store

    spec = JudgeSpec(
        model=settings["model"],
        rpm=settings["rpm"],
        tpm=settings["tpm"],
        max_tokens=settings["max_tokens"],
        max_in_flight=settings["in_flight"],
    )
    limits = RateLimits(spec.rpm, spec.tpm, spec.max_in_flight)

    def port() -> LimiterPort:
        if not settings["ray_address"]:
            return LocalPort(limits)
        return ClusterPort(settings["limiter"], limits)

    if settings["ray_address"]:
        import logging

        import ray

        ray.init(address=settings["ray_address"], log_to_driver=False, logging_level=logging.ERROR)
    store = Store(settings["store"])
    endpoint = Endpoint.at(settings["base_url"], spec=spec, model=spec.model)
    worker = Worker(endpoint, store=store, port=port, terms=Terms(follow_up=follow_up(spec)))
    requests = [
        JudgeRequest(
            Request(key, canonical_request(spec, (Message("user", text),)), "aligned"), [Target(key, "aligned", "")]
        )
        for key, text in prompts.items()
    ]
    warm_up()

    def work() -> Callable[[], Answers]:
        # replies journaled, verdicts written
        judge_batch(requests, ask=worker.answers, store=store, judge=Judge.of(spec))
        return read

    def read() -> Answers:
        rows = store.read_rows(Kind.VERDICTS, columns=["generation", "outcome", "reply"]).to_pylist()
        mine = [row for row in rows if row["generation"] in prompts and row["outcome"] == "scored"]
        return {row["generation"]: row["reply"] for row in mine}

    return work


def sdk(settings: Settings, prompts: Answers) -> Work:
    """The plain openai SDK: a semaphore of 100, its own two retries, its errors kept as missing answers."""
    import openai

    async def run() -> Answers:
        client, gate, answers = openai.AsyncOpenAI(), asyncio.Semaphore(min(100, settings["in_flight"])), {}

        async def one(key: str, text: str) -> None:
            async with gate:
                try:
                    completion = await client.chat.completions.create(
                        model=settings["model"],
                        messages=[{"role": "user", "content": text}],
                        temperature=0.0,
                        max_tokens=settings["max_tokens"],
                    )
                except openai.OpenAIError:
                    return
                answers[key] = completion.choices[0].message.content or ""

        await asyncio.gather(*(one(key, text) for key, text in prompts.items()))
        return answers

    return lambda: asyncio.run(run())


def inspect(settings: Settings, prompts: Answers) -> Work:
    """inspect_ai: its model interface with the connection count its users set, retries its own."""
    from inspect_ai.model import GenerateConfig, get_model

    config = GenerateConfig(
        max_connections=min(100, settings["in_flight"]), temperature=0.0, max_tokens=settings["max_tokens"]
    )
    model = get_model(f"openai/{settings['model']}", config=config, base_url=settings["base_url"], responses_api=False)

    async def run() -> Answers:
        answers = {}

        async def one(key: str, text: str) -> None:
            try:
                answers[key] = (await model.generate(text)).completion
            except Exception:  # noqa: BLE001 - whatever it raises is a lost answer
                return

        await asyncio.gather(*(one(key, text) for key, text in prompts.items()))
        return answers

    return lambda: asyncio.run(run())


def curator(settings: Settings, prompts: Answers) -> Work:
    """bespokelabs-curator: its LLM class with requests and tokens per minute stated."""
    os.environ |= {
        "CURATOR_DISABLE_CACHE": "1",
        "CURATOR_CACHE_DIR": settings["store"],
        "TELEMETRY_ENABLED": "0",
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
    }
    import tiktoken
    from bespokelabs import curator as library
    from datasets import Dataset

    class FourCharacters:
        """Stands in for the tokenizer it would download: counts exactly as the server does."""

        def encode(self, text: str, **_: Any) -> list[int]:
            return [0] * -(-len(text) // 4)

    for name in ("get_encoding", "encoding_for_model"):
        setattr(tiktoken, name, lambda *_: FourCharacters())

    class Judge(library.LLM):
        def prompt(self, row: Any) -> str:
            return str(row["text"])

        def parse(self, row: Any, response: Any) -> dict[str, str]:
            return {"id": row["id"], "text": str(response)}

    limits = {"max_requests_per_minute": settings["rpm"], "max_tokens_per_minute": settings["tpm"]}
    judge = Judge(
        model_name=settings["model"],
        backend="openai",
        backend_params={
            "base_url": settings["base_url"],
            "max_retries": 6,
            "max_concurrent_requests": settings["in_flight"],
            **{name: int(value or UNLIMITED) for name, value in limits.items()},  # its defaults would bind
        },
        generation_params={"temperature": 0.0, "max_tokens": settings["max_tokens"]},
    )
    rows = Dataset.from_list([{"id": key, "text": text} for key, text in prompts.items()])

    def work() -> Answers:
        found = judge(rows)
        return {row["id"]: row["text"] for row in getattr(found, "dataset", found)}

    return work


CONTENDERS: dict[str, Callable[[Settings, Answers], Work]] = {
    "emray": emray,
    "sdk": sdk,
    "inspect": inspect,
    "curator": curator,
}


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    main()
