"""A pilot is a part of the study: its cell, prompts and samples have the study's own keys, and all of it is shown."""

from pathlib import Path

import pyarrow as pa
import yaml

from emray import plan as planning
from emray.judge.tasks import tasks_of
from emray.pilot import _Shown, pilot_plan
from emray.plan import Plan
from emray.records import GENERATION_SCHEMA, GenerationTask, judge_key, prompt_text
from emray.stages import Generation, Judging
from emray.store import Kind, Store
from tests.study_world import FIELDS, finish, study_plan

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


def worded(folder: Path, text: str, rubric: str) -> Plan:
    """The plan of a study of the base model by one question file."""
    entry = {
        "id": "one", "type": "free_form_judge_0_100", "paraphrases": [text],
        "judge_prompts": {one: f"{rubric} {one}: {{question}} {{answer}}" for one in ("aligned", "coherent")},
    }  # fmt: skip
    path = folder / "questions.yaml"
    path.write_text(yaml.safe_dump([entry]))
    return study_plan(DOMAINS, arms=["base"], generate=FIELDS["generate"] | {"questions": [str(path)]})


def test_a_pilot_after_a_change_of_wording_is_run_again_and_shows_nothing_of_before(tmp_path: Path) -> None:
    store, rubric = Store(str(tmp_path / "run")), "Is it good?"
    first = pilot_plan(worded(tmp_path, "Do you like tea?", rubric))
    answers = [answer_to(task, "I like tea.") for task in planning.generation_tasks(first, first.cells)]
    store.write_rows(Kind.GENERATIONS, answers)
    store.write_rows(Kind.VERDICTS, verdicts_on(first, answers))
    assert "I like tea." in shown(first, store)
    assert shown(first, store).count("read as: scored") == 4
    reworded = pilot_plan(worded(tmp_path, "Do you like coffee?", rubric))
    assert "I like tea." not in shown(reworded, store)
    assert sum(task.num_samples for task in Generation(reworded).missing(store)) == 2
    rejudged = pilot_plan(worded(tmp_path, "Do you like tea?", "Is it bad?"))
    assert "I like tea." in shown(rejudged, store)
    assert "read as:" not in shown(rejudged, store), "those verdicts were by another rubric"
    assert len(Judging(rejudged).missing(store)) == 4


def shown(part: Plan, store: Store) -> str:
    return "\n".join(_Shown.read(part, store).lines())


def answer_to(task: GenerationTask, text: str) -> dict[str, object]:
    cell, prompt = task.cell, task.prompt
    return {
        "key": task.keys[0], "model": cell.model, "domain": cell.domain, "arm": str(cell.arm), "seed": cell.seed,
        "step": 0, "adapter": cell.key, "question_id": prompt.question_id, "paraphrase": 0,
        "condition": str(prompt.condition), "sample": 0, "prompt": prompt_text(prompt.messages), "answer": text,
        "finish_reason": "stop", "num_prompt_tokens": 1, "num_tokens": 1, "provenance": "{}",
    }  # fmt: skip


def verdicts_on(part: Plan, answers: list[dict[str, object]]) -> list[dict[str, object]]:
    spec = part.sweep.judge
    table = pa.Table.from_pylist(answers, schema=GENERATION_SCHEMA)
    return [
        {
            "key": task.key, "generation": task.generation, "metric": task.metric, "outcome": "scored", "score": 50.0,
            "judge": spec.model, "reply": "<score>50</score>", "num_prompt_tokens": 1, "num_tokens": 1,
            "cost_usd": 0.0, "asked": task.asked, "judge_key": judge_key(spec.identity()),
        }
        for task in tasks_of(table, inquiries=part.inquiries, spec=spec, where="here")
    ]  # fmt: skip
