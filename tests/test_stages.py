"""What each stage misses: only what can be done by now, piece by piece, and nothing of a finished study."""

import pickle
from pathlib import Path

import pyarrow.compute as pc
import pytest

from benchmarks.scale import write_study
from emray.errors import StoreError
from emray.estimate import Left, estimate_judging
from emray.plan import Plan, generation_tasks, make_plan
from emray.records import Arm, FinishReason
from emray.spec import load_sweep
from emray.stages import Generation, Judging, Training
from emray.store import Kind, Store
from tests.commands import write_sweep

PROMPTS, SAMPLES, METRICS = 30, 2, 2


def plan(folder: Path, *overrides: str) -> Plan:
    return make_plan(load_sweep(write_sweep(folder), overrides=list(overrides)), folder=folder, online=False)


def num_answers(made: Plan, store: Store) -> int:
    return sum(task.num_samples for task in Generation(made).missing(store))


def test_nothing_is_missing_from_a_finished_study(tmp_path: Path) -> None:
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    write_study(store, made)
    for stage in (Training(made), Generation(made), Judging(made)):
        assert list(stage.missing(store)) == []
    store.settle()
    for stage in (Training(made), Generation(made), Judging(made)):
        assert list(stage.missing(store)) == []


def test_before_training_the_base_model_alone_can_answer(tmp_path: Path) -> None:
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    assert list(Training(made).missing(store)) == list(made.jobs.values())
    assert {task.cell.arm for task in Generation(made).missing(store)} == {Arm.BASE}
    assert list(Judging(made).missing(store)) == []
    assert estimate_judging(Left(made, store)).calls == len(made.cells) * PROMPTS * SAMPLES * METRICS


def test_a_failed_cell_misses_no_answers_and_costs_no_judging(tmp_path: Path) -> None:
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    failed, *others = made.jobs
    store.put_failed_adapter(failed, details={"error": "no memory"})
    assert [job.cell.key for job in Training(made).missing(store)] == others
    able = 1 + len(others)
    assert estimate_judging(Left(made, store)).calls == able * PROMPTS * SAMPLES * METRICS
    again = plan(tmp_path, "resources.retry_failed=true")
    assert estimate_judging(Left(again, store)).calls == (able + 1) * PROMPTS * SAMPLES * METRICS


def test_more_samples_miss_the_new_ones_and_verdicts_only_of_answers_that_are_there(tmp_path: Path) -> None:
    few, more, store = plan(tmp_path), plan(tmp_path, "generate.samples=3"), Store(str(tmp_path / "run"))
    write_study(store, few)
    assert num_answers(more, store) == len(more.cells) * PROMPTS
    assert list(Judging(more).missing(store)) == []
    store.delete("verdicts")
    missing = list(Judging(few).missing(store))
    assert len(missing) == len({(task.generation, task.metric) for task in missing})
    assert len(missing) == len(few.cells) * PROMPTS * SAMPLES * METRICS


def test_rows_that_say_a_try_failed_are_missing_once_they_are_dropped(tmp_path: Path) -> None:
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    write_study(store, made)
    one = store.read_rows(Kind.GENERATIONS).slice(0, 1).to_pylist()[0]
    store.delete_rows(Kind.GENERATIONS, column="key", value=one["key"])
    store.write_rows(Kind.GENERATIONS, [one | {"answer": None, "finish_reason": str(FinishReason.ERROR)}])
    assert num_answers(made, store) == 0
    store.delete_rows(Kind.GENERATIONS, column="finish_reason", value=str(FinishReason.ERROR))
    (task,) = Generation(made).missing(store)
    assert (task.cell.key, task.keys) == (one["adapter"], (one["key"],))


def test_verdicts_are_looked_for_part_by_part(tmp_path: Path) -> None:
    """All of the first part's come before the second is looked at, which holds an answer that the sweep knows not."""
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    write_study(store, made)
    store.delete("verdicts")
    rows = store.read_rows(Kind.GENERATIONS).to_pylist()
    for row in rows:
        store.delete("generations")
        (stray,) = store.write_rows(Kind.GENERATIONS, [row | {"question_id": "gone", "prompt": "[]"}])
        (others,) = store.write_rows(Kind.GENERATIONS, [other for other in rows if other is not row])
        if stray > others:
            break
    seen = []
    with pytest.raises(StoreError, match="'gone'"):
        for task in Judging(made).missing(store):
            seen.append(task.generation)
    assert len(seen) == (len(made.cells) * PROMPTS * SAMPLES - 1) * METRICS


def test_a_task_is_small_however_many_samples_it_has(tmp_path: Path) -> None:
    few, many = (
        next(iter(generation_tasks(made, made.cells)))
        for made in (plan(tmp_path), plan(tmp_path, "generate.samples=100000"))
    )
    assert len(pickle.dumps(many)) <= len(pickle.dumps(few)) + 8
    assert many.keys[:SAMPLES] == few.keys


def test_weights_that_are_gone_are_trained_again_only_where_something_still_asks_for_them(tmp_path: Path) -> None:
    made, store = plan(tmp_path), Store(str(tmp_path / "run"))
    write_study(store, made)
    store.settle()
    store.delete("adapters")
    for stage in (Training(made), Generation(made), Judging(made)):
        assert list(stage.missing(store)) == []
    more = plan(tmp_path, "generate.samples=3")
    assert list(Training(more).missing(store)) == list(more.jobs.values())
    one, *_ = made.jobs
    answers = pc.equal(store.read_rows(Kind.GENERATIONS)["adapter"], one).to_numpy()
    first = int(answers.argmax())
    store.delete_rows(Kind.GENERATIONS, column="key", value=store.read_rows(Kind.GENERATIONS)["key"][first].as_py())
    assert [job.cell.key for job in Training(made).missing(store)] == [one], "an answer of its cell is missing"
