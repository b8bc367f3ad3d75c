"""What became of each block and why engines died, kept where an engine's death cannot reach it.

Not for what counts as a try (cluster/attempts.py) or for retrying (Ray restarts the actor and repeats its blocks). The
invariant: a block that was begun and neither finished nor failed when it is begun again had a worker that died, so no
prompt can kill engines for ever. Ray passes an actor's exceptions on as text; the cause kept here is the exception.
"""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from emray.cluster.attempts import Attempts, Cause, FailedTry
from emray.errors import EmrayError

MAX_ATTEMPTS = 3


class Attempt(NamedTuple):
    """What an engine must know before it begins a block."""

    number: int  # 1 the first time
    last_failure: EmrayError | None  # what went wrong last, as far as it could still be said
    any_finished: bool  # whether any engine ever finished a block
    tries: int = 0  # of it that have failed
    exhausted: bool = False  # as often as they may
    ask_again_s: float = 0.0  # it seems so: whether its engines died with their nodes is known after this wait


class BlockTally(NamedTuple):
    """What finished blocks came to."""

    num_answers: int = 0
    num_tokens: int = 0
    num_repeated: int = 0  # blocks begun more than once

    def plus(self, other: "BlockTally") -> "BlockTally":
        return BlockTally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class BlockAttempts:
    """The state of a Ray actor, one per run. A node is Ray's id of it, None where there is no Ray."""

    def __init__(
        self,
        *,
        most: int = MAX_ATTEMPTS,
        nodes: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts = Attempts(most=most, nodes=nodes, clock=clock)
        self._begun: dict[int, int] = {}
        self._under_way: dict[int, str | None] = {}  # block -> node
        self._finished: set[int] = set()
        self._last_failure: EmrayError | None = None
        self._tally = BlockTally()
        self._heard = ""

    def begun(self, block: int) -> int:
        """How often the block was begun so far."""
        return self._begun.get(block, 0)

    def begin(self, block: int, node: str | None = None) -> Attempt:
        """A block is begun, unless the answer says to ask again."""
        if block in self._under_way:
            self._attempts.failed(block, FailedTry(Cause.WORKER_DIED, self._under_way.pop(block)))
        exhausted = self._attempts.exhausted(block)
        wait_s = self._attempts.verdict_s(block) if exhausted else 0.0
        if wait_s == 0.0:
            self._begun[block] = self.begun(block) + 1
            self._under_way[block] = node
        tries = self._attempts.tries(block)
        return Attempt(self.begun(block), self._last_failure, bool(self._finished), tries, exhausted, wait_s)

    def finish(self, block: int, tally: BlockTally) -> None:
        """A block that Ray repeats because its rows went with a node is counted once."""
        self._under_way.pop(block, None)
        if block not in self._finished:
            self._finished.add(block)
            self._tally = self._tally.plus(tally)

    def tally(self) -> BlockTally:
        """What all finished blocks came to so far."""
        return self._tally

    def hear(self, note: str) -> None:
        """An engine says what it waits for."""
        self._heard = note

    def heard(self) -> str:
        """What one said since this was last asked."""
        note, self._heard = self._heard, ""
        return note

    def fail(self, block: int, error: EmrayError) -> None:
        """The block's engine has said what is wrong."""
        self._last_failure = error
        self._attempts.failed(block, FailedTry(Cause.ERROR, self._under_way.pop(block, None)))

    def last_failure(self) -> EmrayError | None:
        return self._last_failure
