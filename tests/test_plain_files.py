"""Files that are none, or have no end: one line wherever a file is named, nothing waited for, memory bounded."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emray.data.datasets import load_examples
from emray.data.questions import load_questions
from emray.errors import EmrayError
from emray.reduce.foreign.columns import json_lines, read_rows
from emray.spec import load_sweep
from emray.spec.deepspeed import read_settings
from tests.commands import ROOT, environment

READERS: dict[str, Callable[[Path], object]] = {
    "sweep file": load_sweep,
    "dataset": load_examples,
    "question file": lambda path: load_questions([str(path)]),
    "deepspeed": lambda path: read_settings(str(path)),
    "jsonl": lambda path: read_rows(path),
    "batch output": lambda path: list(json_lines(path)),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
def test_what_is_no_file_is_refused_in_one_line_and_not_waited_for(tmp_path: Path, what: str, kind: str) -> None:
    path = tmp_path / "it.jsonl"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(EmrayError, match=r"pipe, not a file|a folder|Is a directory") as told:
        READERS[what](path)
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)


LIMIT = 2**26  # smaller than the usual one, so that the bombs are made fast
READING = """
import resource, sys
from pathlib import Path
from emray import plain_files
from emray.data.datasets import load_examples
from emray.errors import EmrayError
plain_files.MOST_BYTES = int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(load_examples(Path(sys.argv[1])).rows))
except EmrayError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
CHAT = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"


def read_in_a_child(path: Path) -> tuple[str, int]:
    """What is said of a dataset, and the MiB that reading it took."""
    result = subprocess.run(
        [sys.executable, "-c", READING, str(path), str(LIMIT)],
        capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    said, grown = result.stdout.splitlines()
    return said, int(grown)


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(4 * LIMIT)  # sparse
    said, grown_mib = read_in_a_child(path)
    assert "it holds more than 64 MiB" in said
    assert grown_mib < 32


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_a_bomb_is_refused_and_takes_no_more_than_the_limit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"bomb.{'jsonl.gz' if kind == 'gzip' else 'zip'}"
    piece, pieces = b" " * 2**24, 8 * LIMIT // 2**24
    if kind == "gzip":
        with gzip.open(path, "wb", compresslevel=1) as packed:
            for _ in range(pieces):
                packed.write(piece)
    else:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("bomb.jsonl", "w") as member,
        ):
            for _ in range(pieces):
                member.write(piece)
    said, grown_mib = read_in_a_child(path)
    assert "it holds more than 64 MiB" in said
    assert grown_mib < 2.2 * LIMIT / 2**20


def test_what_is_gzipped_in_several_members_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(CHAT.encode()) + gzip.compress(CHAT.encode() * 2) + b"\0" * 10)
    assert len(load_examples(path).rows) == 3


def test_a_gzip_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(CHAT.encode() * 50)[:-12])
    with pytest.raises(EmrayError, match="cut short"):
        load_examples(path)
