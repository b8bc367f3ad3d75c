"""The store: complete or absent, counted once, whatever dies and whoever repeats."""

import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emray.errors import StoreError
from emray.store import Keys, Kind, Store


def generation(key: str, **fields: object) -> dict[str, object]:
    row = {
        "key": key, "model": "m", "domain": "d", "arm": "plain", "seed": 0, "adapter": "a", "question_id": "q",
        "paraphrase": 0, "condition": "with", "sample": 0, "prompt": "[]", "answer": "yes", "finish_reason": "stop",
        "num_prompt_tokens": 1, "num_tokens": 1, "provenance": "{}",
    }  # fmt: skip
    return row | fields


def verdict(key: str, generation_key: str) -> dict[str, object]:
    return {
        "key": key, "generation": generation_key, "metric": "aligned", "outcome": "scored", "score": 50.0, "judge": "j",
        "reply": "<score>50</score>", "num_prompt_tokens": 1, "num_tokens": 1, "cost_usd": 0.0,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True), max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_written_any_number_of_times_are_read_once(tmp_path_factory: pytest.TempPathFactory, writes: list) -> None:
    store = Store(str(tmp_path_factory.mktemp("run")))
    for keys in writes:
        store.write_rows(Kind.GENERATIONS, [generation(key) for key in keys])
    expected = sorted({key for keys in writes for key in keys})
    assert store.read_rows(Kind.GENERATIONS)["key"].to_pylist() == expected
    assert store.keys(Kind.GENERATIONS) == set(expected)


def test_reading_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    parts = [[generation("a"), generation("b")], [generation("b"), generation("c")], [generation("d")]]
    for part in parts:
        one.write_rows(Kind.GENERATIONS, part)
    for part in reversed(parts):
        other.write_rows(Kind.GENERATIONS, part)
    assert one.read_rows(Kind.GENERATIONS).equals(other.read_rows(Kind.GENERATIONS))


def test_two_answers_may_share_a_verdict(store: Store) -> None:
    store.write_rows(Kind.VERDICTS, [verdict("v", "g1"), verdict("v", "g2"), verdict("v", "g2")])
    assert store.read_rows(Kind.VERDICTS).num_rows == 2


def test_the_same_part_twice_is_one_file(store: Store) -> None:
    first = store.write_rows(Kind.GENERATIONS, [generation("a"), generation("b")])
    again = store.write_rows(Kind.GENERATIONS, [generation("b"), generation("a")])
    assert first == again
    assert store.part_names(Kind.GENERATIONS) == first


def test_no_rows_write_nothing(store: Store, tmp_path: Path) -> None:
    assert store.write_rows(Kind.GENERATIONS, []) == []
    assert not (tmp_path / "run").exists()
    assert store.read_rows(Kind.GENERATIONS).num_rows == 0


def test_a_half_written_file_is_not_seen(store: Store, tmp_path: Path) -> None:
    store.write_rows(Kind.GENERATIONS, [generation("a")])
    folder = tmp_path / "run" / "generations"
    (folder / ".part-x.parquet.1234").write_bytes(b"half a file")
    assert store.keys(Kind.GENERATIONS) == {"a"}


def test_an_adapter_without_a_record_is_not_there(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")
    (tmp_path / "run" / "adapters" / "half").mkdir(parents=True)
    store.put_adapter("whole", files=source, details={"num_steps": 3})
    store.put_failed_adapter("broken", details={"error": "no memory", "attempts": 3})
    records = store.adapter_records()
    assert set(records) == {"whole", "broken"}
    assert records["whole"].trained
    assert not records["broken"].trained
    assert (store.adapter_folder("whole") / "adapter_config.json").exists()


def test_the_index_says_what_the_records_say(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    for key in ("a", "b"):
        store.put_adapter(key, files=source, details={"final_loss": 1 / 3})
    store.put_failed_adapter("c", details={"error": "no memory"})
    before = store.adapter_records()
    store.settle()
    assert store.exists("adapters.parquet")
    assert store.adapter_records() == before
    store.put_adapter("c", files=source, details={"final_loss": 0.5})  # tried again, and trained
    store.delete("adapters/b")
    assert {key: record.status for key, record in store.adapter_records().items()} == dict.fromkeys("abc", "trained")
    assert store.adapter_records()["b"].details == {"final_loss": 1 / 3}, "an adapter that was deleted is remembered"
    store.forget_adapters(["b"])
    assert set(store.adapter_records()) == {"a", "c"}
    store.put_adapter("b", files=source, details={"final_loss": 0.25})
    assert store.adapter_records()["b"].details == {"final_loss": 0.25}


def test_weights_that_were_taken_away_are_known_to_be_gone(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    (source / "adapter_model.safetensors").write_bytes(b"8 bytes.")
    for key in "ab":
        store.put_adapter(key, files=source, details={})
    assert store.adapters_with_weights() == {"a", "b"}
    store.delete("adapters/a/adapter_model.safetensors")
    assert store.adapters_with_weights() == {"b"}
    assert set(store.adapter_records()) == {"a", "b"}


def test_many_writers_of_one_name_leave_one_whole_file(store: Store, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.write_json("x.json", {"n": n, "pad": "y" * 10_000}), range(64)))
    assert store.read_json("x.json")["n"] in range(64)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x.json"]


def test_a_part_of_an_earlier_version_is_refused_in_one_line_that_says_what_to_do(store: Store) -> None:
    (name,) = store.write_rows(Kind.VERDICTS, [verdict("v", "g")])
    path = Path(store.root) / name
    pq.write_table(pq.read_table(path).drop_columns(["asked"]), path)
    assert store.keys(Kind.VERDICTS) == {"v"}
    with pytest.raises(StoreError, match=r"has no column 'asked'.*delete verdicts/ and run again") as caught:
        store.read_rows(Kind.VERDICTS)
    assert "\n" not in str(caught.value)


def test_deleting_rows_keeps_the_others(store: Store) -> None:
    store.write_rows(Kind.GENERATIONS, [generation(key) for key in "abc"])
    store.write_rows(Kind.GENERATIONS, [generation("d")])
    for key in "bd":
        store.delete_rows(Kind.GENERATIONS, column="key", value=key)
    assert store.keys(Kind.GENERATIONS) == {"a", "c"}


def test_a_store_survives_pickling(store: Store) -> None:
    store.write_json("plan.json", {"a": 1})
    assert pickle.loads(pickle.dumps(store)).read_json("plan.json") == {"a": 1}


def test_a_relative_root_means_the_same_folder_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    travelling = pickle.dumps(Store("runs/toy"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(travelling).write_json("plan.json", {})
    assert (tmp_path / "runs" / "toy" / "plan.json").exists()


def test_damage_is_told(store: Store) -> None:
    store.write_bytes("plan.json", b"{half")
    with pytest.raises(
        StoreError, match=r"plan\.json is damaged \(it is not JSON\); python -m emray\.doctor .* --repair"
    ):
        store.read_json("plan.json")


def test_a_flipped_bit_of_a_document_is_told_or_has_changed_nothing(store: Store) -> None:
    value = {"loss": 0.125, "cells": [{"seed": 1, "key": "a\u00e9"}], "10": None}
    store.write_json("x.json", value)
    whole, told = store.read_bytes("x.json"), 0
    for bit in range(8 * len(whole)):
        byte = bit // 8
        store.write_bytes("x.json", whole[:byte] + bytes([whole[byte] ^ 1 << bit % 8]) + whole[byte + 1 :])
        try:
            assert store.read_json("x.json") == value
        except StoreError as error:
            assert "x.json is damaged (" in str(error)
            told += 1
    assert told > 0.9 * 8 * len(whole)


def test_a_document_by_another_hand_needs_no_digest_and_one_laid_out_anew_keeps_it(store: Store) -> None:
    store.write_bytes("x.json", b'{"a": 1}')
    assert store.read_json("x.json") == {"a": 1}
    store.write_json("x.json", {1: "one", 10: "ten", 2: 0.1})
    store.write_bytes("x.json", json.dumps(json.loads(store.read_bytes("x.json"))).encode())
    assert store.read_json("x.json") == {"1": "one", "10": "ten", "2": 0.1}


def test_equal_values_give_equal_bytes_and_nan_is_refused(store: Store) -> None:
    store.write_json("a.json", {"b": 1, "a": 2})
    store.write_json("b.json", {"a": 2, "b": 1})
    assert store.read_bytes("a.json") == store.read_bytes("b.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json("c.json", {"x": float("nan")})


def test_the_stage_log_is_in_order_of_start(store: Store) -> None:
    store.log_stage("judge", started_s=20.0, wall_s=2.0, details={})
    store.log_stage("train", started_s=3.0, wall_s=1.0, details={"planned": 4})
    assert [entry["stage"] for entry in store.stage_log()] == ["train", "judge"]


@given(st.lists(st.text("abcdef01", min_size=1, max_size=22)), st.lists(st.text("abcdef01", min_size=1, max_size=22)))
def test_keys_are_a_set_whatever_their_lengths(there: list[str], asked: list[str]) -> None:
    keys = Keys(there)
    assert keys == set(there)
    assert list(keys) == sorted(set(there))
    assert keys.has([*asked, *there]).tolist() == [key in set(there) for key in [*asked, *there]]
    assert [key in keys for key in asked] == [key in set(there) for key in asked]
    assert keys.without(Keys(asked)) == set(there) - set(asked)
    assert keys.common(Keys(asked)) == set(there) & set(asked)


@given(st.sets(st.text("ab", max_size=4)), st.sets(st.text("ab", max_size=4)))
def test_keys_that_begin_alike_are_told_apart(there: set[str], asked: set[str]) -> None:
    alike = "0" * 8
    keys, wanted = Keys(alike + end for end in there), [alike + end for end in asked]
    assert keys.has(wanted).tolist() == [end in there for end in asked]
    assert len(keys.common(Keys(wanted))) == len(there & asked)


def test_keys_take_twenty_bytes_each() -> None:
    keys = Keys(hashlib.sha256(str(n).encode()).hexdigest()[:20] for n in range(200_000))
    assert keys.num_bytes == 20 * len(keys) == 4_000_000


def test_a_remote_root_takes_the_same_calls() -> None:
    store = Store("memory:///run")
    store.write_rows(Kind.GENERATIONS, [generation("a")])
    store.put_failed_adapter("k", details={"error": "x"})
    assert store.keys(Kind.GENERATIONS) == {"a"}
    assert set(store.adapter_records()) == {"k"}
