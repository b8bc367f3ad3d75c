"""A run in one file: with weights all of it, without them a run that reduces and reports to the same bytes."""

import tarfile
from pathlib import Path

import pytest

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.errors import DataError, StoreError
from emray.records import Arm
from emray.runs.__main__ import main
from emray.runs.pack import pack
from emray.store import Store
from tests.commands import contents
from tests.s3_server import serving_bucket

SMALL = Truth({"a": Rates(0.0, 0.5), "b": Rates(0.0, 0.1)}, seeds=(0, 1), num_questions=2, samples=2)
WEIGHTS = (2).to_bytes(8, "little") + b"{}"


def fill(store: Store) -> Store:
    for cell in write_run(store, SMALL):
        if cell.arm != Arm.BASE:
            store.write_bytes(f"adapters/{cell.key}/adapter_model.safetensors", WEIGHTS)
    reduce.run(store)
    report.render(store)
    return store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(Store(str(tmp_path_factory.mktemp("runs") / "small")))


def unpacked(file: Path) -> Path:
    with tarfile.open(file) as archive:
        archive.extractall(file.parent / "unpacked", filter="data")
    return file.parent / "unpacked" / "small"


def test_with_weights_every_file_is_there_as_it_was(
    run: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", run.root, str(tmp_path / "small.tar.gz")]) == 0
    assert contents(unpacked(tmp_path / "small.tar.gz"), "") == contents(Path(run.root), "")
    assert f"wrote {len(contents(Path(run.root), ''))} files of small to " in capsys.readouterr().out


def test_without_weights_it_reduces_and_reports_to_the_same_bytes(run: Store, tmp_path: Path) -> None:
    assert main(["pack", run.root, str(tmp_path / "small.tar"), "--without-weights"]) == 0
    folder = unpacked(tmp_path / "small.tar")
    archived = Store(str(folder))
    assert archived.adapters_with_weights() == frozenset()
    assert archived.adapter_records() == run.adapter_records()
    before = contents(folder, "summary", "report")
    assert before == contents(Path(run.root), "summary", "report")
    assert reduce.is_current(archived)
    assert report.is_current(archived)
    archived.delete("summary")
    archived.delete("report")
    reduce.run(archived)
    report.render(archived)
    assert contents(folder, "summary", "report") == before


def test_equal_runs_give_equal_archives_in_a_folder_and_in_a_bucket(run: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    names = pack(run, tmp_path / "a" / "small.tar", weights=True)
    with serving_bucket() as bucket:
        remote = Store(f"{bucket.root}/runs/small")
        for name, content in contents(Path(run.root), "").items():
            remote.write_bytes(name, content)
        assert pack(remote, tmp_path / "small.tar", weights=True) == names
    assert (tmp_path / "small.tar").read_bytes() == (tmp_path / "a" / "small.tar").read_bytes()


def test_a_run_at_work_is_not_packed_and_leaves_no_file(run: Store, tmp_path: Path) -> None:
    with run.take_lease(), pytest.raises(StoreError, match="a sweep is running in"):
        pack(run, tmp_path / "small.tar", weights=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over_and_other_formats_are_refused(run: Store, tmp_path: Path) -> None:
    (tmp_path / "small.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match="is there already"):
        pack(run, tmp_path / "small.tar", weights=True)
    with pytest.raises(DataError, match=r"ends in none of \.tar, \.tar\.gz"):
        pack(run, tmp_path / "small.zip", weights=True)
    with pytest.raises(DataError, match="not a run folder"):
        pack(Store(str(tmp_path)), tmp_path / "other.tar", weights=True)
    assert (tmp_path / "small.tar").read_bytes() == b"mine"
