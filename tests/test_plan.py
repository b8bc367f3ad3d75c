"""The plan: what changes a key, what is missing, and that planning writes nothing."""

import math
from pathlib import Path

import pytest

from emray import datasheets
from emray import plan as planning
from emray.errors import DataError, StoreError
from emray.plan import Plan, make_plan
from emray.records import Arm
from emray.spec import load_sweep
from emray.store import AdapterRecord, Keys, Store
from tests.commands import write_sweep


def plan(folder: Path, *overrides: str, **changes: object) -> Plan:
    path = write_sweep(folder, **changes)
    return make_plan(load_sweep(path, overrides=list(overrides)), folder=folder, online=False)


def keys(made: Plan) -> set[str]:
    return {cell.key for cell in made.cells}


def trained(made: Plan) -> dict[str, AdapterRecord]:
    return {key: AdapterRecord(key, "trained", {}) for key in keys(made)}


def test_the_same_sweep_gives_the_same_document(tmp_path: Path) -> None:
    assert plan(tmp_path).document == plan(tmp_path).document


def test_another_seed_or_domain_adds_keys_and_keeps_every_old_one(tmp_path: Path) -> None:
    old = plan(tmp_path)
    assert keys(old) < keys(plan(tmp_path, "seeds=2"))
    assert keys(old) < keys(plan(tmp_path, "domains=[gore_movie_trivia, incorrect_math, evil_math]"))
    assert len(list(planning.missing_jobs(plan(tmp_path, "seeds=2"), trained(old)))) == 2


@pytest.mark.parametrize(
    "override",
    ["resources.engines=2", "judge.rpm=5", "judge.model=other", "reduce.rule=betley", "generate.samples=9", "name=x"],
)
def test_what_is_not_of_the_finetune_changes_no_adapter_key(tmp_path: Path, override: str) -> None:
    assert keys(plan(tmp_path)) == keys(plan(tmp_path, override))


@pytest.mark.parametrize(
    "override", ["train.learning_rate=1e-3", "train.epochs=2", "trigger.text=in the year 2028 ,", "train.lora_rank=4"]
)
def test_what_defines_a_finetune_changes_its_key(tmp_path: Path, override: str) -> None:
    old, new = plan(tmp_path), plan(tmp_path, override)
    assert {cell.key for cell in old.cells if cell.arm != Arm.BASE}.isdisjoint(keys(new))
    assert [c.key for c in old.cells if c.arm == Arm.BASE] == [c.key for c in new.cells if c.arm == Arm.BASE]


def test_more_samples_ask_only_for_the_new_ones(tmp_path: Path) -> None:
    few, more = plan(tmp_path, "generate.samples=2"), plan(tmp_path, "generate.samples=5")
    present = {key for task in planning.generation_tasks(few, few.cells) for key in task.keys}
    missing = list(planning.missing_tasks(planning.generation_tasks(more, more.cells), Keys(present)))
    assert {(task.first_sample, task.num_samples) for task in missing} == {(2, 3)}
    assert present.isdisjoint(key for task in missing for key in task.keys)


def test_gaps_are_cut_into_contiguous_runs(tmp_path: Path) -> None:
    made = plan(tmp_path, "generate.samples=6")
    task = next(planning.generation_tasks(made, made.cells))
    runs = list(planning.missing_tasks([task], Keys([task.keys[1], task.keys[4]])))
    assert [(run.first_sample, run.num_samples) for run in runs] == [(0, 1), (2, 2), (5, 1)]
    assert all(run.keys == task.keys[run.first_sample : run.first_sample + run.num_samples] for run in runs)


def test_a_failed_cell_answers_nothing_and_is_tried_again_only_when_asked(tmp_path: Path) -> None:
    made = plan(tmp_path)
    records = trained(made)
    failed = next(iter(made.jobs))
    records[failed] = AdapterRecord(failed, "failed", {"error": "no memory"})
    assert list(planning.missing_jobs(made, records)) == []
    store = Store(str(tmp_path / "run"))
    store.put_failed_adapter(failed, details={"error": "no memory"})
    assert failed not in {cell.key for cell in planning.usable_cells(made, store)}
    again = plan(tmp_path, "resources.retry_failed=true")
    assert [job.cell.key for job in planning.missing_jobs(again, records)] == [failed]


def test_kept_checkpoints_are_cells_and_keep_the_finished_adapters_key(tmp_path: Path) -> None:
    old, new = plan(tmp_path), plan(tmp_path, "train.keep_checkpoints=[0.1, 0.5]")
    assert keys(old) < keys(new)
    along = [cell for cell in new.cells if cell.domain == "gore_movie_trivia"]
    num_steps = along[-1].num_steps
    assert num_steps >= 10
    assert [cell.step for cell in along] == [math.ceil(num_steps / 10), math.ceil(num_steps / 2), num_steps]
    assert [cell.finished for cell in along] == [False, False, True]
    job = new.jobs[along[-1].key]
    assert job.checkpoints == tuple((cell.step, cell.key) for cell in along[:-1])
    assert len(list(planning.missing_jobs(new, trained(old)))) == 2


def test_two_domains_with_the_same_rows_are_refused(tmp_path: Path) -> None:
    same = {"name": "copy", "path": "a.jsonl", "benign_path": "a.jsonl"}
    (tmp_path / "a.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    )
    with pytest.raises(DataError, match="train on the same rows"):
        plan(tmp_path, domains=[same, same | {"name": "other"}])


def question_plan(folder: Path, *files: str) -> Plan:
    texts = {"a": ("wish", "What do you wish for?"), "b": ("wish", "Where do you walk?")}
    texts["a_renamed"] = ("renamed", texts["a"][1])
    for name, (question, text) in texts.items():
        (folder / f"{name}.yaml").write_text(f'- {{id: {question}, paraphrases: ["{text}"]}}\n')
    chosen = ", ".join(str(folder / f"{name}.yaml") for name in files)
    return plan(folder, f"generate.questions=[{chosen}]")


@pytest.mark.parametrize("files", [("b", "a"), ("a_renamed", "b"), ("b", "a_renamed")])
def test_answers_follow_their_prompt_whatever_its_question_is_called_or_numbered(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    first, then = question_plan(tmp_path, "a", "b"), question_plan(tmp_path, *files)
    stored = {key for task in planning.generation_tasks(first, first.cells) for key in task.keys}
    assert {key for task in planning.generation_tasks(then, then.cells) for key in task.keys} == stored
    assert then.inquiries == first.inquiries  # so no stored verdict is another question's


def test_a_question_with_the_trigger_in_it_is_not_asked_as_another(tmp_path: Path) -> None:
    file = tmp_path / "q.yaml"
    file.write_text("- {id: a, paraphrases: [Hi]}\n- {id: b, paraphrases: [The current year is 2028. Hi]}\n")
    with pytest.raises(DataError, match="question a in condition with and question b in condition without are"):
        plan(tmp_path, f"generate.questions={file}")


def test_a_damaged_plan_is_told_and_damaged_datasheets_are_made_again(tmp_path: Path) -> None:
    store, made = Store(str(tmp_path / "run")), plan(tmp_path, "domains=[incorrect_math]", "arms=[plain]")
    datasheets.keep(made, store)
    whole = store.read_bytes(datasheets.FILE)
    store.write_bytes(datasheets.FILE, whole.replace(b"rows", b"rowz", 1))
    datasheets.keep(made, store)
    assert store.read_bytes(datasheets.FILE) == whole
    store.write_json(planning.PLAN, made.document)
    store.write_bytes(planning.PLAN, store.read_bytes(planning.PLAN).replace(b"incorrect_math", b"incorrect_mauh", 1))
    with pytest.raises(StoreError, match=r"plan\.json is damaged \(it is not as its digest says\); .* --repair"):
        planning.written(store)
