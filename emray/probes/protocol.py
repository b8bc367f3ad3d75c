"""What every probe is: the measurements it wants of a plan, which of them can be made by now, and who makes them.

Not for making them (measuring.py). The invariant: a measurement's key is known from the plan alone, before anything is
measured.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from emray.records import Measurement, Readout
from emray.store import Kind, Store

FAILED = "failed"  # the measure of a row that says why there are no others


@dataclass(frozen=True)
class Bench:
    """What a worker measures with."""

    store: Store
    gpu: bool
    threads: int  # CPU threads


Measure = Callable[[Measurement, Any], Iterable[Readout]]  # a measurement and its work in, its readings out


class PlannedProbe(Protocol):
    """One probe of one plan."""

    @property
    def name(self) -> str: ...

    @property
    def computes(self) -> bool:
        """Whether its workers load models, and so want the declared GPUs."""
        ...

    def measurements(self) -> Iterator[Measurement]:
        """All that the plan wants."""
        ...

    def possible(self, store: Store) -> Iterator[Measurement]:
        """Those of them that can be made by now: whose adapters and answers are there."""
        ...

    def work(self, measurement: Measurement) -> Any:
        """What a worker needs to make it, picklable."""
        ...

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        """Called once in every worker, so that models stay warm. Picklable, and small: not the plan. Heavy imports
        belong in the call.

        What it returns raises EmrayError for a measurement that cannot be made; that is recorded, and others go on.
        """
        ...


def missing(probe: PlannedProbe, store: Store) -> Iterator[Measurement]:
    """What can be measured by now and has no rows, each once."""
    there = store.keys(Kind.MEASUREMENTS)
    seen: set[str] = set()
    for one in probe.possible(store):
        if one.key not in seen and one.key not in there:
            seen.add(one.key)
            yield one
