"""One sweep at a time in a run folder, wherever it lies and from however many machines it is seen.

Not for workers, which write what their sweep gave them. The invariant: who holds the lease made it for the first time
or in place of the very version that was found to be over, so of any number of sweeps one has it.

A lease is over when its process is gone (seen from where it ran) or, seen from elsewhere, when it has not been renewed
for EXPIRES_S. Clocks of two machines are taken to agree within a minute.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psutil

from emray.errors import StoreError
from emray.store.files import Files, Version

NAME = "lease.json"
RENEW_S = 30.0
EXPIRES_S = 180.0
TRIES = 5  # of taking a lease that others take and give back meanwhile


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    token: str
    host: str
    place: str  # host and process namespace: where `pid` means something
    pid: int
    started_s: float  # when that process started, Unix time: a pid is used again
    since_s: float
    renewed_s: float

    @classmethod
    def me(cls) -> Self:
        now, started_s = time.time(), psutil.Process().create_time()
        return cls(uuid.uuid4().hex, socket.gethostname(), _place(), os.getpid(), started_s, now, now)

    def is_gone(self) -> bool:
        if self.place != _place():
            return time.time() - self.renewed_s > EXPIRES_S
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started_s) > 1.0
        except psutil.NoSuchProcess:
            return True

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"process {self.pid} on {self.host} holds it since {since}"


class Lease:
    """Held from `take` to the end of the `with`, renewed by a thread; the process is stopped when it is lost."""

    def __init__(self, files: Files, holder: Holder, version: Version) -> None:
        self._files, self._holder, self._version = files, holder, version
        self._over = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew_forever, name="lease", daemon=True)

    @classmethod
    def take(cls, files: Files) -> Self:
        """Raises StoreError, which says who holds it, or what writing raised."""
        holder = Holder.me()
        for _ in range(TRIES):
            version = files.create(NAME, _content(holder)) or _take_over(files, holder)
            if version is not None:
                return cls(files, holder, version)
        raise StoreError(f"other sweeps start in {files.root} at this moment; run again, or give another --out")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._lost is not None:
            raise StoreError(self._lost) from None
        with suppress(StoreError, FileNotFoundError):  # not given back, it is over with this process
            if _holder(self._files.read_bytes(NAME)) == self._holder:
                self._files.delete_files([NAME])

    def _renew_forever(self) -> None:
        while not self._over.wait(RENEW_S) and self._lost is None:
            try:
                self._renew()
            except (StoreError, OSError) as error:
                if time.time() - self._holder.renewed_s > EXPIRES_S:
                    self._lose(f"the lease on {self._files.root} could not be renewed ({error}); run again")

    def _renew(self) -> None:
        holder = replace(self._holder, renewed_s=time.time())
        version = self._files.replace(NAME, _content(holder), version=self._version)
        if version is None:
            return self._lose(
                f"another sweep took {self._files.root} over while this one did not answer; let it finish"
            )
        self._holder, self._version = holder, version
        return None

    def _lose(self, why: str) -> None:
        self._lost = why
        os.kill(os.getpid(), signal.SIGINT)  # wherever the command waits


def holder_of(files: Files) -> Holder | None:
    """Who works under this root now."""
    try:
        holder = _holder(files.read_bytes(NAME))
    except FileNotFoundError:
        return None
    return None if holder is None or holder.is_gone() else holder


def _take_over(files: Files, holder: Holder) -> Version | None:
    """Take a lease that is there, if it is over; None when it has changed meanwhile."""
    try:
        found = files.read_version(NAME)
    except FileNotFoundError:
        return None
    other = _holder(found.content)
    if other is not None and other.token == holder.token:  # our own write, whose answer was lost
        return found.version
    if other is not None and not other.is_gone():
        raise StoreError(
            f"another sweep is running in {files.root}: {other}; wait for it, or give another --out"
            + ("" if other.place == _place() else f"; should it be dead, it is taken over after {EXPIRES_S:.0f} s")
        )
    return files.replace(NAME, _content(holder), version=found.version)


def _content(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2, sort_keys=True) + "\n").encode()


def _holder(content: bytes) -> Holder | None:
    """None for what is no lease: one cut short by a loss of power."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _place() -> str:
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()
