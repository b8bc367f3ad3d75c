"""What a stage tells while it works: a callback, and the progress lines a person watches.

Not for logs or results. The invariant: a stage only ever calls `Advance`; what becomes of it is the command's business.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from emray.printable import printable_line, printable_lines

_LOG_EVERY_S = 30.0  # in a file, where no line can move
_MAX_COLUMNS = 80


class Terminal(Console):
    """A console that obeys nobody's words but ours: control characters in what it is given are shown, not sent."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False)

    def on_broken_pipe(self) -> None:
        """Rich would end the process with 1; what a reader that has gone means is the command's business."""
        self.quiet = True
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """See rich; its own control codes are segments of their own and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))


class Advance(Protocol):
    """`advance(3)`: three more are done. `advance(0, "loss 0.12")`: only the note at the end of the line changes."""

    def __call__(self, done: int, note: str = "") -> None: ...


def silent(done: int, note: str = "") -> None:
    """An Advance for scripts and tests."""


class ProgressLines:
    """A line per stage, at most 80 columns wide, several of them moving at once; safe to use from several threads."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._lines: dict[str, _Line] = {}

    def line(self, stage: str, *, total: int) -> Advance:
        """The stage's line, for `total` more than it was for so far."""
        if stage not in self._lines:
            task = self._bars.add_task(stage, total=0, note="")
            moves = self._bars.console.is_terminal
            self._lines[stage] = _Line(self._bars, task) if moves else _LoggedLine(self._bars, task)
        line = self._lines[stage]
        line.grow(total)
        return line


@contextmanager
def progress_lines(console: Console) -> Iterator[ProgressLines]:
    """Lines for the length of the block. A log file gets one at first, every LOG_EVERY_S, and when a stage is done."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),  # an endpoint's words, brackets and all
    )
    with Progress(*columns, console=console, refresh_per_second=4, disable=not console.is_terminal) as bars:
        yield ProgressLines(bars)


@contextmanager
def progress_line(stage: str, *, total: int, console: Console) -> Iterator[Advance]:
    """One line for one stage."""
    with progress_lines(console) as lines:
        yield lines.line(stage, total=total)


class _Line:
    """An Advance that moves one progress line; a copy of it in another process is silent."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._id = bars, task

    def __call__(self, done: int, note: str = "") -> None:
        self._bars.advance(self._id, done)
        if note:
            note = printable_line(note)
            self._bars.update(self._id, note=note)

    def grow(self, more: int) -> None:
        task = self._bars.tasks[self._id]
        self._bars.update(self._id, total=(task.total or 0) + more)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_copy_in_another_process, ())


class _LoggedLine(_Line):
    """The same where lines do not move."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        super().__init__(bars, task)
        self._started_s, self._written_s = time.monotonic(), -math.inf  # what it says first is written at once

    def __call__(self, done: int, note: str = "") -> None:
        before = self._bars.tasks[self._id].completed
        super().__call__(done, note)
        task = self._bars.tasks[self._id]
        ends = before < (task.total or 0) <= task.completed
        if not ends and time.monotonic() - self._written_s < _LOG_EVERY_S:
            return
        self._written_s = time.monotonic()
        wall_s = round(self._written_s - self._started_s)
        counts = f"{task.completed:.0f}/{task.total:.0f} {task.percentage:3.0f}%"
        clock = f"{wall_s // 3600}:{wall_s // 60 % 60:02}:{wall_s % 60:02}"
        now = time.strftime("%H:%M:%S")
        text = f"{now} {task.description:<9} {counts} {clock} {task.fields['note']}"[:_MAX_COLUMNS].rstrip()
        self._bars.console.print(text, markup=False, soft_wrap=True)


def _copy_in_another_process() -> Advance:
    return silent
