"""A sweep on a thousand spot GPUs without the GPUs: events on a simulated clock around emray's own queue of cells.

    python -m benchmarks.scale --model [10000]

What is real: the order of cells (longest first), the queue, its pauses and its ledger of attempts, and the seconds that
the control takes for a cell, one after another. What is drawn: how long a cell takes, when a node is lost and how soon
another comes in its place. What a lost cell had done is done again. The makespan stands beside the least that any
schedule without losses could reach, max(sum / m, longest), and beside the same with the losses' own work added. Not
covered: the network, the store, engines and judges. The same seed gives the same events.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from emray.cluster import Attempts, Cause, FailedTry
from emray.train.queue import CellQueue

LOOK_S = 2.0  # between looks at a queue whose cells all pause
TRIES = 3  # `resources.train_attempts`: a lost node costs none


class Fleet(NamedTuple):
    """GPUs and their fate."""

    num_gpus: int
    lost_per_hour: float  # of each
    replaced_s: float  # until another has started and loaded the model
    control_s: float  # of the one driver, a cell


class Made(NamedTuple):
    """What a sweep came to."""

    makespan_s: float
    bound_s: float  # max(sum / m, longest)
    bound_with_losses_s: float  # the same, with what was done twice and the GPUs' absence added
    finished: int
    done_twice: int  # cells that finished more than once
    losses: int
    lost_work_s: float


def durations(num_cells: int, *, seed: int) -> list[float]:
    """Seconds of cells, longest first: as eleven domains of different lengths, from 150 s to 900 s, and some noise."""
    rng = np.random.default_rng(seed)
    domain = np.geomspace(150, 900, 11)[rng.integers(0, 11, num_cells)]
    return sorted((domain * rng.uniform(0.95, 1.05, num_cells)).tolist(), reverse=True)


def simulate(cells: list[float], fleet: Fleet, *, seed: int) -> Made:
    """Run every cell to its end."""
    world = _World(cells, fleet, seed=seed)
    world.run()
    work, m = sum(cells), fleet.num_gpus
    away_s = world.losses * fleet.replaced_s
    bound, with_losses = (max(total / m, max(cells)) for total in (work, work + world.lost_work_s + away_s))
    done = world.done
    return Made(
        world.ended_s, bound, with_losses, len(done), sum(n > 1 for n in done.values()), world.losses, world.lost_work_s
    )


class _Task(NamedTuple):
    trial: str
    cell: int
    began_s: float


class _World:
    """The clock, the events to come, and what each GPU does."""

    def __init__(self, cells: list[float], fleet: Fleet, *, seed: int) -> None:
        self.now_s, self.ended_s, self.losses, self.lost_work_s = 0.0, 0.0, 0, 0.0
        self.done: dict[int, int] = {}
        self._cells, self._fleet, self._rng = cells, fleet, np.random.default_rng(seed)
        self._trials = map(str, count())
        self._nodes: dict[int, str] = {}  # GPU -> its node's name, while it is there
        self._tasks: dict[int, _Task] = {}
        self._idle: list[int] = []
        self._control_free_s = 0.0
        self._looking = False
        attempts = Attempts(most=TRIES, nodes=self._nodes.values, clock=lambda: self.now_s)
        self._queue = CellQueue([(n,) for n in range(len(cells))], attempts=attempts, clock=lambda: self.now_s)
        self._order = count()
        self._events: list[tuple[float, int, str, int, str]] = []
        for gpu in range(fleet.num_gpus):
            self._at(0.0, "came", gpu)

    def run(self) -> None:
        while len(self.done) < len(self._cells):
            self.now_s, _, what, gpu, name = heapq.heappop(self._events)
            getattr(self, f"_{what}")(gpu, name)

    def _at(self, when_s: float, what: str, gpu: int, name: str = "") -> None:
        heapq.heappush(self._events, (when_s, next(self._order), what, gpu, name))

    def _came(self, gpu: int, name: str) -> None:
        self._nodes[gpu] = f"{gpu}-{next(self._order)}"
        if self._fleet.lost_per_hour:
            life_s = float(self._rng.exponential(3600 / self._fleet.lost_per_hour))
            self._at(self.now_s + life_s, "lost", gpu, self._nodes[gpu])
        self._give(gpu)

    def _lost(self, gpu: int, name: str) -> None:
        node, task = self._nodes.pop(gpu), self._tasks.pop(gpu, None)
        self.losses += 1
        if task is not None:
            self.lost_work_s += max(0.0, self.now_s - task.began_s)
            self._queue.failed(task.trial, FailedTry(Cause.NODE_LOST, node))
        else:
            self._idle.remove(gpu)
        self._at(self.now_s + self._fleet.replaced_s, "came", gpu)
        self._wake()

    def _ended(self, gpu: int, trial: str) -> None:
        task = self._tasks.get(gpu)
        if task is None or task.trial != trial:  # it was lost before
            return
        del self._tasks[gpu]
        self._queue.on_trial_complete(trial, {"done": True})
        self.done[task.cell] = self.done.get(task.cell, 0) + 1
        self.ended_s = self.now_s
        self._give(gpu)

    def _look(self, gpu: int, name: str) -> None:
        self._looking = False
        waiting, self._idle = self._idle, []
        for one in waiting:
            self._give(one)

    def _give(self, gpu: int) -> None:
        """The next cell, once the control has come to it."""
        trial = next(self._trials)
        suggested = self._queue.suggest(trial)
        if not isinstance(suggested, dict):
            self._idle.append(gpu)
            self._wake()
            return
        (cell,) = suggested["cells"]
        self._control_free_s = max(self._control_free_s, self.now_s) + self._fleet.control_s
        self._tasks[gpu] = _Task(trial, cell, self._control_free_s)
        self._at(self._control_free_s + self._cells[cell], "ended", gpu, trial)

    def _wake(self) -> None:
        if self._idle and not self._looking:
            self._looking = True
            self._at(self.now_s + LOOK_S, "look", -1)


def sweeps(cells: list[float], *, gpus: int, lost_per_hour: float, control_s: float) -> Iterator[tuple[str, Made]]:
    """The same cells without losses and with."""
    for name, rate in (("steady", 0.0), ("spot", lost_per_hour)):
        fleet = Fleet(gpus, rate, replaced_s=180.0, control_s=control_s)
        yield name, simulate(cells, fleet, seed=1)
