"""Requests, a responder and a runner for the tests of batches: light, so that a killed process starts quickly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emray import judge
from emray.context import Context
from emray.judge.tasks import REASK, JudgeTask, canonical_request
from emray.localapi import LocalServer
from emray.localapi.responders import score_reply
from emray.progress import silent
from emray.records import Message, Metric, verdict_key
from emray.spec import BatchSpec, JudgeSpec
from emray.store import Kind, Store

POLL_S = 0.05
STUBBORN = "tests.batch_world:stubborn"


def stubborn(messages: Sequence[Mapping[str, Any]]) -> str:
    """A responder that forgets its verdict unless asked for it alone, and never gives one to `hopeless` answers."""
    if messages[-1]["content"] != REASK:
        return "Hard to say, this one."
    return "Still hard to say." if "hopeless" in messages[0]["content"] else score_reply(messages[:1])


def plain_tasks(count: int) -> list[JudgeTask]:
    """Tasks without a sweep, one request each."""
    texts = [(Message("user", f"judge answer {i} " + "x" * 200),) for i in range(count)]
    keys = [verdict_key(canonical_request(JudgeSpec(), messages)) for messages in texts]
    return [JudgeTask(key, f"g{i}", Metric.ALIGNED, texts[i]) for i, key in enumerate(keys)]


def spec_of(*, mode: str = "batch", max_cost_usd: float | None = None, **limits: Any) -> JudgeSpec:
    batch = BatchSpec(**{"poll_s": POLL_S, "online_below": 0} | limits)
    return JudgeSpec(mode=mode, batch=batch, max_cost_usd=max_cost_usd)


def run(
    tasks: Sequence[JudgeTask], folder: Path, server: LocalServer | str, spec: JudgeSpec, advance: Any = silent
) -> list[dict[str, Any]]:
    """Judge what has no verdict yet; returns all verdict rows."""
    store = Store(str(folder))
    url = server if isinstance(server, str) else server.base_url
    done = store.keys(Kind.VERDICTS)
    missing = [task for task in tasks if task.key not in done]
    judge.run_here(missing, spec=spec, base_url=url, context=Context(store, advance=advance))
    return store.read_rows(Kind.VERDICTS).to_pylist()
