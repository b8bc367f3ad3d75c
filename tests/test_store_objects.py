"""The store in a bucket: one put an object, one holder of the lease, and the same results as in a folder."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emray.endpoint.journal import Journal, compact, journaled_keys
from emray.endpoint.reply import Reply
from emray.errors import StoreError
from emray.store import AdapterRecord, Kind, Store
from emray.store.objects import ObjectFiles
from tests.s3_server import Bucket, serving_bucket
from tests.test_store import generation

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with serving_bucket() as made:
        yield made


@pytest.fixture
def store(bucket: Bucket, request: pytest.FixtureRequest) -> Store:
    store = Store(f"{bucket.root}/{request.node.name}")
    bucket.requests.clear()
    return store


def test_every_object_is_written_by_one_put(store: Store, bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(os.urandom(6_000_000))
    store.write_json("plan.json", {"a": 1})
    store.write_rows(Kind.GENERATIONS, [generation("a"), generation("b")])
    store.put_adapter("k", files=tmp_path, details={"num_steps": 3})
    with store.take_lease():
        pass
    puts = Counter(line for line in bucket.requests if line.startswith("PUT"))
    assert len(puts) == 5
    assert set(puts.values()) == {1}
    assert not any("upload" in line for line in bucket.requests)


def test_what_was_written_is_read_back(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    store.put_adapter("k", files=tmp_path, details={"num_steps": 3})
    store.put_failed_adapter("l", details={"error": "x"})
    store.write_rows(Kind.GENERATIONS, [generation("a")])
    assert store.keys(Kind.GENERATIONS) == {"a"}
    assert {key: record.status for key, record in store.adapter_records().items()} == {"k": "trained", "l": "failed"}
    assert (store.adapter_folder("k") / "weights").read_bytes() == b"w" * 100
    assert store.folders("adapters") == ["k", "l"]
    assert store.names("adapters/k") == ["adapters/k/record.json", "adapters/k/weights"]
    store.delete("adapters")
    assert store.adapter_records() == {}
    assert not store.exists("adapters/k/weights")
    assert store.exists(store.part_names(Kind.GENERATIONS)[0])
    with pytest.raises(FileNotFoundError):
        store.read_bytes("plan.json")


def test_a_large_part_is_read_by_its_columns(store: Store, bucket: Bucket) -> None:
    rows = [generation(f"{n:020d}", answer=os.urandom(300).hex()) for n in range(20_000)]
    (name,) = store.write_rows(Kind.GENERATIONS, rows)
    assert store.part_sizes(Kind.GENERATIONS)[name] > 5_000_000
    bucket.requests.clear()
    assert len(store.keys(Kind.GENERATIONS)) == 20_000
    assert sum(line.endswith(name) for line in bucket.requests) <= 3
    assert store.read_rows(Kind.GENERATIONS, columns=["answer"])["answer"][7].as_py() == rows[7]["answer"]


def test_one_of_many_makes_a_file_and_one_of_many_replaces_it(store: Store) -> None:
    files = ObjectFiles(store.root)
    with ThreadPoolExecutor(8) as pool:
        made = [version for version in pool.map(lambda n: files.create("x", str(n).encode()), range(8)) if version]
        assert len(made) == 1
        replaced = pool.map(lambda n: files.replace("x", f"new {n}".encode(), version=made[0]), range(8))
        assert sum(version is not None for version in replaced) == 1
    assert files.read_bytes("x").startswith(b"new")


def test_thousands_of_adapters_cost_a_few_requests(store: Store, bucket: Bucket) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store._adapters.put_record(_trained(n)), range(1050)))
    store.settle()
    bucket.requests.clear()
    records = store.adapter_records()
    assert {n: records[f"{n:020d}"] for n in range(1050)} == {n: _trained(n) for n in range(1050)}
    assert len(bucket.requests) <= 4


def test_a_bucket_that_is_not_there_is_told_in_one_line(bucket: Bucket) -> None:
    with pytest.raises(StoreError, match=r"cannot write to s3://nowhere/run: .*NoSuchBucket") as told:
        Store("s3://nowhere/run").take_lease()
    assert "\n" not in str(told.value)


def test_a_bucket_that_refuses_writes_says_so_in_the_same_words_whatever_was_written(bucket: Bucket) -> None:
    files = ObjectFiles(f"{bucket.root}/refused")
    files.write_bytes("there", b"1")
    writes: list[Callable[[], object]] = [
        lambda: files.write_bytes("x", b"2"), lambda: files.create("x", b"2"),
        lambda: files.replace("there", b"2", version="old"), lambda: files.move("there", to="x"),
        lambda: files.delete_files(["there"]),
    ]  # fmt: skip
    bucket.refuses.set()
    try:
        for write in writes:
            with pytest.raises(StoreError, match=r"^cannot write to s3://bucket/refused: .*Denied.*; .* again") as told:
                write()
            assert "\n" not in str(told.value)
    finally:
        bucket.refuses.clear()
    assert files.read_bytes("there") == b"1"


def test_a_place_of_an_unknown_kind_is_told() -> None:
    with pytest.raises(StoreError, match="cannot open foo://x/y"):
        Store("foo://x/y")


def test_of_sweeps_that_start_at_once_one_holds_the_lease(store: Store) -> None:
    code = (
        "import sys\n"
        "from emray.errors import StoreError\n"
        "from emray.store import Store\n"
        "try:\n"
        "    with Store(sys.argv[1]).take_lease():\n"
        "        print('held', flush=True)\n"
        "        sys.stdin.read()\n"
        "except StoreError as error:\n"
        "    print(error, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, store.root], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [process.stdout.readline().strip() for process in started if process.stdout]
    for process in started:
        process.communicate()
    assert said.count("held") == 1
    holder = started[said.index("held")].pid
    others = [line for line in said if line != "held"]
    assert all(f"another sweep is running in {store.root}: process {holder} on " in line for line in others)
    assert not store.exists("lease.json")


def test_replies_are_journaled_in_segments(store: Store) -> None:
    journal = Journal(store)
    threads = [threading.Thread(target=_add, args=(journal, n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    keys = {f"{n}-{i}" for n in range(4) for i in range(50)}
    assert journaled_keys(store) == keys
    compact(store)
    assert journaled_keys(store) == keys
    assert len(store.names("journal")) == 1


def _add(journal: Journal, writer: int) -> None:
    for i in range(50):
        journal.add(f"{writer}-{i}", Reply("x", "stop", "m", 1, 1))


def _trained(number: int) -> AdapterRecord:
    return AdapterRecord(f"{number:020d}", "trained", {"final_loss": number / 7})
