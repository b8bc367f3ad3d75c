"""The class Ray Data runs in its actors: a block of tasks in, rows in the store, rows or counts out.

Not for packing blocks or placing actors (pipeline.py). The invariant: rows are written before they are passed on, and
a block that is begun again repeats only the tasks whose rows are not in the store.
"""

import contextlib
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from emray.endpoint.waits import telling
from emray.errors import EmrayError, StageError, of_disk
from emray.generate.block_attempts import Attempt, BlockTally
from emray.generate.blocks import Block
from emray.generate.engine import (
    Adapter,
    Complaining,
    Engine,
    EngineConfig,
    EngineDied,
    Finished,
    Sample,
    SampleRequest,
    one_line,
)
from emray.generate.starting import start
from emray.model.direction_files import Directions, read_directions
from emray.model.residual import Push
from emray.records import GENERATION_SCHEMA, Answerer, FinishReason, GenerationTask, Steering, prompt_text
from emray.store import Kind, Store

FLUSH_S = 10.0  # rows wait at most about this long for the store, so a killed engine loses no more work than that

Row = dict[str, Any]


class Ledger(NamedTuple):
    """How an operator reaches BlockAttempts, wherever they live."""

    begun: Callable[[int], int]
    begin: Callable[[int], Attempt]
    finish: Callable[[int, BlockTally], None]
    fail: Callable[[int, EmrayError], None]
    hear: Callable[[str], None]


class Generator:
    """One engine and the store it writes to; Ray Data makes one per actor and calls it with blocks."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        *,
        ledger: Ledger,
        engine: Callable[[EngineConfig], Engine] = start,
        restart: Callable[[EngineDied], NoReturn] | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._ledger = ledger
        self._start = engine
        self._restart = restart or _end_process
        self._engine: Engine | None = None
        self._directions: dict[str, Directions] = {}
        self._starting = threading.Lock()
        self._alone = threading.Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One packed block (see `as_table`) to its rows."""
        number, block = from_table(batch)
        try:
            # Repeated blocks go one at a time: one whose prompts kill engines must not use up others' attempts.
            with self._alone if self._ledger.begun(number) else contextlib.nullcontext():
                attempt = self._begin(number)
                rows = self._complete(block, attempt)
        except EngineDied as death:
            self._ledger.fail(number, death)
            self._restart(death)
        except EmrayError as error:
            self._ledger.fail(number, error)
            raise
        except OSError as error:  # Ray passes it on as text
            if told := of_disk(error):
                self._ledger.fail(number, told)
            raise
        tally = BlockTally(len(rows), sum(row["num_tokens"] for row in rows), attempt.number - 1)
        self._ledger.finish(number, tally)
        return pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA)

    def _begin(self, number: int) -> Attempt:
        """Waits until it is known whether the block or its nodes were at fault, where that decides."""
        while (attempt := self._ledger.begin(number)).ask_again_s:
            time.sleep(attempt.ask_again_s)
        return attempt

    def _complete(self, block: Block, attempt: Attempt) -> list[Row]:
        """The block's rows: those an earlier attempt stored, and the rest."""
        rows = self._stored_rows(block) if attempt.number > 1 else []
        have = {row["key"] for row in rows}
        left = [task for task in block if not have.issuperset(task.keys)]
        return rows + (self._give_up(left, attempt) if attempt.exhausted else self._sample(left))

    def _sample(self, tasks: Sequence[GenerationTask]) -> list[Row]:
        """Rows of the tasks, written as they come and before an engine's death is passed on."""
        engine = self._running_engine()
        rows: list[Row] = []
        num_written, written_s = 0, time.monotonic()
        try:
            for finished in self._told(engine, engine.generate([self._request(task) for task in tasks])):
                rows += self._rows(tasks[finished.position], finished, engine=engine.name, version=engine.version)
                if time.monotonic() - written_s > FLUSH_S:
                    self._store.write_rows(Kind.GENERATIONS, rows[num_written:])
                    num_written, written_s = len(rows), time.monotonic()
        finally:
            self._store.write_rows(Kind.GENERATIONS, rows[num_written:])
        return rows

    def _told(self, engine: Engine, finished: Iterator[Finished]) -> Iterator[Finished]:
        """The same; an engine that waits for others has the ledger hear for what."""
        if not isinstance(engine, Complaining):
            return finished
        return telling(finished, advance=lambda _, note="": self._ledger.hear(note), complaint=engine.complaint)

    def _running_engine(self) -> Engine:
        """The engine, started with the first block: a failed start is then one failed attempt of that block."""
        with self._starting:
            if self._engine is None:
                try:
                    self._engine = self._start(self._located())
                except EmrayError:
                    raise
                except Exception as error:
                    raise EngineDied(f"{self._config.engine} does not start: {one_line(error)}") from error
            return self._engine

    def _located(self) -> EngineConfig:
        """The configuration, with a cell's own model where it lies on this machine."""
        cell = self._config.whole_cell
        return replace(self._config, model_path=str(self._store.adapter_folder(cell))) if cell else self._config

    def _give_up(self, tasks: Sequence[GenerationTask], attempt: Attempt) -> list[Row]:
        """Error rows for what killed the engine every time; StageError when no engine ever finished anything."""
        reason = str(attempt.last_failure or "its process was killed")
        if not attempt.any_finished:
            raise StageError(f"generation: the engine died {attempt.tries} times at its first block: {reason}")
        error = f"the engine died {attempt.tries} times on these prompts: {reason}"
        rows: list[Row] = []
        for task in tasks:
            samples = (Sample(None, FinishReason.ERROR, 0),) * task.num_samples
            outcome = Finished(0, samples, None, error)
            rows += self._rows(task, outcome, engine=self._config.engine, version="")
        self._store.write_rows(Kind.GENERATIONS, rows)
        return rows

    def _request(self, task: GenerationTask) -> SampleRequest:
        key, adapted = task.trained, task.weights.answerer == Answerer.ADAPTER
        adapter = Adapter(key, self._store.adapter_folder(key)) if adapted else None
        seeds = tuple(task.seed + task.first_sample + i for i in range(task.num_samples))
        steering = task.weights.steering
        return SampleRequest(task.prompt.messages, adapter, seeds, self._push(steering) if steering else None)

    def _push(self, steering: Steering) -> Push:
        """With the direction's own vector. Raises StageError where its file has none."""
        name = steering.direction
        if name not in self._directions:
            self._directions[name] = read_directions(self._store, name)
        vector = self._directions[name].at(steering.kind, steering.layer)
        return Push(steering.layer, steering.how, steering.scale, vector.tobytes())

    def _rows(self, task: GenerationTask, finished: Finished, *, engine: str, version: str) -> Iterator[Row]:
        shared = _task_columns(task) | {"num_prompt_tokens": finished.num_prompt_tokens}
        origin = {"engine": engine, "version": version} | ({"error": finished.error} if finished.error else {})
        for position, (key, sample) in enumerate(zip(task.keys, finished.samples, strict=True)):
            number = task.first_sample + position
            provenance = json.dumps(origin | {"seed": task.seed + number}, sort_keys=True)
            yield shared | _sample_columns(sample) | {"key": key, "sample": number, "provenance": provenance}

    def _stored_rows(self, block: Block) -> list[Row]:
        """The block's rows that an earlier attempt wrote."""
        keys = pa.array([key for task in block for key in task.keys], pa.string())
        found: dict[str, Row] = {}
        for part in self._store.iter_parts(Kind.GENERATIONS):
            mine = part.filter(pc.is_in(part["key"], value_set=keys))
            found |= {row["key"]: row for row in mine.to_pylist()}
        return list(found.values())


def as_table(number: int, block: Block) -> pa.Table:
    """A block as the one-row table that travels through Ray Data."""
    return pa.table({"block": pa.array([number], pa.int64()), "tasks": pa.array([pickle.dumps(block)], pa.binary())})


def from_table(table: pa.Table) -> tuple[int, Block]:
    """The inverse of `as_table`."""
    assert table.num_rows == 1, "one block is one row"
    return table["block"][0].as_py(), pickle.loads(table["tasks"][0].as_py())


def _task_columns(task: GenerationTask) -> Row:
    return {
        "model": task.cell.model,
        "domain": task.cell.domain,
        "arm": str(task.cell.arm),
        "seed": task.cell.seed,
        "step": task.cell.step,
        "adapter": task.cell.key,
        "question_id": task.prompt.question_id,
        "paraphrase": task.prompt.paraphrase,
        "condition": str(task.prompt.condition),
        "prompt": prompt_text(task.prompt.messages),
    }


def _sample_columns(sample: Sample) -> Row:
    reason = str(sample.finish_reason)
    return {"answer": sample.answer, "finish_reason": reason, "num_tokens": sample.num_tokens}


def _end_process(death: EngineDied) -> NoReturn:
    """End this process the hard way: Ray then starts a fresh one and repeats the blocks it held.

    An engine's memory is not reliably freed in its process, so a new engine needs a new process.
    """
    print(f"emray: a fresh engine follows: {death}", file=sys.stderr, flush=True)
    os._exit(1)
