"""Cells that fail come back: after a pause, elsewhere, and not for ever; what is not their fault costs them nothing."""

from collections.abc import Mapping

import pytest

from emray.cluster.attempts import VERDICT_S, Attempts, Cause, FailedTry
from emray.train.queue import BACKOFF_S, MAX_BACKOFF_S, CellQueue


class World:
    """A clock and a set of nodes that a test moves."""

    def __init__(self, *nodes: str) -> None:
        self.now, self.nodes = 0.0, set(nodes)

    def queue(self, *groups: tuple[int, ...], attempts: int = 3, after: Mapping[int, int] | None = None) -> CellQueue:
        self.attempts = Attempts(most=attempts, nodes=lambda: self.nodes, clock=lambda: self.now)
        return CellQueue(groups, attempts=self.attempts, after=after or {}, clock=lambda: self.now)

    def pause_until_ready(self, queue: CellQueue, trial_id: str) -> float:
        started = self.now
        while queue.suggest(trial_id) is None:
            self.now += 1.0
        return self.now - started


def test_a_failed_cell_comes_back_singly_after_a_pause_and_then_no_more():
    world = World("a")
    queue = world.queue((0,), (1, 2), attempts=2)
    assert queue.suggest("t0") == {"cells": [0], "avoid": []}
    assert queue.suggest("t1") == {"cells": [1, 2], "avoid": []}
    queue.on_trial_complete("t0", result={})
    queue.failed("t1", FailedTry(Cause.ERROR, "a"))
    assert queue.pop_over() == []
    assert queue.suggest("t2") is None
    world.now += BACKOFF_S
    assert queue.suggest("t2") == {"cells": [1], "avoid": []}
    assert queue.suggest("t3") == {"cells": [2], "avoid": []}
    queue.failed("t2", FailedTry(Cause.ERROR, "a"))
    assert queue.pop_over() == [1]
    queue.on_trial_complete("t3", result={})
    assert queue.suggest("t4") == CellQueue.FINISHED
    assert world.attempts.tries(1) == 2


def test_after_its_pause_a_cell_takes_its_old_place_in_the_order():
    world = World("a", "b")
    queue = world.queue((0,), (1,), (2,), (3,))
    assert queue.suggest("t0") == {"cells": [0], "avoid": []}
    queue.failed("t0", FailedTry(Cause.NODE_LOST, "a"))
    assert queue.suggest("t1") == {"cells": [1], "avoid": []}  # it still pauses
    world.now += BACKOFF_S
    assert [queue.suggest(trial)["cells"] for trial in ("t2", "t3", "t4")] == [[0], [2], [3]]


@pytest.mark.parametrize(
    ("cause", "pauses"),
    [(Cause.ERROR, [2, 4, 8, 16, 32, 60, 60]), (Cause.WORKER_DIED, [2] * 7), (Cause.NODE_LOST, [2] * 7)],
)
def test_only_a_cells_own_errors_make_the_pauses_longer(cause, pauses):
    world = World("a")
    queue = world.queue((0,), attempts=99)
    queue.suggest("t0")
    seen = []
    for number in range(len(pauses)):
        queue.failed(f"t{number}", FailedTry(cause, "a"))
        seen.append(world.pause_until_ready(queue, f"t{number + 1}"))
    assert seen == pauses
    assert max(seen) <= MAX_BACKOFF_S


def test_a_preempted_worker_has_tried_nothing():
    world = World("a")
    queue = world.queue((0,), attempts=1)
    for number in range(50):
        world.pause_until_ready(queue, f"t{number}")
        queue.failed(f"t{number}", FailedTry(Cause.NODE_LOST, "a"))
    assert queue.pop_over() == []
    assert world.attempts.tries(0) == 0


def test_a_dead_worker_is_a_try_unless_its_node_turns_out_to_be_gone():
    world = World("a", "b")
    queue = world.queue((0,), (1,), attempts=1)
    queue.suggest("t0")
    queue.suggest("t1")
    queue.failed("t0", FailedTry(Cause.WORKER_DIED, "a"))
    queue.failed("t1", FailedTry(Cause.WORKER_DIED, "b"))
    assert queue.suggest("t2") is None
    world.now, world.nodes = VERDICT_S, {"b", "c"}
    assert queue.suggest("t2") == {"cells": [0], "avoid": []}
    assert queue.suggest("t3") is None
    assert queue.pop_over() == [1]
    assert queue.pop_over() == []
    queue.on_trial_complete("t2", result={})
    assert queue.suggest("t3") == CellQueue.FINISHED


def test_a_dead_worker_of_an_unknown_node_is_a_try():
    queue = World("a").queue((0,), attempts=1)
    queue.suggest("t0")
    queue.failed("t0", FailedTry(Cause.WORKER_DIED, None))
    assert queue.pop_over() == [0]


def test_a_retry_avoids_the_nodes_it_failed_on_while_another_is_there():
    world = World("a", "b", "c")
    queue = world.queue((0,), attempts=9)
    queue.suggest("t0")
    seen = []
    for number, node in enumerate(["a", "b", "c"]):
        queue.failed(f"t{number}", FailedTry(Cause.ERROR, node))
        world.now += MAX_BACKOFF_S
        seen.append(queue.suggest(f"t{number + 1}")["avoid"])
    assert seen == [["a"], ["a", "b"], []]


def test_a_node_that_has_gone_need_not_be_avoided():
    world = World("a", "b")
    queue = world.queue((0,))
    queue.suggest("t0")
    world.nodes = {"b"}
    queue.failed("t0", FailedTry(Cause.NODE_LOST, "a"))
    world.now += BACKOFF_S
    assert queue.suggest("t1") == {"cells": [0], "avoid": []}


def test_a_withdrawn_trial_is_suggested_again_and_was_no_try():
    world = World("a", "b")
    queue = world.queue((0,), attempts=2)
    queue.suggest("t0")
    queue.failed("t0", FailedTry(Cause.ERROR, "a"))
    world.now += BACKOFF_S
    assert queue.suggest("t1")["avoid"] == ["a"]
    world.nodes = {"a"}
    queue.on_trial_complete("t1")
    assert queue.suggest("t2") == {"cells": [0], "avoid": []}
    assert world.attempts.tries(0) == 1


def test_an_error_waits_for_its_reason():
    queue = World("a").queue((0,))
    queue.suggest("t0")
    queue.on_trial_complete("t0", error=True)
    assert queue.suggest("t1") is None
    queue.failed("t0", FailedTry(Cause.ERROR, None))
    assert queue.suggest("t1") is None


def test_a_cell_that_goes_on_with_another_waits_until_that_has_ended():
    world = World("a")
    queue = world.queue((0, 1), (2, 3), (4,), attempts=1, after={2: 0, 3: 1, 4: 2})
    assert queue.suggest("t0")["cells"] == [0, 1]
    assert queue.suggest("t1") is None
    queue.on_trial_complete("t0", result={})
    assert queue.suggest("t1")["cells"] == [2, 3]
    assert queue.suggest("t2") is None
    queue.failed("t1", FailedTry(Cause.ERROR, "a"))
    assert queue.suggest("t2") is None  # its record is not there yet
    assert queue.pop_over() == [2, 3]
    assert queue.suggest("t2")["cells"] == [4]  # which then says what became of the other
    queue.on_trial_complete("t2", result={})
    assert queue.suggest("t3") == CellQueue.FINISHED


def test_whoever_waits_for_a_cell_that_is_tried_again_waits_for_the_last_try():
    world = World("a")
    queue = world.queue((0,), (1,), after={1: 0})
    assert queue.suggest("t0")["cells"] == [0]
    queue.failed("t0", FailedTry(Cause.ERROR, "a"))
    assert queue.suggest("t1") is None
    world.now += BACKOFF_S
    assert queue.suggest("t1")["cells"] == [0]
    queue.on_trial_complete("t1", result={})
    assert queue.suggest("t2")["cells"] == [1]
