"""What no run wants goes, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.synthetic_run import Rates, Truth, write_plan, write_run
from emray import reduce
from emray.endpoint import journal
from emray.endpoint.reply import Reply
from emray.records import Arm
from emray.runs.__main__ import main
from emray.store import Kind, Store

NARROW = Truth({"a": Rates(0.0, 0.5)}, seeds=(0,), arms=(Arm.BASE, Arm.PLAIN), num_questions=2, samples=3)
WIDE = replace(NARROW, seeds=(0, 1, 2))
ANSWERS_A_CELL = 2 * 2 * 3  # questions x conditions x samples


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run that was planned with three seeds, and is with one now."""
    made = Store(str(tmp_path / "runs" / "one"))
    for cell in write_run(made, WIDE):
        if cell.arm != Arm.BASE:
            made.write_bytes(f"adapters/{cell.key}/adapter_model.safetensors", b"x" * 500_000)
    write_plan(made, NARROW)
    return made


def adapters(store: Store) -> set[str]:
    return set(store.folders("adapters"))


def gc(folder: Path, *more: str) -> int:
    return main(["gc", str(folder / "runs"), *more])


def test_what_one_plan_alone_wants_stays_and_all_else_goes_and_is_named(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {cell.key for cell in write_plan(store, NARROW)}
    before, records = adapters(store), store.adapter_records()
    judged = store.read_rows(Kind.VERDICTS).to_pandas()
    assert gc(tmp_path, "--dry-run") == 0
    assert "one: 2 adapters (1.0 MB), 24 answers, " in (told := capsys.readouterr().out)
    assert "would go" in told
    assert adapters(store) == before
    assert gc(tmp_path) == 0
    assert "one: 2 adapters (1.0 MB), 24 answers, " in capsys.readouterr().out
    assert adapters(store) == before & wanted
    generations = store.read_rows(Kind.GENERATIONS).to_pandas()
    assert set(generations["adapter"]) == wanted
    assert len(generations) == 2 * ANSWERS_A_CELL
    left = store.read_rows(Kind.VERDICTS).to_pandas()
    assert set(left["key"]) == set(judged[judged["generation"].isin(generations["key"])]["key"])
    assert store.adapter_records() == records, "what training cost is remembered"
    assert gc(tmp_path) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_the_summary_is_byte_for_byte_as_before(store: Store, tmp_path: Path) -> None:
    reduce.run(store)
    names = store.names("summary", suffix=".csv")
    before = {name: store.read_bytes(name) for name in names}
    assert len(before) > 10
    assert gc(tmp_path) == 0
    assert not reduce.is_current(store)
    reduce.run(store)
    assert {name: store.read_bytes(name) for name in names} == before


def test_what_another_run_wants_stays(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = adapters(store)
    other = Store(str(tmp_path / "runs" / "two"))
    write_plan(other, replace(WIDE, seeds=(0, 1)))
    assert gc(tmp_path) == 0
    assert "one: 1 adapter (0.5 MB), 12 answers, " in capsys.readouterr().out
    assert len(adapters(store)) == len(before) - 1


def test_verdicts_of_a_judge_that_no_run_asks_go_with_their_replies(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(store, replace(WIDE, judge="another"))
    keys = list(store.keys(Kind.VERDICTS))
    written = journal.Journal(store)
    for key in (*keys, "on its way", "somebody's.answer"):
        written.add(key, Reply("<score>7</score>", "stop", "m", 1, 1))
    written.close()
    journal.compact(store)
    assert gc(tmp_path) == 0
    assert f"one: {len(keys)} verdicts, {len(keys)} replies removed" in capsys.readouterr().out
    assert len(store.keys(Kind.VERDICTS)) == 0
    assert journal.journaled_keys(store) == {"on its way", "somebody's.answer"}
    assert len(store.keys(Kind.GENERATIONS)) == 4 * ANSWERS_A_CELL


def test_a_run_that_a_sweep_works_in_is_left_alone(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = adapters(store)
    with store.take_lease():
        assert gc(tmp_path) == 0
    assert "one: left alone: another sweep is running" in capsys.readouterr().out
    assert adapters(store) == before


def test_nothing_goes_while_one_plan_cannot_be_read(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = adapters(store)
    Store(str(tmp_path / "runs" / "two")).write_bytes("plan.json", b"{")
    assert gc(tmp_path) == 1
    assert "two/plan.json is damaged" in capsys.readouterr().err
    assert adapters(store) == before


def test_a_run_folder_is_no_store(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", store.root]) == 2
    assert "is a run folder; give the folder that run folders lie in" in capsys.readouterr().err
