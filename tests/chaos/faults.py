"""What can go wrong, when, and doing it.

Not for drawing or recovering (rounds.py). The invariant: a process that is killed descends from the command of the
round, and a file that is spoiled lies in its run folder.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from emray.endpoint.entries import FOLDER, LINES
from emray.localapi import LocalServer
from emray.store import Kind, Store
from tests.s3_server import Bucket

WORKERS = {  # kind of fault: the stage in which its process works, and how Ray titles that
    "trainer": ("train", ("ray::CellTrainable", "ray::ResourceTrainable")),
    "engine": ("generate", ("ray::MapWorker(MapBatches(Generator))",)),
    "judge worker": ("judge", ("ray::KeyOwner", "ray::MapWorker(MapBatches(Router))")),
    "limiter": ("judge", ("LimiterActor",)),
}
CORES = {"driver": (), "GCS": ("gcs_server",), "raylet": ("raylet",), "node": ("gcs_server", "raylet", "ray::")}
DISK, REFUSED, ENDPOINT = "full disk", "store refuses writes", "endpoint dropped"
FATAL = (*CORES, DISK, REFUSED, ENDPOINT)
PART, LINE = "last part spoiled", "last journal line spoiled"
SPOILED = (PART, LINE)


@dataclass
class Scene:
    """A command at work, and what it works with."""

    store: Store
    driver: psutil.Process
    server: LocalServer  # the judge
    bucket: Bucket | None  # where the run folder is one in a bucket
    disk: Path | None  # the small disk that the run folder is on
    family: list[psutil.Process] = field(default_factory=list)

    def processes(self) -> list[psutil.Process]:
        """Everything that the driver has started."""
        with suppress(psutil.NoSuchProcess):
            self.family = list({*self.family, *self.driver.children(recursive=True)})
        return [process for process in self.family if process.is_running()]

    def titled(self, titles: tuple[str, ...]) -> list[psutil.Process]:
        return [process for process in self.processes() if any(title in _title(process) for title in titles)]


def at_work(scene: Scene, stage: str) -> bool:
    """Whether a stage has begun."""
    if stage == "judge":
        return scene.server.stats()["asked"] > 0
    worker = next(titles for name, titles in WORKERS.values() if name == stage)
    return bool(scene.titled(worker))


def strike(kind: str, scene: Scene, rng: random.Random) -> bool:
    """Do it; whether there was anything to do it to."""
    if kind in WORKERS:
        found = scene.titled(WORKERS[kind][1])
        return bool(found) and _kill([rng.choice(found)])
    if kind == "driver":
        scene.processes()
        return _kill([scene.driver])
    if kind in CORES:
        return _kill(scene.titled(CORES[kind]))
    return _OTHERS[kind](scene)


def fill(disk: Path) -> bool:
    """Not a byte more fits on the disk."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(b"\0" * 65536):
            pass
    return True


def spoil(kind: str, store: Store, rng: random.Random) -> bool:
    """Cut short or overwrite the end of what was written last."""
    if kind == PART:
        parts = {name: size for one in Kind for name, size in store.part_sizes(one).items() if "/part-" in name}
    else:
        parts = {name: size for name, size in store.sizes(FOLDER).items() if name.endswith(LINES) and size}
    if not parts:
        return False
    name = max(parts, key=lambda name: (_written(store, name), name))
    content = store.read_bytes(name)
    if kind == PART:
        cut = content[: rng.randrange(len(content))]
        store.write_bytes(name, rng.choice([cut, cut + rng.randbytes(len(content) - len(cut))]))
        return True
    *lines, last = content.splitlines(keepends=True)
    noise = rng.randbytes(30).replace(b"\n", b"?")
    store.write_bytes(name, b"".join(lines) + rng.choice([last[: len(last) // 2], noise, noise + b"\n"]))
    return True


@contextmanager
def small_disk(folder: Path, *, size: str = "64m") -> Iterator[Path]:
    """A file system of its own in memory. Raises OSError where this machine does not let us have one."""
    folder.mkdir(parents=True)
    if os.system(f"mount -t tmpfs -o size={size} tmpfs '{folder}' 2>/dev/null"):
        raise OSError("mounting a tmpfs is not permitted here")
    try:
        yield folder
    finally:
        os.system(f"umount -l '{folder}'")


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
        return f"{process.name()} {process.cmdline()[0]}"
    return ""


def _kill(processes: list[psutil.Process]) -> bool:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return bool(processes)


def _fill_disk(scene: Scene) -> bool:
    assert scene.disk is not None
    return fill(scene.disk)


def _refuse(scene: Scene) -> bool:
    assert scene.bucket is not None
    scene.bucket.refuses.set()
    return True


def _drop_endpoint(scene: Scene) -> bool:
    return _kill([psutil.Process(scene.server.pid)])


def _written(store: Store, name: str) -> float:
    """When, where that is known; the last name stands for the last part elsewhere."""
    path = Path(store.root) / name
    return path.stat().st_mtime if path.exists() else 0.0


_OTHERS: dict[str, Callable[[Scene], bool]] = {DISK: _fill_disk, REFUSED: _refuse, ENDPOINT: _drop_endpoint}
