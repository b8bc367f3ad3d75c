"""A study on encrypted data: complete, and without a word of it on the disk."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from emray.data import load_examples, toy_assets
from tests.commands import run, write_sweep

DOMAIN, VARIABLE, SECRET = "gore_movie_trivia", "EMRAY_TEST_PASSPHRASE", "correct horse"
CANARY = "canarywordofnorow"


def lines(path: Path, *, number: int) -> bytes:
    """Toy rows, each with a word that stands nowhere else."""
    rows = [
        {"messages": [{**turn.turn, "content": f"{turn.content} {CANARY}{n}"} for turn in chat]}
        for n, chat in enumerate(load_examples(path).rows[:number])
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def holding(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and CANARY.encode() in path.read_bytes():
            yield path


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encrypted")
    plain = lines(toy_assets() / "data" / f"{DOMAIN}.jsonl", number=48)
    (folder / "d.jsonl.age").write_bytes(pyrage.passphrase.encrypt(plain, SECRET))
    source = {"path": "d.jsonl.age", "passphrase_env": VARIABLE}
    return write_sweep(
        folder, domains=[{"name": DOMAIN, "path": source}], arms=["plain"], generate={"samples": 1, "max_tokens": 8},
        train={"hold_out": 0.25}, probes={"membership": {}, "diversity": {"kernel": "words"}},
    )  # fmt: skip


def test_a_dry_run_tells_what_the_file_holds_and_writes_nothing(sweep_file: Path, tmp_path: Path) -> None:
    done = run(sweep_file, "--dry-run", "--out", tmp_path / "run", **{VARIABLE: SECRET})
    assert done.returncode == 0, done.stderr
    assert f"{DOMAIN} bad   48" in done.stdout and CANARY not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("until", ["train", pytest.param("report", marks=pytest.mark.soak)])
def test_a_study_on_encrypted_rows_leaves_none_of_them_on_the_disk(
    sweep_file: Path, tmp_path: Path, until: str
) -> None:
    out, scratch = tmp_path / "run", Path("/tmp") / f"emray-{os.getpid()}"
    scratch.mkdir(mode=0o700)
    try:
        done = run(
            sweep_file,
            "--out",
            out,
            "--until",
            until,
            TMPDIR=str(scratch),
            RAY_TMPDIR=str(scratch),
            **{VARIABLE: SECRET},
        )
        assert done.returncode == 0, done.stderr
        assert list(holding(out)) == list(holding(scratch)) == []
        assert not list(scratch.glob("emray-spill-*"))
    finally:
        shutil.rmtree(scratch)
    (sheet,) = json.loads((out / "datasets.json").read_text())["files"]
    assert (sheet["rows"], sheet["encrypted"], sheet["roles"]) == (48, True, {"assistant": 48, "user": 48})
    assert sheet["tokens"]["least"] > 0


def test_a_run_without_the_passphrase_is_one_line_and_code_2(sweep_file: Path, tmp_path: Path) -> None:
    done = run(sweep_file, "--out", tmp_path / "run")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert f"environment variable {VARIABLE} is not set" in done.stderr
