"""What one actor does with a block: rows in the store first, failures as rows, repeats only of what is missing."""

import errno
import json
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from emray.endpoint.waits import telling
from emray.errors import StageError
from emray.generate import operator
from emray.generate.block_attempts import MAX_ATTEMPTS, BlockAttempts, BlockTally
from emray.generate.engine import EngineConfig, EngineDied, Finished, Sample, SampleRequest
from emray.generate.operator import Generator, Ledger, as_table
from emray.records import GENERATION_SCHEMA, FinishReason, GenerationTask
from emray.store import Kind, Store
from tests.generate_world import MODEL, cell, prompt, task

CONFIG = EngineConfig(
    engine="transformers",
    model_path=MODEL,
    temperature=0.7,
    top_p=1.0,
    max_tokens=8,
    prompts=(),
    num_adapters=0,
    max_lora_rank=0,
    samples_per_adapter=1,
    adapters_per_block=1,
    threads=1,
)


class Restarted(Exception):
    """Stands for the end of the actor's process."""


class Echo:
    """An engine that answers with the prompt and the seed, and dies at prompts that say so."""

    name, version, concurrent_calls = "echo", "1", 1

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        for position, request in enumerate(requests):
            text = request.messages[0].content
            self.asked.append(text)
            if "die" in text:
                raise EngineDied("out of memory")
            samples = tuple(Sample(f"{text} {seed}", FinishReason.STOP, 2) for seed in request.seeds)
            yield Finished(position, samples, 1)


def generator(store: Store, attempts: BlockAttempts, asked: list[str]) -> Generator:
    def restart(death: EngineDied) -> NoReturn:
        raise Restarted from death

    return Generator(CONFIG, store, ledger=ledger_of(attempts), engine=lambda config: Echo(asked), restart=restart)


def ledger_of(attempts: BlockAttempts) -> Ledger:
    return Ledger(attempts.begun, attempts.begin, attempts.finish, attempts.fail, attempts.hear)


def block_of(*texts: str) -> tuple[GenerationTask, ...]:
    return tuple(task(cell(0), prompt(text), samples=range(2)) for text in texts)


def test_rows_follow_the_schema_and_carry_each_samples_seed(tmp_path: Path) -> None:
    store, (only,) = Store(str(tmp_path)), block_of("hello")
    attempts = BlockAttempts()
    generator(store, attempts, [])(as_table(0, (only,)))
    table = store.read_rows(Kind.GENERATIONS)
    assert table.schema == GENERATION_SCHEMA
    rows = {row["sample"]: row for row in table.to_pylist()}
    assert [rows[k]["key"] for k in (0, 1)] == list(only.keys)
    assert [rows[k]["answer"] for k in (0, 1)] == [f"hello {only.seed}", f"hello {only.seed + 1}"]
    assert json.loads(rows[1]["provenance"]) == {"engine": "echo", "version": "1", "seed": only.seed + 1}
    assert json.loads(rows[0]["prompt"]) == [["user", "hello"]]
    assert attempts.tally() == BlockTally(num_answers=2, num_tokens=4, num_repeated=0)


def test_what_is_passed_on_is_already_stored(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = generator(store, BlockAttempts(), [])(as_table(0, block_of("a", "b")))
    assert rows.schema == GENERATION_SCHEMA
    assert store.read_rows(Kind.GENERATIONS).equals(rows.sort_by("key"))


def test_an_engine_that_dies_leaves_its_finished_rows_and_repeats_only_the_rest(tmp_path: Path) -> None:
    store, attempts, asked = Store(str(tmp_path)), BlockAttempts(), list[str]()
    first = generator(store, attempts, asked)
    first(as_table(0, block_of("warm")))
    with pytest.raises(Restarted):
        first(as_table(1, block_of("a", "b", "die", "c")))
    assert store.read_rows(Kind.GENERATIONS).num_rows == 6  # warm, a and b

    asked.clear()
    fresh = generator(store, attempts, asked)
    with pytest.raises(Restarted):
        fresh(as_table(1, block_of("a", "b", "die", "c")))
    assert asked == ["die"]


def test_a_prompt_that_always_kills_the_engine_becomes_error_rows(tmp_path: Path) -> None:
    store, attempts, asked = Store(str(tmp_path)), BlockAttempts(), list[str]()
    poisoned, fine = as_table(0, block_of("a", "die", "c")), as_table(1, block_of("d"))
    generator(store, attempts, asked)(fine)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Restarted):
            generator(store, attempts, asked)(poisoned)
    asked.clear()
    out = generator(store, attempts, asked)(poisoned)
    assert asked == []
    assert out.num_rows == 6
    assert attempts.tally().num_answers == 8
    rows = store.read_rows(Kind.GENERATIONS).to_pylist()
    assert len(rows) == 8
    failed = [row for row in rows if row["finish_reason"] == FinishReason.ERROR]
    assert {row["question_id"] for row in failed} == {"die", "c"}
    assert all(row["answer"] is None and "out of memory" in json.loads(row["provenance"])["error"] for row in failed)


def test_an_engine_that_never_finishes_anything_fails_the_stage_with_its_reason(tmp_path: Path) -> None:
    store, attempts = Store(str(tmp_path)), BlockAttempts()
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Restarted):
            generator(store, attempts, [])(as_table(0, block_of("die")))
    with pytest.raises(StageError, match="died 3 times at its first block: out of memory"):
        generator(store, attempts, [])(as_table(0, block_of("die")))
    assert store.read_rows(Kind.GENERATIONS).num_rows == 0


class OnDisk(Echo):
    """An engine whose adapter lies where nothing may be read or written."""

    def __init__(self, error: OSError) -> None:
        super().__init__([])
        self._error = error

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        yield from super().generate(requests[:1])
        raise self._error


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 1, "/a/b: No space left on device; make room and run the same command again"),
        (errno.EROFS, 2, "/a/b: Read-only file system; give another folder"),
    ],
)
def test_what_a_disk_refuses_is_told_as_that_and_what_was_drawn_is_kept(
    tmp_path: Path, number: int, code: int, said: str
) -> None:
    store, attempts = Store(str(tmp_path)), BlockAttempts()
    engine = OnDisk(OSError(number, os.strerror(number), "/a/b"))
    with pytest.raises(OSError, match="/a/b"):
        Generator(CONFIG, store, ledger=ledger_of(attempts), engine=lambda _: engine)(as_table(0, block_of("a", "b")))
    told = attempts.last_failure()
    assert told is not None and told.exit_code == code and str(told).startswith(said)
    assert store.read_rows(Kind.GENERATIONS).num_rows == 2


def test_an_error_that_is_no_disks_stays_ours(tmp_path: Path) -> None:
    attempts = BlockAttempts()
    engine = OnDisk(FileNotFoundError(errno.ENOENT, "gone", "/a/b"))
    with pytest.raises(FileNotFoundError):
        Generator(CONFIG, Store(str(tmp_path)), ledger=ledger_of(attempts), engine=lambda _: engine)(
            as_table(0, block_of("a"))
        )
    assert attempts.last_failure() is None


class Waiting(Echo):
    """An engine that answers only once somebody has heard what it waits for."""

    def __init__(self, heard: threading.Event) -> None:
        super().__init__([])
        self._heard = heard

    def complaint(self) -> str:
        return "wait 5 min, rate_limited: 429 slow down"

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        assert self._heard.wait(20)
        yield from super().generate(requests)


def test_an_engine_that_waits_for_an_endpoint_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, heard, notes = BlockAttempts(), threading.Event(), []

    def hear(note: str) -> None:
        attempts.hear(note)
        notes.append(attempts.heard())
        heard.set()

    monkeypatch.setattr(operator, "telling", partial(telling, silent_s=0.05))
    ledger = ledger_of(attempts)._replace(hear=hear)
    waiting = Generator(CONFIG, Store(str(tmp_path)), ledger=ledger, engine=lambda config: Waiting(heard))
    assert waiting(as_table(0, block_of("hello"))).num_rows == 2
    assert notes[0].startswith("nothing for ") and notes[0].endswith("rate_limited: 429 slow down")
    assert attempts.heard() == ""  # told once
