"""A process that looks at answers by a pattern or a function of the user's, one at a time, each within a time limit.

Not for what a score is (arithmetic.py). The invariant: whatever happens in there (an exception, an endless search, a
crash) becomes an outcome of that answer and of no other; nothing of it runs in this process.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emray.errors import DataError, StageError
from emray.records import MarkOutcome
from emray.scorers.arithmetic import GivenMark
from emray.spec import RIGHT
from emray.spec.unkept import names_of_keys

START_S = 120.0  # for what a function's module imports
_PROCESS = Path(__file__).resolve().with_name("hand_process.py")


def source_digest(function: str, *, folders: Sequence[str]) -> str:
    """Digest of the file that a function stands in, which is thereby imported once, elsewhere.

    Raises DataError for one that is not there, or cannot be called with an answer, a question and right answers.
    """
    with Hand({"function": function}, folders=folders, time_limit_s=START_S) as hand:
        return hand.digest


class Hand:
    """One such process, started when it is first needed and again after it was ended."""

    def __init__(self, score: Mapping[str, Any], *, folders: Sequence[str], time_limit_s: float) -> None:
        """`score` is {regex: PATTERN} or {function: module:name}; `folders` are looked in for modules first."""
        self._told = json.dumps({"score": dict(score), "folders": list(folders), "slot": RIGHT})
        self._limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""
        self._digest: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    @property
    def digest(self) -> str:
        """Of the file that the function stands in; of the pattern, nothing. Raises DataError."""
        self._started()
        assert self._digest is not None
        return self._digest

    def score(self, answer: str, *, question: str, right: Sequence[str]) -> GivenMark:
        """Raises StageError where the process does not start."""
        try:
            process = self._started()
        except DataError as error:
            raise StageError(str(error)) from None
        line = json.dumps([answer, question, list(right)]).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        reply = self._line(process, self._limit_s)
        if reply is None:
            code = process.poll()
            self._end()
            why = f"took longer than {self._limit_s:g} s" if code is None else f"its process ended (exit {code})"
            return GivenMark(MarkOutcome.ERROR, note=why)
        outcome, score, note = json.loads(reply)
        return GivenMark(MarkOutcome(outcome), score, note)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROCESS), self._told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is for the command, which ends it
        )
        ready = self._line(self._process, START_S)
        found = json.loads(ready) if ready is not None else {"refused": "it does not import, or not in two minutes"}
        if "refused" in found:
            self._end()
            raise DataError(str(found["refused"]))
        self._digest = found["digest"]
        return self._process

    def _line(self, process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
        """The next line that the process writes; None where it ends or lets the time go by."""
        assert process.stdout is not None
        end_s = time.monotonic() + limit_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end_s - time.monotonic()))
            some = os.read(process.stdout.fileno(), 65536) if ready else b""
            if not some:
                if ready:
                    process.wait()
                return None
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _end(self) -> None:
        process, self._process, self._read = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _environment() -> dict[str, str]:
    """Ours without keys."""
    held = set(names_of_keys(os.environ))
    return {name: value for name, value in os.environ.items() if name not in held}
