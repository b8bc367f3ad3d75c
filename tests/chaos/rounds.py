"""Rounds: faults drawn from a seed, done to one command after another until one of them completes, and what came of it.

Not for the faults themselves (faults.py). The invariant: after the last fault of a round one command has to complete,
with the undisturbed run's bytes, nothing lost, and nothing done twice but what was in flight.
"""

import math
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from emray.cluster.connect import NOT_STARTED
from emray.doctor import examine
from emray.doctor.checks import Location
from emray.endpoint.journal import FLUSH_S
from emray.errors import StoreError
from emray.localapi import LocalServer, serving
from emray.store import Store
from tests.chaos.faults import (
    DISK,
    ENDPOINT,
    FATAL,
    REFUSED,
    SPOILED,
    WORKERS,
    Scene,
    at_work,
    small_disk,
    spoil,
    strike,
)
from tests.chaos.study import IN_FLIGHT, LATENCY_MS, STAGES, Results, Study, compared, num_repeats, results
from tests.commands import start
from tests.s3_server import Bucket, serving_bucket

RESPONDER = "emray.toy.rules:reply"
WRITE_S = 0.5  # of a segment of the journal to a bucket on this machine, which other work keeps busy
UNWRITTEN = math.ceil(IN_FLIGHT * (FLUSH_S + WRITE_S) / (LATENCY_MS / 1000))  # replies that a kill may cost there
LIMIT_S = 300.0  # for a command to end, whatever was done to it
LONGEST_DELAY_S = {"train": 1.5, "generate": 3.0, "judge": 1.0}  # into a stage's work: about as long as it lasts
LEAVE_S = 150.0  # Ray's raylet waits a minute for a control store that is gone, its agents for the raylet
TOLD = {DISK: "No space left on device", REFUSED: "cannot write to s3://"}  # by a command that ends with exit code 1
RAYS_RECORD = "\tERROR "  # as Ray Data's console has it; a command has its own last line
MOST_COMMANDS = 6  # of a round


class Planned(NamedTuple):
    """A fault to come."""

    kind: str
    stage: str
    delay_s: float  # into the stage


class Outcome(NamedTuple):
    """A fault that was done."""

    kind: str
    stage: str
    recovery_s: float  # from the fault to the end of the command that completed


@dataclass
class Round:
    """What a round came to."""

    outcomes: list[Outcome] = field(default_factory=list)
    lost: int = 0  # results that were on the store and are not
    done_twice: int = 0  # replies served again, rows written again
    wrong: list[str] = field(default_factory=list)  # what should not be; empty when all is well
    family: list[psutil.Process] = field(default_factory=list)  # whatever its commands started


@dataclass
class _Setting:
    """Where a round takes place."""

    root: str
    folder: Path
    bucket: Bucket | None
    disk: Path | None


def draw(rng: random.Random, *, most: int, kinds: Sequence[str]) -> list[Planned]:
    """Up to `most` faults: some that a command outlives, one that it does not, some that the next one finds."""
    fatal = rng.choice([kind for kind in FATAL if kind in kinds])
    workers = [kind for kind in WORKERS if kind in kinds]
    outlived = rng.sample(workers, rng.randint(0, min(len(workers), most - 1)))
    outlived.sort(key=lambda kind: STAGES.index(WORKERS[kind][0]))
    first = STAGES.index(WORKERS[outlived[-1]][0]) if outlived else 0
    stage = "judge" if fatal == ENDPOINT else rng.choice(STAGES[first:])
    spoiled = [kind for kind in SPOILED if kind in kinds]
    found = rng.sample(spoiled, rng.randint(0, min(len(spoiled), most - len(outlived) - 1)))
    plan = [(kind, WORKERS[kind][0]) for kind in outlived] + [(fatal, stage)] + [(kind, stage) for kind in found]
    return [Planned(kind, at, rng.uniform(0, LONGEST_DELAY_S[at])) for kind, at in plan]


def play(study: Study, plan: Sequence[Planned], rng: random.Random, *, folder: Path) -> Round:
    """One round, on a small disk or in a bucket where its faults need that, else in a folder."""
    with _setting(plan, folder) as setting, ExitStack() as servers:
        return _Play(study, setting, servers, rng).through(plan)


@contextmanager
def _setting(plan: Sequence[Planned], folder: Path) -> Iterator[_Setting]:
    kinds = {fault.kind for fault in plan}
    folder.mkdir(parents=True)
    with ExitStack() as opened:
        bucket = opened.enter_context(serving_bucket()) if REFUSED in kinds else None
        disk = opened.enter_context(small_disk(folder / "disk")) if DISK in kinds else None
        root = f"{bucket.root}/run" if bucket else str((disk or folder) / "run")
        yield _Setting(root, folder, bucket, disk)


def see_them_gone(rounds: Sequence[Round]) -> None:
    """What the commands started ends; Ray's own processes a minute after a driver that was killed."""
    for played in rounds:
        _, alive = psutil.wait_procs(played.family, timeout=LEAVE_S)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                played.wrong.append(f"a process was left: {one.name()}")
                one.kill()


class _Play:
    """Commands and faults of one round."""

    def __init__(self, study: Study, setting: _Setting, servers: ExitStack, rng: random.Random) -> None:
        self._study, self._setting, self._rng, self._servers = study, setting, rng, servers
        self._store = Store(setting.root)
        self._server = self._serve()
        self._round = Round()
        self._struck: list[tuple[Planned, float]] = []
        self._earlier: list[Results] = []
        self._busy = False  # whether the last command found no time to start Ray: that is waited for, and no fault
        self._num_known = 0  # replies on the store when the judge that counts was started

    def through(self, plan: Sequence[Planned]) -> Round:
        self._study.begin(self._store, stage=plan[0].stage)
        left = list(plan)
        for _ in range(MOST_COMMANDS):
            struck = len(self._struck)
            code = self._command(left)
            if self._round.wrong:
                break
            self._mend()
            if code == 0 and not self._spoil(left):
                break
            if code != 0 and len(self._struck) == struck and not self._busy:  # nothing was done to this one
                self._round.wrong.append(f"a command after the last fault ended with exit code {code}")
                break
            self._spoil(left)
        ended_s = time.monotonic()
        self._round.outcomes = [Outcome(f.kind, f.stage, ended_s - at_s) for f, at_s in self._struck]
        self._look()
        return self._round

    def _command(self, left: list[Planned]) -> int:
        """One command, with as many of the faults as it meets; its exit code."""
        log = self._setting.folder / f"log-{len(list(self._setting.folder.glob('log-*')))}.txt"
        process = start(self._study.spec, "--out", self._setting.root, log=log)
        setting = self._setting
        scene = Scene(self._store, psutil.Process(process.pid), self._server, setting.bucket, setting.disk)
        struck = len(self._struck)
        for fault in [one for one in left if one.kind not in SPOILED]:
            if not self._done(fault, scene, process):
                break
            left.remove(fault)
            self._struck.append((fault, time.monotonic()))
        code = self._code(process, scene)
        said = log.read_text()
        try:
            self._earlier.append(results(self._store))
        except StoreError:  # found by the command, too, which should have mended it
            self._round.wrong.append(f"what is damaged stays so, in {log}")
        self._busy = NOT_STARTED in said
        for unwanted, name in {"Traceback": "a traceback", RAYS_RECORD: "a record of Ray's own"}.items():
            if unwanted in said:
                self._round.wrong.append(f"{name} in {log}")
        for fault, _ in self._struck[struck:]:
            if code == 1 and TOLD.get(fault.kind, "") not in said:
                self._round.wrong.append(f"a {fault.kind} is not told in {log}")
        if DISK in {fault.kind for fault, _ in self._struck} and self._store.temporaries():
            self._round.wrong.append("temporaries are left on the full disk")
        if code == 0:  # there is nothing left to meet
            left[:] = [one for one in left if one.kind in SPOILED and self._struck]
        return code

    def _done(self, fault: Planned, scene: Scene, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the moment and strike; False when the command ended before."""
        while not at_work(scene, fault.stage):
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=fault.delay_s)
            return False
        while not strike(fault.kind, scene, self._rng):
            if process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def _code(self, process: subprocess.Popen[bytes], scene: Scene) -> int:
        end_s = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < end_s:
            scene.processes()
            time.sleep(0.2)
        if process.poll() is None:
            self._round.wrong.append(f"a command did not end within {LIMIT_S:.0f} s")
            process.kill()
        self._round.family += (
            scene.family
        )  # what outlives a killed driver meets the next command, as it would a person's
        return process.wait()

    def _spoil(self, left: list[Planned]) -> bool:
        """Spoil what the next command is to find; whether there was anything."""
        spoiled = False
        for fault in [one for one in left if one.kind in SPOILED and self._struck]:
            left.remove(fault)
            if spoil(fault.kind, self._store, self._rng):
                self._struck.append((fault, time.monotonic()))
                spoiled = True
        return spoiled

    def _mend(self) -> None:
        """What a person would do before the command runs again: make room, renew a role, bring the judge back."""
        if self._setting.disk:
            (self._setting.disk / "filler").unlink(missing_ok=True)
        if self._setting.bucket:
            self._setting.bucket.refuses.clear()
        if not psutil.pid_exists(self._server.pid) or psutil.Process(self._server.pid).status() == psutil.STATUS_ZOMBIE:
            self._server, self._num_known = self._serve(), len(results(self._store).replies)

    def _serve(self) -> LocalServer:
        server = serving(responder=RESPONDER, latency_ms=LATENCY_MS, port=self._study.port)
        return self._servers.enter_context(server)

    def _look(self) -> None:
        """Compare with the undisturbed run, and count."""
        if self._round.wrong:
            return
        this, wrong = self._round, self._round.wrong
        found = compared(self._store)
        expected = self._study.expected
        if differ := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
            wrong.append(f"other bytes than the undisturbed run's: {', '.join(differ)}")
        now = results(self._store)
        this.lost = sum(now.lacks(earlier) for earlier in self._earlier) + now.lacks(self._study.results)
        served = self._server.stats()["served"]
        this.done_twice = served - (len(now.replies) - self._num_known) + num_repeats(self._store)
        in_memory = IN_FLIGHT + (UNWRITTEN if self._setting.bucket else 0)
        allowed = sum(1 if fault.kind in SPOILED else in_memory for fault, _ in self._struck)
        if this.lost or this.done_twice > allowed:
            wrong.append(f"{this.lost} results lost, {this.done_twice} done twice where {allowed} may be")
        damage = [one for one in examine(self._store) if one.place != Location.TEMPORARY]
        wrong += [f"{one.name} is damaged in the end: {one.what}" for one in damage]
