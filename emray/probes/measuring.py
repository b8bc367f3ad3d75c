"""Measurements over a pool of Ray workers: each keeps its models warm, makes one at a time and writes its rows.

Not for what is measured. The invariant: how many workers there are changes no row, and every measurement leaves rows:
its readings, or why there are none.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import ray
import ray.exceptions

from emray.cluster import Attempts, Cause, FailedTry, live_nodes
from emray.context import Context
from emray.errors import EmrayError, StageError
from emray.probes.protocol import FAILED, Bench, Measure, PlannedProbe
from emray.records import MEASUREMENT_SCHEMA, Measurement, Readout
from emray.store import Kind, Store

MAX_ATTEMPTS = 3  # of a measurement whose worker dies of it
_LONGEST = 500  # characters of a cause


def measure(probe: PlannedProbe, work: Iterable[Measurement], context: Context) -> None:
    """See emray.probes.run."""
    _Pool(probe, context).drain(enumerate(work))


class _Hand(NamedTuple):
    """A worker, and a reference to the id of the node it is on."""

    actor: Any
    node: Any


class _Try(NamedTuple):
    """A measurement under way."""

    hand: _Hand
    number: int
    measurement: Measurement


class _Pool:
    """As many workers as the hardware holds, each with one measurement at a time."""

    def __init__(self, probe: PlannedProbe, context: Context) -> None:
        self._probe, self._context = probe, context
        self._gpu = probe.computes and context.declared.gpu
        self._cpus = context.resources.cpus_per_engine if probe.computes else 1.0
        self._bench = Bench(context.store, self._gpu, max(1, int(self._cpus)))
        self._attempts = Attempts(most=MAX_ATTEMPTS, nodes=live_nodes)
        self._idle: list[_Hand] = []
        self._any_made, self._cause = False, ""

    def drain(self, numbered: Iterator[tuple[int, Measurement]]) -> None:
        """Returns when every measurement has rows."""
        again: list[tuple[int, Measurement]] = []
        busy: dict[Any, _Try] = {}
        most = self._num_workers()
        while True:
            while len(busy) < most and (piece := again.pop() if again else next(numbered, None)):
                started = _Try(self._hand(), *piece)
                work = self._probe.work(started.measurement)
                busy[started.hand.actor.measure.remote(started.measurement, work)] = started
            if not busy:
                return
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            tried = busy.pop(done)
            if not self._survived(done, tried) and not self._given_up(tried):
                again.append((tried.number, tried.measurement))

    def _num_workers(self) -> int:
        if self._gpu:
            return max(1, self._context.declared.max_gpus)
        return max(1, math.floor(ray.cluster_resources().get("CPU", 1) / self._cpus))

    def _hand(self) -> _Hand:
        if self._idle:
            return self._idle.pop()
        hardware: dict[str, Any] = self._context.declared.options(1.0) if self._gpu else {}
        variables = {"OMP_NUM_THREADS": str(self._bench.threads), "TRANSFORMERS_VERBOSITY": "error"}
        actor = ray.remote(_Worker).options(num_cpus=self._cpus, runtime_env={"env_vars": variables}, **hardware)
        handle = actor.remote(self._probe.worker, self._bench)
        return _Hand(handle, handle.node.remote())

    def _survived(self, done: Any, tried: _Try) -> bool:
        """Whether the worker lives, and with it the measurement is made. Raises what was no EmrayError in there."""
        try:
            ray.get(done)
        except ray.exceptions.RayActorError as death:
            self._attempts.failed(tried.number, FailedTry(Cause.WORKER_DIED, _node(tried.hand)))
            self._cause = str(death).splitlines()[0]
            return False
        self._idle.append(tried.hand)
        self._any_made = True
        self._context.advance(1)
        return True

    def _given_up(self, tried: _Try) -> bool:
        """Whether a measurement has killed as many workers as it may; a row then says so."""
        if not self._attempts.exhausted(tried.number):
            return False
        if not self._any_made:
            raise StageError(
                f"probe {self._probe.name}: workers died {MAX_ATTEMPTS} times at the first measurement: {self._cause}"
            )
        failed = Readout(f"its worker died {MAX_ATTEMPTS} times: {self._cause}"[:_LONGEST], FAILED, math.nan)
        write(self._context.store, tried.measurement, [failed])
        self._context.advance(1)
        return True


def _node(hand: _Hand) -> str | None:
    """Where a dead worker was; None where it died before it could say."""
    try:
        node: str = ray.get(hand.node, timeout=0)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return None
    return node


class _Worker:
    """One process that measures."""

    def __init__(self, worker: Callable[[Bench], Measure], bench: Bench) -> None:
        self._store = bench.store
        self._measure = worker(bench)

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def measure(self, one: Measurement, work: Any) -> None:
        """Write the rows of one measurement."""
        try:
            readings = list(self._measure(one, work))
        except EmrayError as error:
            readings = [Readout(str(error)[:_LONGEST], FAILED, math.nan)]
        write(self._store, one, readings)


def write(store: Store, one: Measurement, readings: Iterable[Readout]) -> None:
    """The rows of a measurement, at once."""
    columns = list(zip(*readings, strict=True))
    assert columns, f"{one.probe}: a measurement has a reading"
    subjects, measures, values = columns
    rows = {name: [value] * len(values) for name, value in vars(one).items()}
    rows |= {"subject": list(subjects), "measure": list(measures)}
    rows |= {"value": [value if math.isfinite(value) else None for value in values]}
    names = MEASUREMENT_SCHEMA.names
    store.write_rows(Kind.MEASUREMENTS, pa.table([rows[name] for name in names], schema=MEASUREMENT_SCHEMA))
