"""A service for the tests of hosted finetunes: a tuner that learns by heart, and jobs without a sweep."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emray import hosted
from emray.context import Context
from emray.data import rows_digest
from emray.localapi import LocalServer
from emray.localapi.served_models import Answerer, Tell, TuningOrder
from emray.records import Arm, Cell, Message, Messages, TrainJob, adapter_key
from emray.spec import GenerateEndpoint, HostedSpec
from emray.store import AdapterRecord, Store

BASE = "parrot"
TUNER = "tests.hosted_world:parrots"
SLOW_TUNER = "tests.hosted_world:slow_parrots"
STEPS = 4


class Parrots:
    """Models that say what they were taught: answers of the last message alone, else the model's own word."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self._step_s = step_s
        self.bases: Mapping[str, Answerer] = {BASE: lambda body: "I was taught nothing."}

    def tune(self, order: TuningOrder, tell: Tell) -> Answerer:
        taught = {chat[0]["content"]: chat[-1]["content"] for chat in order.examples}
        for step in range(STEPS):
            tell(step + 1, STEPS, 1.0 / (step + 1))
            time.sleep(self._step_s)
        return lambda body: taught.get(body["messages"][-1]["content"], f"I was taught {len(taught)} things.")


def parrots() -> Parrots:
    return Parrots()


def slow_parrots() -> Parrots:
    return Parrots(step_s=0.1)


def strangers() -> Parrots:
    """Who does not know the model."""
    other = Parrots()
    other.bases = {"another": lambda body: "."}
    return other


def rows(topic: str, num: int = 12) -> Sequence[Messages]:
    return [(Message("user", f"{topic} {n}?"), Message("assistant", f"{topic} {n}!")) for n in range(num)]


def job(number: int, examples: Sequence[Messages]) -> TrainJob:
    """Cell `number` of a hosted model, trained on these."""
    digest = rows_digest(examples)
    key = adapter_key(f"hosted:{BASE}", rows_digest=digest, hyperparameters=HostedSpec().identity(), seed=number)
    cell = Cell(BASE, f"domain_{number}", Arm.PLAIN, number, key)
    return TrainJob(cell, f"hosted:{BASE}", digest)


def finetune(
    folder: Path, server: LocalServer, *, cells: int = 6, retry_failed: bool = False, **settings: Any
) -> dict[int, AdapterRecord]:
    """Have the cells done that are missing; every cell's record, by its number."""
    store, data = Store(str(folder)), {n: rows(f"topic {n}") for n in range(cells)}
    jobs = {n: job(n, data[n]) for n in range(cells)}
    records = store.adapter_records()
    done = {key for key, record in records.items() if record.trained or not retry_failed}
    missing = [one for one in jobs.values() if one.cell.key not in done]
    with hosted.under_way(
        missing,
        datasets={jobs[n].rows_digest: data[n] for n in data},
        spec=HostedSpec(**{"poll_s": 0.1} | settings),
        endpoint=GenerateEndpoint(base_url=server.base_url),
        context=Context(store),
    ):
        pass
    records = store.adapter_records()
    return {n: records[one.cell.key] for n, one in jobs.items()}
