"""Compaction: few parts for many rows, killed wherever it may be, read while it works."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from emray.store import Kind, Store
from emray.store import compaction as compacting
from emray.store.files import LocalFiles
from tests.test_store import generation, verdict

ROOT = Path(__file__).parent.parent


class Killed(Exception):
    """In place of SIGKILL."""


class DyingFiles(LocalFiles):
    """A folder whose process dies before its n-th change."""

    def __init__(self, root: str, *, changes: int) -> None:
        super().__init__(root)
        self.left = changes

    def write_bytes(self, name: str, content: bytes, *, durable: bool = False) -> None:
        self._change()
        super().write_bytes(name, content, durable=durable)

    def delete_files(self, names: Sequence[str]) -> None:
        for name in names:
            self._change()
            super().delete_files([name])

    def _change(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of ten rows and more."""
    monkeypatch.setattr(compacting, "ROWS", 10)
    return 10


def write(store: Store, keys: Sequence[str]) -> None:
    store.write_rows(Kind.GENERATIONS, [generation(key) for key in keys])


def stored(store: Store) -> list[str]:
    return [key for part in store.iter_parts(Kind.GENERATIONS) for key in part["key"].to_pylist()]


def numbered(start: int, end: int) -> list[str]:
    return [f"{n:020x}" for n in range(start, end)]


@pytest.mark.parametrize("kind", [Kind.GENERATIONS, Kind.VERDICTS])  # measurements: test_probes_measuring
def test_a_part_holds_twenty_thousand_rows_or_more(tmp_path: Path, kind: Kind) -> None:
    store = Store(str(tmp_path))
    keys = numbered(0, 45_000)
    for start in range(0, len(keys), 1500):
        piece = keys[start : start + 1500]
        store.write_rows(kind, [generation(k) if kind == Kind.GENERATIONS else verdict("v" * 20, k) for k in piece])
    assert len(store.part_names(kind)) == 30
    store.settle()
    column = "key" if kind == Kind.GENERATIONS else "generation"
    parts = [part[column].to_pylist() for part in store.iter_parts(kind)]
    assert [len(part) for part in parts] == [22_500, 22_500]
    assert sorted(itertools.chain(*parts)) == keys


@pytest.mark.parametrize("num_rows", [0, 1, 9, 10, 19, 20, 21, 35, 100])
def test_never_more_parts_than_rows_allow(tmp_path: Path, small_parts: int, num_rows: int) -> None:
    store = Store(str(tmp_path))
    for key in numbered(0, num_rows):
        write(store, [key])
    store.settle()
    assert len(store.part_names(Kind.GENERATIONS)) == (max(1, num_rows // small_parts) if num_rows else 0)
    assert sorted(stored(store)) == numbered(0, num_rows)


def test_what_comes_later_joins_what_is_there(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))
    for end in range(7, 200, 7):
        write(store, numbered(end - 7, end))
        store.settle()
        assert len(store.part_names(Kind.GENERATIONS)) <= max(1, end // small_parts)
        assert sorted(stored(store)) == numbered(0, end)


def test_compacting_again_changes_nothing(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))
    for start in range(0, 60, 4):
        write(store, numbered(start, start + 4))
    store.settle()
    before = store.part_sizes(Kind.GENERATIONS)
    store.settle()
    assert store.part_sizes(Kind.GENERATIONS) == before


def test_killed_at_any_moment_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path, small_parts: int) -> None:
    changes, over = 0, False
    while not over:
        root = str(tmp_path / str(changes))
        store = Store(root)
        write(store, numbered(0, 25))
        store.settle()
        for start in range(25, 61, 3):
            write(store, numbered(start, start + 3))
        write(store, numbered(20, 30))  # repeats of what is compact, and of what is not
        try:
            compacting.compact(DyingFiles(root, changes=changes), Kind.GENERATIONS)
            over = True
        except Killed:
            changes += 1
        assert store.read_rows(Kind.GENERATIONS)["key"].to_pylist() == numbered(0, 61)
        assert store.keys(Kind.GENERATIONS) == set(numbered(0, 61))
        store.settle()
        assert sorted(stored(store)) == numbered(0, 61)
        assert len(store.part_names(Kind.GENERATIONS)) <= 6
    assert changes > 10


def test_a_reader_misses_nothing_when_its_parts_are_compacted_away(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))
    for key in numbered(0, 200):
        write(store, [key])
    parts = store.iter_parts(Kind.GENERATIONS)
    seen = [next(parts)["key"].to_pylist()]
    store.settle()
    seen += [part["key"].to_pylist() for part in parts]
    assert set(itertools.chain(*seen)) == set(numbered(0, 200))


def test_writers_at_work_lose_nothing_to_a_compaction(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))

    def work(writer: int) -> None:
        for n in range(40):
            write(store, numbered(1000 * writer + n, 1000 * writer + n + 1))

    writers = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        store.settle()
    store.settle()
    assert sorted(stored(store)) == sorted(key for w in range(4) for key in numbered(1000 * w, 1000 * w + 40))


def test_of_a_repeat_the_first_stays(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))
    store.write_rows(Kind.GENERATIONS, [generation("a", answer="one"), generation("b")])
    store.write_rows(Kind.GENERATIONS, [generation("a", answer="two"), generation("c")])
    before = store.read_rows(Kind.GENERATIONS)
    store.settle()
    assert store.read_rows(Kind.GENERATIONS).equals(before)


def test_rows_are_deleted_from_compact_parts_too(tmp_path: Path, small_parts: int) -> None:
    store = Store(str(tmp_path))
    for start in range(0, 60, 4):
        rows = [
            generation(key, finish_reason="error" if int(key, 16) % 7 == 0 else "stop")
            for key in numbered(start, start + 4)
        ]
        store.write_rows(Kind.GENERATIONS, rows)
    store.settle()
    store.delete_rows(Kind.GENERATIONS, column="finish_reason", value="error")
    kept = [key for key in numbered(0, 60) if int(key, 16) % 7]
    assert sorted(stored(store)) == kept
    store.settle()
    assert sorted(stored(store)) == kept
    assert len(store.part_names(Kind.GENERATIONS)) <= len(kept) // small_parts


def test_reading_part_by_part_holds_a_few_parts(tmp_path: Path) -> None:
    """Of 60 parts of 2 MB, read in a process of its own, so that nothing else counts."""
    store = Store(str(tmp_path))
    text = np.random.default_rng(0).integers(97, 123, 2_000_000, np.uint8).tobytes().decode()
    for n in range(60):
        rows = [
            generation(key, answer=text[i * 2000 : (i + 1) * 2000])
            for i, key in enumerate(numbered(n * 1000, (n + 1) * 1000))
        ]
        store.write_rows(Kind.GENERATIONS, rows)
    code = (
        "import sys, pyarrow as pa\n"
        "from emray.store import Kind, Store\n"
        "rows = sum(part.num_rows for part in Store(sys.argv[1]).iter_parts(Kind.GENERATIONS))\n"
        "print(rows, pa.default_memory_pool().max_memory())\n"
    )
    out = subprocess.run([sys.executable, "-c", code, store.root], capture_output=True, text=True, check=True, cwd=ROOT)
    num_rows, peak = map(int, out.stdout.split())
    assert num_rows == 60_000
    assert peak < 45_000_000
