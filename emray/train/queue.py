"""Which cells are still to be trained: those not yet tried, and those that failed and come back.

Not for what counts as a try (cluster/attempts.py) or for placing cells (schedule.py tells Ray). The invariant: a cell
is handed out until it is done, or its attempts are exhausted.
"""

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ray.tune.search import Searcher

from emray.cluster.attempts import Attempts, Cause, FailedTry

BACKOFF_S = 2.0  # before the second try; after an error of the cell's own it doubles with each
MAX_BACKOFF_S = 60.0


class _Waiting(NamedTuple):
    ready_s: float
    cells: tuple[int, ...]


class CellQueue(Searcher):
    """Hands out groups of cells in order; the cells of a failed one come back singly after a pause, elsewhere.

    After the pause a cell takes its old place in the order, so that a long one that a lost node took is not the last.
    A suggestion's `avoid` names the live nodes where one of its cells has failed, and is empty when that leaves none.
    """

    def __init__(
        self,
        groups: Sequence[tuple[int, ...]],
        *,
        attempts: Attempts,
        after: Mapping[int, int] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`after`: of a cell that goes on with another one's adapter, that other; it waits until that has ended."""
        super().__init__()
        self._attempts, self._clock, self._after = attempts, clock, after
        self._ready: list[tuple[int, ...]] = []  # both are heaps
        self._pausing: list[_Waiting] = []
        self._held: dict[int, list[tuple[int, ...]]] = {}  # groups by a cell that they wait for
        self._running: dict[str, tuple[int, ...]] = {}
        self._over: list[int] = []
        self._done: set[int] = set()
        for group in sorted(groups):
            self._admit(group)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next group, None while all that is left waits or runs, FINISHED when nothing can come any more."""
        cells = self._next()
        if cells is None:
            return None if self._pausing or self._running or self._held else Searcher.FINISHED
        self._running[trial_id] = cells
        return {"cells": list(cells), "avoid": self._attempts.avoided(cells)}

    def failed(self, trial_id: str, failure: FailedTry) -> None:
        """A trial has failed: its cells wait to be tried again, or are over."""
        for cell in self._running.pop(trial_id):
            self._attempts.failed(cell, failure)
            self._put_back(cell, failure)

    def pop_over(self) -> list[int]:
        """Cells that have had their last try since this was last asked."""
        over, self._over = self._over, []
        self._ended(over)
        return over

    def drop(self) -> None:
        """Hand out nothing more; what runs may end."""
        self._ready.clear()
        self._pausing.clear()
        self._held.clear()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Failed trials stay until `failed` says why. One without a result was withdrawn before it started."""
        if error:
            return
        cells = self._running.pop(trial_id)
        if result is None:
            heapq.heappush(self._ready, cells)
        else:
            self._ended(cells)

    def save(self, checkpoint_path: str) -> None:
        """Tune asks for it; what is missing is read from the store, so there is nothing to keep."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its store, not from Tune")

    def _admit(self, group: tuple[int, ...]) -> None:
        """Hand a group out when its turn comes, once nothing that a cell of it goes on with is to come."""
        others = (self._after[cell] for cell in group if cell in self._after)
        first = next((other for other in others if other not in self._done), None)
        if first is None:
            heapq.heappush(self._ready, group)
        else:
            self._held.setdefault(first, []).append(group)

    def _ended(self, cells: Sequence[int]) -> None:
        """These have their record, so whoever waits for them need not."""
        self._done.update(cells)
        for group in [group for cell in cells for group in self._held.pop(cell, [])]:
            self._admit(group)

    def _next(self) -> tuple[int, ...] | None:
        """Cells whose pause is over; those without another try are put aside."""
        now = self._clock()
        while self._pausing and self._pausing[0].ready_s <= now:
            heapq.heappush(self._ready, heapq.heappop(self._pausing).cells)
        while self._ready:
            cells = heapq.heappop(self._ready)
            if not any(self._attempts.exhausted(cell) for cell in cells):
                return cells
            self._over += cells
        return None

    def _put_back(self, cell: int, failure: FailedTry) -> None:
        if not self._attempts.exhausted(cell):
            self._pause(cell, self._pause_s(cell, failure.cause))
        elif verdict_s := self._attempts.verdict_s(cell):
            self._pause(cell, verdict_s)
        else:
            self._over.append(cell)

    def _pause(self, cell: int, pause_s: float) -> None:
        heapq.heappush(self._pausing, _Waiting(self._clock() + pause_s, (cell,)))

    def _pause_s(self, cell: int, cause: Cause) -> float:
        """A cell whose worker was killed beside it waits the first pause, never longer."""
        if cause != Cause.ERROR:
            return BACKOFF_S
        return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (self._attempts.tries(cell) - 1))
