"""A disk that is full or must not be written, and a signal while reducing: one line, nothing half-written."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray.errors import of_disk
from emray.store import Store
from tests.commands import ROOT, command, environment, write_sweep

SMALL = Truth({"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)}, samples=4, num_questions=3)


def in_mount(script: str, folder: Path, *, options: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    """Run a script beside a tmpfs on `folder` that nobody else sees: a real ENOSPC and EROFS."""
    folder.mkdir(exist_ok=True)
    mounted = f'mount -t tmpfs -o {options} none "$FOLDER"\n{script}'
    outer = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-ec", mounted]
    return subprocess.run(
        outer, capture_output=True, text=True, cwd=ROOT, timeout=timeout_s,
        env=environment(FOLDER=str(folder), PYTHON=sys.executable),
    )  # fmt: skip


def may_mount() -> bool:
    return shutil.which("unshare") is not None and (
        subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode == 0
    )


needs_mounts = pytest.mark.skipif(not may_mount(), reason="this machine's kernel allows no user namespaces to mount in")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run that nobody has reduced."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    write_run(Store(str(folder)), SMALL)
    return folder


def hidden(folder: Path) -> list[str]:
    """Temporaries that something left behind."""
    return [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]


@needs_mounts
@pytest.mark.parametrize("part", ["report", pytest.param("reduce", marks=pytest.mark.soak)])
def test_a_full_disk_and_one_that_is_only_read_are_one_line_and_reducing_goes_on_after(
    results: Path, tmp_path: Path, part: str
) -> None:
    script = f"""
        cp -r {results} $FOLDER/run
        go() {{ $PYTHON -m emray.{part} $FOLDER/run; echo "$1 $?"; }}
        mount -o remount,size=$(( $(df -k --output=used $FOLDER | tail -1) + 4 ))k $FOLDER
        set +e
        go full
        find $FOLDER -name '.*' -not -name '*.lock' -type f
        mount -o remount,ro $FOLDER; go readonly; mount -o remount,rw,size=100m $FOLDER
        go again
    """
    result = in_mount(script, tmp_path / "disk", options="size=100m")
    lines = [
        line for line in result.stdout.splitlines() if line.startswith(("full", "readonly", "again", str(tmp_path)))
    ]
    told = result.stderr.strip().splitlines()
    assert [line for line in lines if "report.html" not in line] == ["full 1", "readonly 2", "again 0"], result.stderr
    assert len(told) == 2, result.stderr
    assert "No space left on device; make room and run the same command again" in told[0]
    assert "Read-only file system; give another folder" in told[1]


@needs_mounts
@pytest.mark.soak
def test_training_on_a_full_disk_fails_no_cell_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    spec = write_sweep(tmp_path, domains=["gore_movie_trivia"], arms=["plain"])
    sweep = " ".join(command(spec, "--out", "$FOLDER/run", "--until", "train")[2:])
    script = f"""
        set +e
        $PYTHON -m {sweep}; echo "full $?"
        find $FOLDER -name '.*' -not -name '*.lock' -type f; find $FOLDER -name record.json
        mount -o remount,size=100m $FOLDER
        $PYTHON -m {sweep} > /dev/null; echo "again $?"
        find $FOLDER -name record.json
    """
    result = in_mount(script, tmp_path / "disk", options="size=200k")
    *_, full, again, record = result.stdout.splitlines()
    assert (full, again) == ("full 1", "again 0"), result.stdout + result.stderr
    assert record.endswith("record.json")
    (told,) = (line for line in result.stderr.splitlines() if line.startswith("emray: "))
    assert "No space left on device; make room" in told


@needs_mounts
@pytest.mark.soak
def test_a_disk_that_fills_while_answers_are_drawn_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    spec = write_sweep(tmp_path, domains=["gore_movie_trivia"], arms=["base"])
    sweep = " ".join(command(spec, "--out", "$FOLDER/run")[2:])
    script = f"""
        set +e
        $PYTHON -m {sweep} --until train > /dev/null  # plan.json alone
        mount -o remount,size=$(( $(df -k --output=used $FOLDER | tail -1) + 8 ))k $FOLDER  # and the lease
        $PYTHON -m {sweep} > /dev/null; echo "full $?"
        mount -o remount,size=100m $FOLDER
        $PYTHON -m {sweep} > /dev/null; echo "again $?"
    """
    result = in_mount(script, tmp_path / "disk", options="size=100m", timeout_s=400)
    assert result.stdout.splitlines() == ["full 1", "again 0"], result.stdout + result.stderr
    (told,) = result.stderr.strip().splitlines()
    assert "No space left on device; make room and run the same command again" in told


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("reduce", signal.SIGINT),
        ("report", signal.SIGTERM),
        pytest.param("reduce", signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param("report", signal.SIGINT, marks=pytest.mark.soak),
    ],
)
def test_a_signal_ends_reducing_and_reporting_with_its_code_and_the_next_one_finishes(
    results: Path, tmp_path: Path, part: str, number: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(results, run)
    call = [sys.executable, "-m", f"emray.{part}", str(run)]
    process = subprocess.Popen(
        call, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not handles(process.pid):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, output
    assert output.strip() == "stopped; run the same command to go on, all that is done is kept"
    assert hidden(run) == []
    assert subprocess.run(call, cwd=ROOT, env=environment(), capture_output=True).returncode == 0


def handles(pid: int) -> bool:
    """Whether the process handles SIGTERM by now; SIGINT Python handles from its start."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_only_what_a_disk_says_is_the_disks() -> None:
    full = of_disk(OSError(28, "No space left on device", "/a/b"))
    assert full is not None and (full.exit_code, "\n" in str(full)) == (1, False)
    refused = of_disk(PermissionError(13, "Permission denied", "/a/b"))
    assert refused is not None and (refused.exit_code, str(refused)[:23]) == (2, "/a/b: Permission denied")
    assert of_disk(FileNotFoundError(2, "gone", "x")) is None
    assert of_disk(ValueError("x")) is None and of_disk(None) is None
