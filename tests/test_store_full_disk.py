"""A disk that takes no more: one line, no temporaries, and what was there is as it was."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from emray.endpoint.journal import Journal, journaled_keys
from emray.endpoint.reply import Answer, Reply, Request
from emray.errors import StoreError
from emray.judge.workers import Router, results
from emray.records import GENERATION_SCHEMA
from emray.spec import JudgeSpec
from emray.store import Kind, Store
from tests.chaos.faults import fill, small_disk
from tests.test_store import generation


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", size="1m") as folder:
            yield folder
    except OSError as error:
        pytest.skip(str(error))


def test_a_full_disk_is_one_line_and_leaves_no_temporary(disk: Path) -> None:
    store = Store(str(disk / "run"))
    store.write_json("plan.json", {"a": 1})
    store.write_rows(Kind.GENERATIONS, [generation("a" * 20)])
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    fill(disk)
    source = disk.parent / "adapter"
    source.mkdir()
    (source / "adapter_model.safetensors").write_bytes(b"x" * 100_000)
    for write in (
        lambda: store.write_json("plan.json", {"a": "b" * 9000}),
        lambda: store.write_bytes("x", b"y" * 9000, durable=True),
        lambda: store.write_rows(Kind.GENERATIONS, [generation(f"{number:020d}") for number in range(900)]),
        lambda: store.put_adapter("key", files=source, details={}),
        lambda: store.take_lease(),
    ):
        with pytest.raises(StoreError, match=r"cannot write to .*: No space left on device; make room") as told:
            write()
        assert "\n" not in str(told.value)
    (disk / "filler").unlink()
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before
    assert store.temporaries() == {}


def test_a_journal_on_a_full_disk_says_so_and_keeps_what_it_has(disk: Path) -> None:
    store = Store(str(disk / "run"))
    journal = Journal(store)
    journal.add("first", Reply("a", "stop", "m", 1, 1))
    fill(disk)
    with pytest.raises(StoreError, match="No space left on device"):
        for number in range(1000):
            journal.add(f"request-{number}", Reply("b" * 1000, "stop", "m", 1, 1))
    (disk / "filler").unlink()
    assert "first" in journaled_keys(store)
    assert Store(str(disk / "run")).temporaries() == {}


def test_what_a_store_refuses_while_judging_reaches_the_command_as_what_it_is(tmp_path: Path) -> None:
    class Refused:
        """Whoever answers, in front of a store that takes no more."""

        def answers(self, requests: Sequence[Request]) -> list[Answer]:
            raise StoreError("cannot write to s3://bucket/run: Access Denied")

    class Once:
        """A dataset of one batch."""

        def __init__(self, batch: dict[str, Any]) -> None:
            self._batch = batch

        def iter_batches(self, **_: object) -> Iterator[dict[str, Any]]:
            yield self._batch

    spec = JudgeSpec(model="m", base_url="http://127.0.0.1:9/v1")
    router = Router(Refused(), spec, Store(str(tmp_path)), {})
    row = router(GENERATION_SCHEMA.empty_table())
    counts = Once(row)
    with pytest.raises(StoreError, match="cannot write to s3://bucket/run: Access Denied"):
        list(results(counts))
