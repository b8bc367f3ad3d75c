"""How a command ends before its work does: at a signal, or because what it runs in died under it.

Not for errors (errors.py) or for what is kept (the store's invariants see to that). The invariant: within `stoppable`,
Ctrl-C or SIGTERM ends the process within GRACE_S, whatever it waits for, and a second signal ends it at once.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, NoReturn

from emray.errors import EmrayError, of_disk

GRACE_S = 8.0  # for what is under way to close; then the process ends as a kill would end it, which loses nothing more
GO_ON = "stopped; run the same command to go on, all that is done is kept"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; a spot machine's notice, a scheduler's limit
_SHOW_CURSOR = "\x1b[?25h"  # a progress line hides it

_told_how = threading.Event()
_told: list[IO[bytes]] = []  # ways to those who would otherwise speak when the process is gone


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number  # as a shell counts


@contextmanager
def stoppable() -> Iterator[None]:
    """The first signal within the block raises Stopped in the main thread, whatever unwinding then meets."""
    handler = _Handler()
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:  # Ray's waits make an interrupt of their own of our Stopped
        if handler.came is None or isinstance(error, EmrayError):
            raise
        raise Stopped(handler.came) from None
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def ended(command: Callable[[], int], *, say: Callable[[str], None]) -> int:
    """A command's exit code; an error of ours, a disk that takes nothing and a signal are one line."""
    try:
        with stoppable():
            return command()
    except EmrayError as error:
        say(f"emray: {error}")
        return error.exit_code
    except OSError as error:
        told = of_disk(error)
        if told is None:
            raise
        say(f"emray: {told}")
        return told.exit_code
    except Stopped as stop:
        tell_how_to_go_on()
        return stop.exit_code


def finish(main: Callable[[], int]) -> NoReturn:
    """End the process with a command's exit code; a reader that has gone (`| head`) has seen what it wanted."""
    try:
        try:
            code = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is flushed later goes nowhere
        code = 0
    sys.exit(code)


def tell_how_to_go_on() -> None:
    """Once a process, on standard output."""
    if _told_how.is_set():
        return
    _told_how.set()
    with suppress(OSError, ValueError, RuntimeError):  # closed, or in the middle of a write
        sys.stdout.flush()
    with suppress(OSError):
        os.write(1, f"{_SHOW_CURSOR if os.isatty(1) else ''}\n{GO_ON}\n".encode())


@contextmanager
def own_signals() -> Iterator[None]:
    """Whatever a library does to signals within the block is undone at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit as end:  # how Ray answers SIGTERM while it starts
        if end.code == signal.SIGTERM:
            raise Stopped(signal.SIGTERM) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def last_word(message: str, *, to: int) -> Iterator[None]:
    """If the process dies within the block without a word, a child of its own says `message` on file descriptor `to`.

    A library's core may end a process where no line of Python runs any more.
    """
    command = ["/bin/sh", "-c", 'read -r _ || printf "\\n%s\\n" "$1" >&2', "sh", message]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=to, start_new_session=True, env={}
    )
    assert child.stdin is not None
    _told.append(child.stdin)
    try:
        yield
    finally:
        _told.remove(child.stdin)
        _tell(child.stdin)
        child.stdin.close()
        child.wait()


def _tell(pipe: IO[bytes]) -> None:
    with suppress(OSError):
        pipe.write(b"the end was told\n")
        pipe.flush()


class _Handler:
    """Unwinds at the first signal, ends the process at the second or when unwinding takes too long."""

    came: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.came is not None:
            _end(self.came)
        self.came = number
        _hush()
        late = threading.Timer(GRACE_S, _end, [number])
        late.daemon = True
        late.start()
        raise Stopped(number)


def _hush() -> None:
    """What threads of Ray's meet from now on is Ray being taken away from under them."""
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None


def _end(number: int) -> None:
    for pipe in _told:
        _tell(pipe)
    tell_how_to_go_on()
    os._exit(128 + number)
