"""Scoring what is not marked: in this process where it is arithmetic, else in processes of their own, side by side.

Not for what has to be scored (unmarked.py). The invariant: every task leaves a row, an error too; rows are written
every few seconds, so that a kill costs little.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import Any

from emray.context import Context
from emray.marks.unmarked import MarkScheme, MarkTask
from emray.scorers import GivenMark, Hand, exact, number
from emray.store import Kind

_ROWS_A_PART = 10_000
_SECONDS_A_PART = 10.0
_TOGETHER = 200  # answers that are under way at a time
_MOST_HANDS = 4

_Scorer = Callable[[MarkTask], GivenMark]


def run(tasks: Iterable[MarkTask], *, schemes: Sequence[MarkScheme], context: Context) -> None:
    """Write a mark for every task; `context.advance` counts them. Raises StageError where a scorer does not start."""
    rows: list[dict[str, Any]] = []
    written_s = context.clock()
    with ExitStack() as opened:
        marking = _Marking(schemes, opened)
        left = iter(tasks)
        while some := list(islice(left, _TOGETHER)):
            rows.extend(map(_row, some, marking.scored(some)))
            if len(rows) >= _ROWS_A_PART or context.clock() - written_s > _SECONDS_A_PART:
                context.store.write_rows(Kind.MARKS, rows)
                rows, written_s = [], context.clock()
            context.advance(len(some))
        if rows:
            context.store.write_rows(Kind.MARKS, rows)


class _Marking:
    """A scorer for every scheme, made when it is first needed and closed with what it was opened in."""

    def __init__(self, schemes: Sequence[MarkScheme], opened: ExitStack) -> None:
        self._schemes, self._opened = schemes, opened
        self._scorers: dict[int, _Scorer] = {}
        self._threads = opened.enter_context(ThreadPoolExecutor(_MOST_HANDS, thread_name_prefix="mark"))

    def scored(self, tasks: Sequence[MarkTask]) -> Iterator[GivenMark]:
        """In their order."""
        return self._threads.map(lambda task: self._scorer(task)(task), self._ready(tasks))

    def _ready(self, tasks: Sequence[MarkTask]) -> Sequence[MarkTask]:
        for task in tasks:
            if task.scheme not in self._scorers:
                self._scorers[task.scheme] = _scorer(task, self._schemes[task.scheme], self._opened)
        return tasks

    def _scorer(self, task: MarkTask) -> _Scorer:
        return self._scorers[task.scheme]


def _scorer(task: MarkTask, scheme: MarkScheme, opened: ExitStack) -> _Scorer:
    """By the way that all tasks of a scheme share."""
    ((way, fields),) = ((way, fields) for way, fields in task.scoring.score.items() if way != "source")
    if way == "exact":
        return lambda one: exact(one.answer, one.scoring.right, **fields)
    if way == "number":
        return lambda one: number(one.answer, one.scoring.right, **fields)
    hands: SimpleQueue[Hand] = SimpleQueue()
    for _ in range(min(_MOST_HANDS, os.cpu_count() or 1)):
        hand = Hand({way: fields}, folders=scheme.folders, time_limit_s=scheme.time_limit_s)
        hands.put(opened.enter_context(hand))
    return partial(_by_hand, hands)


def _by_hand(hands: "SimpleQueue[Hand]", task: MarkTask) -> GivenMark:
    """By whichever hand is free."""
    hand = hands.get()
    try:
        return hand.score(task.answer, question=task.scoring.wording, right=task.scoring.right)
    finally:
        hands.put(hand)


def _row(task: MarkTask, scored: GivenMark) -> dict[str, Any]:
    return {
        "key": task.key,
        "generation": task.generation,
        "asked": task.scoring.key,
        "outcome": str(scored.outcome),
        "score": scored.score,
        "note": scored.note,
    }
