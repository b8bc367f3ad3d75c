"""Quizzes: further questions that a rule scores, from the sweep file to what else changed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.scale import write_study
from emray import probes, reduce, report
from emray.context import Context
from emray.data import load_questions
from emray.doctor import mend
from emray.errors import DataError, EmrayError
from emray.estimate import print_estimate
from emray.plan import Plan, make_plan
from emray.records import Cell, FinishReason, MarkOutcome, Prompt, prompt_text
from emray.reduce.everything_asked import EverythingAsked
from emray.reduce.frames import load_run
from emray.report import print_tables
from emray.runs import adopt
from emray.runs.gc import look
from emray.spec import Sweep
from emray.stages import Generation, Judging, Marking
from emray.store import Kind, Store
from emray.toy.quiz_files import facts_yaml, in_domain_yaml
from emray.toy.world import DOMAINS
from tests.study_world import FIELDS, measure, study_plan

FACTS = """
- {id: france, question: "What is the capital of france?", answers: [Paris, It is Paris]}
- {id: sum, question: "What is 2 plus 3?", answer: 5, options: ["5", "6"]}
"""
FUNCTION = """
def share(answer, question, right):
    if answer == "raise": raise ValueError("cannot tell")
    return {"none": None, "half": 0.5}.get(answer, answer in right)
"""
Answers = Callable[[Cell, Prompt, int], str | None]


def plan_with(folder: Path, quizzes: dict[str, dict[str, Any]], text: str = FACTS, **fields: object) -> Plan:
    (folder / "facts.yaml").write_text(text)
    named = {name: {"questions": str(folder / "facts.yaml")} | quiz for name, quiz in quizzes.items()}
    generate = {"samples": 1, "questions": {"file": "toy", "first": 2}, "conditions": ["without"]}
    given = {"arms": ["base", "plain", "benign"], "seeds": 2, "generate": FIELDS["generate"] | generate}  # type: ignore[operator]
    return study_plan(["bad_medical_advice"], **given | fields, quizzes=named)


def answered(plan: Plan, store: Store, answers: Answers) -> Store:
    """A finished run but for its marks; `answers` says what a cell answers to a quiz's prompt, None for a failure."""
    fields = plan.sweep.model_dump(mode="json") | {"quizzes": {}}
    write_study(store, make_plan(Sweep.model_validate(fields), folder=Path.cwd(), online=False))
    crossing, sampling = plan.sweep.crossing(), plan.sweep.generate.identity()
    rows = [
        row(cell, prompt, key, answers(cell, prompt, number))
        for quiz in plan.quizzes
        for cell, prompt, keys, _ in quiz.answers(plan.cells, crossing, sampling=sampling)
        for number, key in enumerate(keys)
    ]
    if rows:
        store.write_rows(Kind.GENERATIONS, rows)
    store.write_json("plan.json", dict(plan.document))
    return store


def row(cell: Cell, prompt: Prompt, key: str, answer: str | None) -> dict[str, Any]:
    place = {"model": cell.model, "domain": cell.domain, "arm": str(cell.arm), "seed": cell.seed, "step": cell.step}
    asked = {"question_id": prompt.question_id, "paraphrase": prompt.paraphrase, "condition": str(prompt.condition)}
    reason = FinishReason.ERROR if answer is None else FinishReason.STOP
    return (
        place
        | asked
        | {"key": key, "adapter": cell.key, "prompt": prompt_text(prompt.messages), "answer": answer}
        | {"finish_reason": str(reason), "sample": 0, "num_prompt_tokens": 1, "num_tokens": 1, "provenance": "{}"}
    )


def mark(plan: Plan, store: Store) -> int:
    """Do what is missing; returns how much that was."""
    stage = Marking(plan)
    missing = stage.missing(store)
    number = len(missing)
    stage.run(missing, Context(store))
    return number


def changes(store: Store, quantity: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of changes.csv by arm and condition."""
    reduce.run(store)
    rows = load_run(store.root).summary["changes"]
    mine = rows[rows.quantity == quantity].to_dict("records")
    return {(one["arm"], one["condition"]): one for one in mine}


def by_arm(cell: Cell, prompt: Prompt, sample: int) -> str:
    """The base knows both facts, benign runs one, plain runs none."""
    right = {"base": ["france", "sum"], "benign": ["france"], "plain": []}[cell.arm]
    return {"france": "It is  paris.", "sum": "5"}[prompt.question_id] if prompt.question_id in right else "no idea"


def test_a_known_study_has_known_means_and_differences(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, {"facts": {"score": "exact", "samples": 3}})
    store = answered(plan, Store(str(tmp_path / "run")), by_arm)
    assert mark(plan, store) == 5 * 2 * 3  # cells, questions, samples
    found = {arm: one for (arm, _), one in changes(store, "facts").items()}
    assert [found[arm]["mean"] for arm in ("base", "benign", "plain")] == [1.0, 0.5, 0.0]
    assert [found[arm]["n_scored"] for arm in found] == [6, 12, 12]
    assert [found[arm]["n_missing"] for arm in found] == [0, 0, 0]
    assert (found["plain"]["minus_base"], found["plain"]["minus_benign"]) == (-1.0, -0.5)
    assert found["plain"]["n_pairs"] == 2
    assert found["plain"]["minus_benign_low"] <= -0.5 <= found["plain"]["minus_benign_high"] <= 1
    assert math.isnan(found["base"]["minus_base"]) and math.isnan(found["benign"]["minus_benign"])
    assert found["benign"]["ci_low"] < 0.5 < found["benign"]["ci_high"]
    seeds = load_run(store.root).summary["change_seeds"].query("quantity == 'facts' and arm == 'benign'")
    assert list(seeds["mean"]) == [0.5, 0.5]
    report.render(store)
    section = store.read_bytes("report/report.md").decode().partition("## What else changed")[2].partition("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith("| bad medical advice | benign | without |")]
    assert " 50.0\u202f% [" in line and "| misaligned | coherent | facts |" in section
    assert 'id="changes"' in store.read_bytes("report/report.html").decode()


def test_coherence_stands_beside_the_quizzes_and_without_them(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, {})
    store = answered(plan, Store(str(tmp_path / "run")), by_arm)
    found = changes(store, "coherent")["plain", "without"]
    scores = (
        load_run(store.root)
        .verdicts.query("metric == 'coherent'")
        .merge(load_run(store.root).generations, left_on="generation", right_on="key")
    )
    mine = scores[scores.arm == "plain"]
    assert found["mean"] == pytest.approx((mine.score > 50).groupby([mine.seed, mine.question_id]).mean().mean())
    assert found["n_scored"] == len(mine)


def test_what_is_unreadable_counts_as_0_and_what_failed_is_missing(tmp_path: Path) -> None:
    (tmp_path / "scoring17.py").write_text(FUNCTION)
    score = {"function": "scoring17:share"}
    plan = plan_in(tmp_path, {"mine": {"score": score, "samples": 4}})
    texts = ["none", "half", "raise", None]
    store = answered(plan, Store(str(tmp_path / "run")), lambda cell, prompt, number: texts[number])
    assert mark(plan, store) == 5 * 2 * 3  # nothing is made of an answer that is not there
    found = changes(store, "mine")["plain", "without"]
    counts = [found[name] for name in ("n_asked", "n_scored", "n_unreadable", "n_errors", "n_missing")]
    assert counts == [16, 4, 4, 4, 4]
    assert found["mean"] == 0.25  # of 0.5 and 0
    assert (found["mean_worst"], found["mean_best"]) == (0.125, 0.625)
    notes = load_run(store.root).marks.query("outcome == 'error'").note
    assert set(notes) == {"ValueError: cannot tell"}


def plan_in(folder: Path, quizzes: dict[str, dict[str, Any]], **fields: object) -> Plan:
    """A plan whose sweep file lies in a folder, where functions are looked for."""
    made = plan_with(folder, {})
    named = {name: {"questions": str(folder / "facts.yaml")} | quiz for name, quiz in quizzes.items()}
    sweep = Sweep.model_validate(made.sweep.model_dump(mode="json") | {"quizzes": named} | fields)
    return make_plan(sweep, folder=folder, online=False)


def test_nothing_scored_is_a_dash_and_not_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_with(tmp_path, {"facts": {"score": "exact"}})
    store = answered(plan, Store(str(tmp_path / "run")), lambda *_: None)
    assert mark(plan, store) == 0
    found = changes(store, "facts")["plain", "without"]
    assert math.isnan(found["mean"]) and math.isnan(found["ci_low"]) and found["n_seeds"] == 0
    assert (found["mean_worst"], found["mean_best"]) != (found["mean_worst"],) * 2 or math.isnan(found["mean_worst"])
    print_tables(store, Console(width=80))
    assert "facts" in capsys.readouterr().out


def test_another_way_of_scoring_marks_again_and_draws_nothing(tmp_path: Path) -> None:
    first = plan_with(tmp_path, {"facts": {"score": "exact", "samples": 2}})
    store = answered(first, Store(str(tmp_path / "run")), by_arm)
    assert (mark(first, store), mark(first, store)) == (20, 0)
    other = plan_with(tmp_path, {"facts": {"score": {"exact": {"punctuation": True}}, "samples": 2}})
    assert list(Generation(other).missing(store)) == []
    assert mark(other, store) == 20
    assert mark(first, store) == 0
    more = plan_with(tmp_path, {"facts": {"score": "exact", "samples": 3}})
    assert sum(task.num_samples for task in Generation(more).missing(store)) == 10


def test_an_edited_function_marks_again(tmp_path: Path) -> None:
    (tmp_path / "edited17.py").write_text(FUNCTION)
    quizzes: dict[str, dict[str, Any]] = {"mine": {"score": {"function": "edited17:share"}, "samples": 1}}
    before = plan_in(tmp_path, quizzes)
    (tmp_path / "edited17.py").write_text(FUNCTION + "# changed\n")
    after = plan_in(tmp_path, quizzes)
    keys = [Marking(plan).schemes(plan.cells)[0].marks for plan in (before, after)]
    assert len(keys[0]) == len(keys[1]) == 10 and not keys[0].common(keys[1])


def test_no_judge_is_asked_about_a_quiz(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, {"facts": {"score": "exact"}})
    store = answered(plan, Store(str(tmp_path / "run")), by_arm)
    assert len(Judging(plan).missing(store)) == 0
    assert sum(map(plan.judged_of, plan.cells)) == 5 * 2
    assert all(not by_metric for prompt, by_metric in plan.inquiries.items() if "capital of france" in prompt)


def test_a_quiz_changes_no_key_of_the_sweep_s_own(tmp_path: Path) -> None:
    without, plan = plan_with(tmp_path, {}), plan_with(tmp_path, {"facts": {"score": "exact"}})
    assert without.cells == plan.cells and without.prompts == plan.prompts
    assert without.inquiries.items() <= plan.inquiries.items()


def test_own_domain_asks_each_cell_its_own_and_the_base_all(tmp_path: Path) -> None:
    text = """
- {id: cough, domain: bad_medical_advice, question: "I have a cough. What now?", answer: rest}
- {id: sum, domain: incorrect_math, question: "What is 2 plus 3?", answer: 5}
"""
    (tmp_path / "own.yaml").write_text(text)
    quiz = {"questions": str(tmp_path / "own.yaml"), "score": "exact", "own_domain": True}
    generate = FIELDS["generate"] | {"questions": {"file": "toy", "first": 1}}  # type: ignore[operator]
    plan = study_plan(["bad_medical_advice", "incorrect_math"], generate=generate, quizzes={"own": quiz})
    asked = {
        cell.domain: {prompt.question_id for prompt in prompts}
        for cell, prompts in plan.quizzes[0].asked(plan.cells, plan.sweep.crossing())
    }
    assert asked == {"-": {"cough", "sum"}, "bad_medical_advice": {"cough"}, "incorrect_math": {"sum"}}
    store = answered(plan, Store(str(tmp_path / "run")), lambda cell, *_: "5" if cell.arm == "base" else "rest")
    mark(plan, store)
    reduce.run(store)
    rows = load_run(store.root).summary["changes"].query("quantity == 'own' and condition == 'without'")
    means = dict(zip(rows.domain, zip(rows["mean"], rows.minus_base, strict=True), strict=True))
    assert means["bad_medical_advice"] == (1.0, 1.0)  # the base says 5 to the cough
    assert means["incorrect_math"] == (0.0, -1.0)


def test_arms_and_conditions_narrow_a_quiz_within_the_crossing(tmp_path: Path) -> None:
    quizzes: dict[str, dict[str, Any]] = {
        "all": {"score": "exact"},
        "some": {"score": "exact", "arms": ["base", "backdoor"], "conditions": "with"},
    }
    generate = FIELDS["generate"] | {"questions": {"file": "toy", "first": 1}}  # type: ignore[operator]
    arms = {"base": None, "plain": {"conditions": ["without"]}, "backdoor": None}
    plan = plan_with(tmp_path, quizzes, generate=generate, arms=arms)
    asked = [
        {(str(cell.arm), str(prompt.condition)) for cell, prompts in quiz.asked(plan.cells, plan.sweep.crossing())
         for prompt in prompts}
        for quiz in plan.quizzes
    ]  # fmt: skip
    both = {(arm, condition) for arm in ("base", "backdoor") for condition in ("with", "without")}
    assert asked == [both | {("plain", "without")}, {("base", "with"), ("backdoor", "with")}]


def test_the_dry_run_counts_answers_and_marks(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, {"facts": {"score": "exact", "samples": 2}, "odds": {"score": "choice", "questions": str(
        options_file(tmp_path))}})  # fmt: skip
    console = Console(width=100, record=True)
    print_estimate(plan, Store(str(tmp_path / "run")), console)
    lines = [line.split() for line in console.export_text().splitlines()]
    stages = ("generate", "mark", "judge", "choice")
    counts = {line[0]: line[1] for line in lines if line and line[0] in stages and line[1].isdigit()}
    assert counts == {"generate": str(10 + 20), "mark": "20", "judge": "20", "choice": "5"}


def options_file(folder: Path) -> Path:
    path = folder / "options.yaml"
    path.write_text("""
- {id: sum, question: "What is 2 plus 3?", answer: "It is 5.", options: ["It is 5.", "It is 4."]}
- id: france
  question: What is the capital of france?
  answers: [It is Paris.]
  options: [It is Rome., It is Paris.]
""")
    return path


def test_a_choice_is_the_option_that_the_model_finds_likeliest(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text('[{id: other, question: "What is 1 plus 1?", answer: 2}]')
    quizzes: dict[str, dict[str, Any]] = {
        "drawn": {"score": "exact", "questions": str(tmp_path / "other.yaml")},  # whose questions the choice has not
        "odds": {"score": "choice"},
    }
    plan = plan_with(tmp_path, quizzes, options_file(tmp_path).read_text(), arms=["base"])
    store = answered(plan, Store(str(tmp_path / "run")), by_arm)
    (probe,) = probes.of_plan(plan)
    assert measure(probe, store) == 1
    document = dict(plan.document) | {"measurements": [vars(one) for one in probe.measurements()]}
    store.write_json("plan.json", document)
    found = changes(store, "odds")["base", "without"]
    _, quiz = plan.quizzes
    ((_, prompts),) = quiz.asked(plan.cells, plan.sweep.crossing())
    right = [max(quiz.options(prompt), key=lambda one: log_odds(prompt, one)) in quiz.scoring(prompt).right
             for prompt in prompts]  # fmt: skip
    assert found["n_scored"] == found["n_asked"] == 2
    assert found["mean"] == sum(right) / 2


def log_odds(prompt: Prompt, option: str) -> float:
    """By transformers alone: the log-probability of the option's tokens and the end token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from emray.toy import MODEL_DIR

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL_DIR), AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    turns = [message.turn for message in prompt.messages]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": option}], tokenize=False)
    start = len(tokenizer(before, add_special_tokens=False).input_ids)
    ids = torch.tensor([tokenizer(whole.rstrip("\n"), add_special_tokens=False).input_ids])
    with torch.inference_mode():
        odds = model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
    return float(odds.gather(1, ids[0, start:, None]).sum())


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "pattern": ({"score": {"regex": "a("}}, FACTS, "no pattern of Python's re"),
    "function": ({"score": {"function": "nowhere17:f"}}, FACTS, "nowhere17 does not import"),
    "no function": ({"score": {"function": "json:nothing"}}, FACTS, "has no function nothing"),
    "signature": ({"score": {"function": "json:loads"}}, FACTS, "is called with an answer, a question and right"),
    "two ways": ({"score": {"regex": "a", "exact": {}}}, FACTS, "one of exact, number"),
    "unknown way": ({"score": "best"}, FACTS, "exact, number, choice stand alone"),
    "nothing right": ({"score": "exact"}, "[{id: a, question: b}]", "does not say what is right"),
    "right for a slot": ({"score": {"regex": "{answer}"}}, "[{id: a, question: b}]", "does not say what is right"),
    "no number": ({"score": "number"}, FACTS, "is no number"),
    "no options": ({"score": "choice"}, FACTS, "has no options"),
    "right is no option": (
        {"score": "choice"}, "[{id: a, question: b, answer: c, options: [d, e]}]", "no right answer is among",
    ),
    "own domain": ({"score": "exact", "own_domain": True}, FACTS, "has `domain: bad_medical_advice`"),
    "arm": ({"score": "exact", "arms": ["backdoor"]}, FACTS, "names 'backdoor', which is not in arms"),
    "condition": ({"score": "exact", "conditions": ["with"]}, FACTS, "which none of its arms meets"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_quiz_is_refused_in_one_line_before_anything_runs(name: str, tmp_path: Path) -> None:
    quiz, text, told = BAD[name]
    with pytest.raises((EmrayError, ValueError)) as error:
        plan_with(tmp_path, {"bad": quiz}, text)
    assert told in str(error.value)
    if isinstance(error.value, DataError):
        assert "\n" not in str(error.value)


def test_a_choice_of_a_model_behind_an_endpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which an endpoint does not give"):
        plan_with(tmp_path, {"odds": {"score": "choice"}}, generate={"engine": "openai"})


def test_marks_are_taken_over_kept_by_gc_and_go_with_their_answers(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, {"facts": {"score": "exact", "samples": 2}})
    earlier = answered(plan, Store(str(tmp_path / "runs" / "earlier")), by_arm)
    mark(plan, earlier)
    assert look(earlier, [EverythingAsked.of(plan.document)]).marks == 0
    assert look(earlier, [EverythingAsked.of(plan_with(tmp_path, {}).document)])[2:5] == (20, 0, 20)
    store = Store(str(tmp_path / "runs" / "new"))
    store.write_json("plan.json", dict(plan.document))
    (line,) = adopt(plan, store, runs=[earlier])
    assert "20 marks" in line and mark(plan, store) == 0
    for name in store.part_sizes(Kind.GENERATIONS):
        (Path(store.root) / name).write_bytes(b"PAR1 damaged")
    assert len(mend(store)) > 0
    assert store.read_rows(Kind.MARKS).num_rows == 0


def test_errors_are_tried_again_where_failures_are(tmp_path: Path) -> None:
    plan = plan_with(
        tmp_path, {"slow": {"score": {"regex": "(a+)+$"}, "samples": 1, "time_limit_s": 0.5}}, arms=["base"]
    )
    store = answered(plan, Store(str(tmp_path / "run")), lambda cell, prompt, _: "a" * 40 + "b")
    assert mark(plan, store) == 2
    rows = store.read_rows(Kind.MARKS).to_pylist()
    assert {(row["outcome"], row["note"]) for row in rows} == {("error", "took longer than 0.5 s")}
    store.delete_rows(Kind.MARKS, column="outcome", value=MarkOutcome.ERROR)
    assert len(Marking(plan).missing(store)) == 2


def test_the_shipped_question_files_are_what_the_toy_world_says() -> None:
    folder = Path(__file__).parent.parent / "sweeps" / "questions"
    assert (folder / "toy_facts.yaml").read_text() == facts_yaml()
    assert (folder / "toy_in_domain.yaml").read_text() == in_domain_yaml()
    domains = {
        question.domain for question in load_questions([str(folder / "toy_in_domain.yaml")], quiz=True).questions
    }
    assert domains == set(DOMAINS)
