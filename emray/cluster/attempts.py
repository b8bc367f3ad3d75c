"""One ledger of attempts: what was tried, how each try ended, and whose fault that was.

Training keeps one for its cells, generation one for its blocks of answers; both number their work. Not for handing work
out or waiting. The invariant: only a piece of work's own failures count against it. A worker that went with its node
(preempted, or lost) tried nothing, and whether a dead worker did is known only once its node has been missed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

VERDICT_S = 30.0  # until Ray has noticed that a node is gone (five missed health checks, 3 s apart, and some)


class Cause(StrEnum):
    """How a try ended without a result."""

    ERROR = "error"  # the work raised
    WORKER_DIED = "worker died"  # killed, out of memory, crashed, or taken along by its node
    NODE_LOST = "node lost"  # preempted, as Ray says


class FailedTry(NamedTuple):
    """Why a try failed and on which node (Ray's id; None: it died before it could say)."""

    cause: Cause
    node: str | None


class _Entry(NamedTuple):
    failure: FailedTry
    at_s: float


class Attempts:
    """Failures by number of work. `nodes()` are the ids of the live nodes that can do it."""

    def __init__(
        self, *, most: int, nodes: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most = most
        self._nodes, self._clock = nodes, clock
        self._failures: defaultdict[int, list[_Entry]] = defaultdict(list)

    def failed(self, work: int, failure: FailedTry) -> None:
        self._failures[work].append(_Entry(failure, self._clock()))

    def tries(self, work: int) -> int:
        """Failures that count: its own errors, and the deaths of workers whose node lives."""
        failures = [entry.failure for entry in self._failures[work] if entry.failure.cause != Cause.NODE_LOST]
        died_on = [failure.node for failure in failures if failure.cause == Cause.WORKER_DIED and failure.node]
        alive = self._nodes() if died_on else ()
        return len(failures) - sum(node not in alive for node in died_on)

    def exhausted(self, work: int) -> bool:
        """Whether it has been tried as often as it may; not final while `verdict_s` is more than 0."""
        return self.tries(work) >= self.most

    def verdict_s(self, work: int) -> float:
        """Seconds until it is known of every worker that died on it whether its node went, too."""
        deaths = [
            entry.at_s
            for entry in self._failures[work]
            if entry.failure.cause == Cause.WORKER_DIED and entry.failure.node is not None
        ]
        return max(0.0, max(deaths) + VERDICT_S - self._clock()) if deaths else 0.0

    def avoided(self, works: Iterable[int]) -> list[str]:
        """Live nodes where any of them has failed; none when that leaves no other."""
        failed_on = {entry.failure.node for work in works for entry in self._failures[work] if entry.failure.node}
        alive = set(self._nodes()) if failed_on else set()
        return sorted(failed_on & alive) if alive - failed_on else []
