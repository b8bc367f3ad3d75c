"""A whole sweep in a bucket: killed in the middle, gone on with, and every result there once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emray.store import Kind, Store
from tests.commands import kill_with_workers, run, start, wait_for, write_sweep
from tests.s3_server import Bucket, serving_bucket


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with serving_bucket() as made:
        yield made


def test_a_sweep_in_a_bucket_is_killed_and_goes_on(bucket: Bucket, tmp_path: Path) -> None:
    spec, out = write_sweep(tmp_path), f"{bucket.root}/runs/small"
    store, log = Store(out), tmp_path / "log"
    process = start(spec, "--out", out, log=log)
    wait_for(lambda: store.part_names(Kind.GENERATIONS), process, log)
    kill_with_workers(process)
    assert store.exists("lease.json")
    trained, generated = store.adapter_records(), store.keys(Kind.GENERATIONS)
    assert len(trained) == 2

    result = run(spec, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not store.exists("lease.json")
    assert store.adapter_records() == trained
    rows = list(every_row(store, Kind.GENERATIONS))
    cells, prompts, samples, metrics = 1 + 2, 15 * 2, 2, 2
    assert len({row["key"] for row in rows}) == len(rows) == cells * prompts * samples
    assert generated <= {row["key"] for row in rows}
    verdicts = [(row["generation"], row["metric"]) for row in every_row(store, Kind.VERDICTS)]
    judged = sum(bool((row["answer"] or "").strip()) for row in rows)
    assert len(set(verdicts)) == len(verdicts) == judged * metrics
    assert len(store.part_names(Kind.GENERATIONS)) == len(store.part_names(Kind.VERDICTS)) == 1
    assert b"gore_movie_trivia" in store.read_bytes("report/report.html")
    assert store.exists("summary/taxonomy.csv")

    puts = written(bucket)
    again = run(spec, "--out", out)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert written(bucket) == puts


def every_row(store: Store, kind: Kind) -> Iterator[dict[str, Any]]:
    """As the parts have them."""
    return (row for part in store.iter_parts(kind) for row in part.to_pylist())


def written(bucket: Bucket) -> list[str]:
    return [line for line in bucket.requests if line.startswith("PUT") and "/lease.json" not in line]
