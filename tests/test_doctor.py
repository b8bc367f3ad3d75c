"""Damaged run folders: found by name, moved aside whole, and what was good stays; on disk and in a bucket."""

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.doctor import examine, mend, repair
from emray.doctor.__main__ import main
from emray.doctor.checks import Location
from emray.endpoint.journal import Journal, compact, journaled_keys
from emray.endpoint.kept import KeptReplies
from emray.endpoint.reply import Reply
from emray.errors import StoreError
from emray.model.direction_files import Directions, length_of, measured_directions, write_directions
from emray.records import Difference
from emray.store import Kind, Store
from tests.commands import contents
from tests.s3_server import serving_bucket

SMALL = Truth({"gore_movie_trivia": Rates(0.02, 0.9), "incorrect_math": Rates(0.0, 0.0)}, samples=2, num_questions=3)
REPLIES = 40
Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(255 - byte for byte in content),
    "one bit": lambda content: content[:5] + bytes([content[5] ^ 4]) + content[6:],
}


def write_folder(store: Store, folder: Path) -> None:
    """A finished run: adapters with weights, compact tables, a journal, a summary and a report."""
    write_run(store, SMALL)
    folder.mkdir()
    save_file({"a.lora_A.weight": np.ones((4, 8), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 4}')
    for key in list(store.adapter_records()):
        store.put_adapter(key, files=folder, details={"wall_s": 4.0})
    store.settle()
    write_replies(store, range(REPLIES))
    compact(store)
    write_direction(store)
    store.write_json("datasets.json", {"key": "k", "files": []})
    reduce.run(store)
    report.render(store)


def write_direction(store: Store) -> None:
    """A file of directions and the rows of its measurement, beside another measurement in the same part."""
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    write_directions(store, "turned", Directions({Difference.DATA: vectors}, {}, {"num_aligned": 3}))
    blank = {"probe": "directions", "model": "m", "domain": "d", "arm": "a", "seed": 0, "adapter": ""}
    rows = [blank | {"key": "turned", "subject": f"{layer}", "measure": length_of(Difference.DATA)} for layer in (0, 1)]
    rows.append(blank | {"key": "other", "subject": "-", "measure": "distinct"})
    store.write_rows(Kind.MEASUREMENTS, [row | {"value": 1.0} for row in rows])


def write_replies(store: Store, numbers: range) -> None:
    journal = Journal(store)
    for number in numbers:
        journal.add(f"request-{number}", Reply(f"{number}", "stop", "m", 1, 1))
    journal.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the finished run, by name."""
    folder = tmp_path_factory.mktemp("whole")
    write_folder(Store(str(folder / "run")), folder / "adapter")
    return contents(folder / "run", "")


@pytest.fixture
def store(whole: Mapping[str, bytes], tmp_path: Path) -> Store:
    """The finished run once more, to be damaged."""
    return written(Store(str(tmp_path / "run")), whole)


def written(store: Store, files: Mapping[str, bytes]) -> Store:
    for name, content in files.items():
        store.write_bytes(name, content)
    return store


def test_nothing_is_damaged_in_a_finished_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(examine(store)) == []
    assert mend(store) == []
    assert main([store.root, "--repair"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out


FILES = (
    "plan.json", r"adapters/\w+/record.json", r"adapters/\w+/adapter_model.safetensors",
    r"adapters/\w+/adapter_config.json", "adapters.parquet", r"generations/.*\.parquet", r"verdicts/.*\.parquet",
    r"journal/.*\.parquet", r"log/.*\.json", "datasets.json", r"directions/.*\.safetensors",
    r"measurements/.*\.parquet", "summary/taxonomy.csv", "report/report.html",
)  # fmt: skip
DERIVED = {"summary/taxonomy.csv", "report/report.html"}  # told, and made again, as a whole


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named_and_moved_aside_and_then_nothing_is_damaged(
    store: Store, pattern: str, how: str, whole: Mapping[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(name for name in sorted(whole) if re.fullmatch(pattern, name))
    broken = DAMAGES[how](whole[name])
    store.write_bytes(name, broken)
    assert main([store.root]) == 1
    told = capsys.readouterr().out
    named = f"{name.partition('/')[0]}/record.json" if name in DERIVED else name
    assert f"{named}: " in told
    assert "1 file is damaged" in told
    assert store.read_bytes(name) == broken, "looking changes nothing"
    assert main([store.root, "--repair"]) == 0
    if name not in DERIVED:
        assert store.read_bytes(f"damaged/{name}") == broken
    assert list(examine(store)) == []


def test_whoever_reads_a_damaged_part_is_told_its_name_and_the_doctors(store: Store) -> None:
    (name,) = store.part_names(Kind.VERDICTS)
    store.write_bytes(name, store.read_bytes(name)[:-40])
    with pytest.raises(StoreError, match=rf"{name} is damaged .*python -m emray\.doctor .* --repair") as told:
        store.read_rows(Kind.VERDICTS)
    assert "\n" not in str(told.value)


def test_in_a_bucket_what_is_damaged_is_named_and_moved_aside_too(whole: Mapping[str, bytes]) -> None:
    with serving_bucket() as bucket:
        store = written(Store(f"{bucket.root}/run"), whole)
        patterns = [pattern for pattern in FILES if pattern not in DERIVED and not pattern.endswith("record.json")]
        names = {next(name for name in sorted(whole) if re.fullmatch(pattern, name)) for pattern in patterns}
        for name in names:
            store.write_bytes(name, whole[name][:-9])
        assert {finding.name for finding in examine(store)} == names
        assert main([store.root, "--repair"]) == 0
        assert list(examine(store)) == []
        for name in names:
            assert store.read_bytes(f"damaged/{name}") == whole[name][:-9]


def test_a_folder_that_is_no_run_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_what_a_killed_run_left_damaged_is_mended_before_a_sweep_and_its_good_neighbours_stay(store: Store) -> None:
    rows = store.read_rows(Kind.VERDICTS)
    (compacted,) = store.part_names(Kind.VERDICTS)
    store.delete_files([compacted])
    (good,), (bad,) = (store.write_rows(Kind.VERDICTS, rows.slice(start, 50)) for start in (0, 50))
    store.write_bytes(bad, b"")
    (note,) = mend(store)
    assert note.startswith(f"{bad} is damaged (")
    assert store.part_names(Kind.VERDICTS) == [good]
    assert store.read_rows(Kind.VERDICTS).num_rows == 50


def test_verdicts_on_answers_that_are_lost_go_with_them_and_the_others_stay(store: Store) -> None:
    rows, verdicts = store.read_rows(Kind.GENERATIONS), store.read_rows(Kind.VERDICTS)
    store.delete_files(store.part_names(Kind.GENERATIONS))
    half = rows.num_rows // 2
    store.write_rows(Kind.GENERATIONS, rows.slice(0, half))
    (lost,) = store.write_rows(Kind.GENERATIONS, rows.slice(half))
    store.write_bytes(lost, b"PAR1")
    (note,) = mend(store)
    assert lost in note
    kept = set(rows["key"].to_pylist()[:half])
    left = store.read_rows(Kind.VERDICTS)
    assert set(left["generation"].to_pylist()) == kept & set(verdicts["generation"].to_pylist()) != set()
    assert left.num_rows == sum(generation in kept for generation in verdicts["generation"].to_pylist())
    assert list(examine(store)) == []


def test_a_bad_line_of_the_journal_costs_its_reply_and_no_other(store: Store) -> None:
    write_replies(store, range(100, 110))
    (name,) = (name for name in store.names("journal") if name.endswith(".jsonl"))
    lines = store.read_bytes(name).splitlines(keepends=True)
    store.write_bytes(name, b"".join([*lines[:4], b"\0" * 30 + b"\n", *lines[5:9], lines[9][:20]]))
    with pytest.raises(StoreError, match=rf"{name} is damaged"):
        journaled_keys(store)
    (note,) = mend(store)
    assert note.startswith(f"{name} is damaged (1 of its lines")
    numbers = [*range(REPLIES), 100, 101, 102, 103, 105, 106, 107, 108]  # the last was never ended: no entry
    assert set(journaled_keys(store)) == {f"request-{number}" for number in numbers}
    kept = KeptReplies(store)
    assert [kept.reply(f"request-{number}").text for number in (3, 108)] == ["3", "108"]
    assert mend(store) == []


def test_a_line_cut_short_at_the_end_is_no_damage(store: Store) -> None:
    write_replies(store, range(100, 102))
    (name,) = (name for name in store.names("journal") if name.endswith(".jsonl"))
    store.write_bytes(name, store.read_bytes(name)[:-9])
    assert mend(store) == []
    assert list(examine(store)) == []
    assert len(journaled_keys(store)) == REPLIES + 1


def test_of_a_journal_part_with_one_bad_group_the_other_groups_stay(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_replies(store, range(2500))
    compact(store)
    (name,) = store.names("journal")
    content = store.read_bytes(name)
    store.write_bytes(name, content[:2000] + bytes([content[2000] ^ 255]) + content[2001:])
    list(repair(store, list(examine(store))))
    assert 1000 <= len(journaled_keys(store)) < 2500
    assert list(examine(store)) == []


def test_a_damaged_adapter_is_not_loaded_and_is_trained_again(store: Store) -> None:
    key = next(iter(store.adapter_records()))
    name = f"adapters/{key}/adapter_model.safetensors"
    store.write_bytes(name, store.read_bytes(name)[:-1])
    with pytest.raises(StoreError, match=rf"{name} is damaged \(it has .* bytes, its header says"):
        store.adapter_folder(key)
    (finding,) = examine(store)
    assert finding.redo == "its cell is trained again (4 s the last time)"
    list(repair(store, [finding]))
    assert key not in store.adapter_records()
    store.settle()
    assert key not in store.adapter_records()
    assert store.exists(f"damaged/adapters/{key}/record.json")


def test_a_bit_that_flipped_in_a_weight_is_told_to_whoever_loads_it_and_before_a_sweep_costs_no_reading(
    store: Store,
) -> None:
    key = next(iter(store.adapter_records()))
    name = f"adapters/{key}/adapter_model.safetensors"
    content = store.read_bytes(name)
    store.write_bytes(name, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match=rf"{name} is damaged \(its content is not as its record says\); .*--repair"):
        Store(store.root).adapter_folder(key)
    assert mend(store) == []
    assert [(finding.name, finding.what) for finding in examine(store)] == [
        (name, "its content is not as its record says")
    ]


def test_a_file_of_an_adapter_that_is_not_there_is_found(store: Store) -> None:
    key = next(iter(store.adapter_records()))
    name = f"adapters/{key}/adapter_config.json"
    store.delete(name)
    assert [(finding.name, finding.what) for finding in examine(store)] == [(name, "it is not there")]
    assert main([store.root, "--repair"]) == 0
    assert key not in Store(store.root).adapter_records()


def test_an_adapter_whose_record_is_of_an_earlier_version_is_taken_as_whole(store: Store) -> None:
    key = next(iter(store.adapter_records()))
    earlier = {"key": key, "status": "trained", "details": {"wall_s": 4.0}}
    store.write_bytes(f"adapters/{key}/record.json", json.dumps(earlier).encode())
    assert store.adapter_folder(key).is_dir()
    assert list(examine(store)) == []


def test_an_adapter_that_changed_on_this_machine_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "here"))
    (tmp_path / "made").mkdir()
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "made" / "adapter_model.safetensors")
    whole = (tmp_path / "made" / "adapter_model.safetensors").read_bytes()
    with serving_bucket() as bucket:
        store = Store(f"{bucket.root}/run")
        store.put_adapter("k", files=tmp_path / "made", details={})
        fetched = store.adapter_folder("k") / "adapter_model.safetensors"
        fetched.write_bytes(whole[:-1] + b"\7")
        assert (Store(store.root).adapter_folder("k") / "adapter_model.safetensors").read_bytes() == whole
        store.write_bytes("adapters/k/adapter_model.safetensors", whole[:-1] + b"\7")
        fetched.unlink()
        with pytest.raises(StoreError, match=r"adapters/k/adapter_model\.safetensors is damaged"):
            Store(store.root).adapter_folder("k")


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_directions_that_are_lost_are_measured_again_and_their_neighbours_stay(store: Store, how: str) -> None:
    (name,) = store.names("directions")
    if how == "changed":
        store.write_bytes(name, DAMAGES["one bit"](store.read_bytes(name)))
    else:
        store.delete(name)
    (finding,) = examine(store)
    assert (finding.name, finding.redo) == (name, "its finetune's directions are computed again")
    list(repair(store, [finding]))
    assert store.read_rows(Kind.MEASUREMENTS)["key"].to_pylist() == ["other"]
    assert measured_directions(store) == frozenset()
    assert list(examine(store)) == []


def test_an_index_that_was_half_written_is_written_anew_by_itself(store: Store) -> None:
    before = store.adapter_records()
    store.write_bytes("adapters.parquet", store.read_bytes("adapters.parquet")[:-9])
    assert store.adapter_records() == before
    store.settle()
    assert list(examine(store)) == []
    assert store.indexed_adapters() == sorted(before)


@pytest.mark.parametrize(
    "name", ["summary/summary.json", "summary/record.json", "report/report.md", "report/record.json"]
)
def test_a_damaged_summary_or_report_is_made_again_by_itself(
    store: Store, name: str, whole: Mapping[str, bytes]
) -> None:
    store.write_bytes(name, whole[name][:-20])
    assert not (reduce.is_current(store) and report.is_current(store))
    reduce.run(store)
    report.render(store)
    assert {one: store.read_bytes(one) for one in whole if one.startswith(("summary/", "report/"))} == {
        one: content for one, content in whole.items() if one.startswith(("summary/", "report/"))
    }


def test_what_a_killed_writer_left_of_a_file_goes_after_an_hour(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_run(store, SMALL)
    old, new = (tmp_path / "verdicts" / f".part-{n}.parquet.{uuid.uuid4().hex}" for n in "ab")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    found = sorted(finding.name for finding in examine(store) if finding.place == Location.TEMPORARY)
    assert found == sorted(f"verdicts/{path.name}" for path in (old, new))
    mend(store)
    assert not old.exists()
    assert new.exists()


def test_a_part_of_an_earlier_version_is_told_by_the_doctor_and_left_alone_by_a_sweep(store: Store) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(store.read_rows(Kind.VERDICTS).drop_columns(["asked"]), content)
    store.write_bytes("verdicts/part-old.parquet", content.getvalue().to_pybytes())
    (finding,) = examine(store)
    assert (finding.name, finding.what) == ("verdicts/part-old.parquet", "it has no column 'asked'")
    assert mend(store) == []
