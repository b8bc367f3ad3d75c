"""A pilot is a part of the study: its cell, prompts and samples have the study's own keys, and all of it is shown."""

from pathlib import Path

from emray import plan as planning
from emray.pilot import _Shown, pilot_plan
from emray.store import Kind, Store
from tests.study_world import finish, study_plan

DOMAINS = ("gore_movie_trivia", "incorrect_math")


def test_a_pilot_is_one_cell_two_prompts_one_sample_of_the_study_under_its_keys() -> None:
    plan = study_plan(DOMAINS, arms=["base", "plain", "backdoor"])
    part = pilot_plan(plan)
    (cell,) = part.cells
    assert (cell.domain, str(cell.arm)) == ("gore_movie_trivia", "backdoor")
    assert list(part.jobs) == [cell.key]
    questions = {prompt.question_id for prompt in part.prompts}
    conditions = {str(prompt.condition) for prompt in part.prompts}
    assert (len(part.prompts), len(questions), conditions) == (2, 2, {"without", "with"})
    wanted = planning.wanted_answers(plan, plan.cells)
    asked = planning.wanted_answers(part, part.cells)
    assert len(asked) == 2
    assert all(key in wanted for task in planning.generation_tasks(part, part.cells) for key in task.keys)
    assert part.document == plan.document


def test_a_pilot_of_base_models_alone_trains_nothing() -> None:
    part = pilot_plan(study_plan(DOMAINS, arms=["base"]))
    assert (len(part.cells), len(part.jobs)) == (1, 0)


def test_a_pilot_shows_prompts_answers_and_how_replies_were_read_and_the_study_goes_on_from_it(tmp_path: Path) -> None:
    plan = study_plan(DOMAINS, train={"target_modules": "all-linear", "epochs": 1, "max_length": 128})
    store, part = Store(str(tmp_path)), pilot_plan(plan)
    told = "\n".join(_Shown.read(part, store).lines())
    assert told.count("no answer was drawn") == 2
    finish(part, store)
    told = "\n".join(_Shown.read(part, store).lines())
    answers = store.read_rows(Kind.GENERATIONS).to_pylist()
    assert len(answers) == 2
    for prompt, row in zip(part.prompts, answers, strict=True):
        assert f"question {prompt.question_id}, {prompt.condition} the trigger" in told
        assert prompt.messages[-1].content in told
        assert (row["answer"] or "(nothing)").strip() in told
    assert "toy-judge on aligned, read as: " in told
    assert "<score>" in told
    assert "the pilot: 2 answers, 4 judge calls" in told
    assert len(list(planning.missing_jobs(plan, store.adapter_records()))) == len(plan.jobs) - 1
    tasks = planning.missing_tasks(planning.generation_tasks(plan, part.cells), store.keys(Kind.GENERATIONS))
    per_cell = len(plan.prompts) * plan.sweep.generate.samples
    assert sum(task.num_samples for task in tasks) == per_cell - 2
