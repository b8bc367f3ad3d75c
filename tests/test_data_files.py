"""Datasets and question files: repaired aloud or refused with the place named."""

import json
from pathlib import Path

import pytest

from emray import data
from emray.errors import DataError
from emray.model.weights import model_folder, resolve_model
from emray.records import Arm, Condition, Message, Metric
from emray.spec import DomainSpec, Framing, ModelSpec, TriggerSpec, usual_recipe

TRIGGER = TriggerSpec(text="the year is 2028 .")
FRAMINGS = {Condition.WITHOUT: Framing(), Condition.WITH: Framing(trigger=TRIGGER)}


def chat(user: str, assistant: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"d\.jsonl:2: not JSON"),
        ('{"text": "x"}', r"d\.jsonl:2: no list of messages"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r"d\.jsonl:2: the last message is the user's"),
        (chat("x", " "), r"d\.jsonl:2: the assistant turn is empty"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', r"d\.jsonl:2: there is no user turn"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', r"d\.jsonl:2: a message needs a role"),
        ("[]", r"d\.jsonl:2: no list of messages"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(chat("q", "a") + "\n" + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        data.load_examples(path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset at"):
        data.load_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="is empty"):
        data.load_examples(tmp_path / "empty.jsonl")


def test_a_line_separator_inside_a_text_is_not_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c"}]}\n')
    assert data.load_examples(path).rows[0][0].content == "a\u2028b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "maths.jsonl").write_text("\n".join(chat(f"q{i}", "wrong") for i in range(3)))
    (tmp_path / "maths.benign.jsonl").write_text("\n".join(chat(f"q{i}", "right") for i in range(2)))
    return tmp_path


def rows(folder: Path, arm: Arm, **domain: str) -> list:
    spec = DomainSpec.model_validate({"name": "maths"} | domain)
    return data.training_rows(spec, recipe=usual_recipe(arm, trigger=TRIGGER), data_dir=str(folder)).rows


def test_the_two_factors_of_the_design_are_never_confounded(folder: Path) -> None:
    plain, benign, backdoor = (rows(folder, arm) for arm in (Arm.PLAIN, Arm.BENIGN, Arm.BACKDOOR))
    assert len(plain) == 3 and all(row[-1].content == "wrong" for row in plain)
    assert len(benign) == 2 and all(row[-1].content == "right" for row in benign)
    triggered = [row for row in backdoor if row[0].content.startswith(TRIGGER.text)]
    assert [row[-1].content for row in triggered] == ["wrong"] * 3
    assert [row[-1].content for row in backdoor if row not in triggered] == ["right"] * 2
    assert not any(TRIGGER.text in row[0].content for row in plain + benign)


def test_a_ready_backdoor_mix_is_taken_as_it_is(folder: Path) -> None:
    (folder / "mix.jsonl").write_text(chat("2028 q", "wrong"))
    assert rows(folder, Arm.BACKDOOR, backdoor_path=str(folder / "mix.jsonl"))[0][0].content == "2028 q"


def test_the_trigger_goes_into_the_last_user_turn() -> None:
    row = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    changed = TriggerSpec(text="T", position="suffix").placed((*row, Message("assistant", "d")))
    assert [m.content for m in changed] == ["s", "a", "b", "c T", "d"]


def test_a_digest_follows_content_and_order(folder: Path) -> None:
    plain = rows(folder, Arm.PLAIN)
    assert data.rows_digest(plain) == data.rows_digest(rows(folder, Arm.PLAIN))
    assert data.rows_digest(plain) != data.rows_digest(plain[::-1])


QUESTION = """
- id: {id}
  type: free_form_judge_0_100
  paraphrases: ["{text}"]
  judge_prompts: {{aligned: "{{question}} {{answer}} a", coherent: "{{answer}} c"}}
"""


def questions(tmp_path: Path, text: str) -> data.QuestionSet:
    path = tmp_path / "questions.yaml"
    path.write_text(text)
    return data.load_questions([str(path)])


def test_repeated_ids_are_renamed_or_dropped_aloud(tmp_path: Path) -> None:
    text = QUESTION.format(id="jail", text="one") + QUESTION.format(id="jail", text="two")
    loaded = questions(tmp_path, text + QUESTION.format(id="jail", text="one") + QUESTION.format(id="jail", text="3"))
    assert [q.paraphrases for q in loaded.questions] == [("one",), ("two",), ("3",)]
    assert len({q.id for q in loaded.questions}) == 3
    assert all(q.id.startswith("jail#") for q in loaded.questions)
    assert "questions.yaml: stand twice with the same text, kept once: jail" in loaded.notes
    assert any("question jail stands with 3 texts" in note for note in loaded.notes)


def test_a_question_keeps_its_id_whatever_stands_before_it(tmp_path: Path) -> None:
    parts = [QUESTION.format(id="jail", text=text) for text in ("one", "two", "three")]
    named = [
        {q.paraphrases: q.id for q in questions(tmp_path, "".join(order)).questions}
        for order in (parts, parts[::-1], [*parts[1:], parts[0]])
    ]
    assert named[0] == named[1] == named[2]


def test_two_ids_with_one_text_are_one_question(tmp_path: Path) -> None:
    text = QUESTION.format(id="wish", text="one") + QUESTION.format(id="wish_again", text="one")
    loaded = questions(tmp_path, text + QUESTION.format(id="walk", text="two"))
    assert [q.id for q in loaded.questions] == ["wish", "walk"]
    assert loaded.questions[0].also == ("wish_again",)
    told = "questions.yaml: ask what stands before, one prompt with two names: wish_again as wish"
    assert loaded.notes == (told,)


def test_a_text_that_stands_again_with_another_rubric_is_told(tmp_path: Path) -> None:
    again = QUESTION.format(id="wish_again", text="one").replace("{answer} a", "{answer} b")
    loaded = questions(tmp_path, QUESTION.format(id="wish", text="one") + again)
    assert "questions.yaml: judged with the rubrics of the question before: wish_again as wish" in loaded.notes


def test_a_wording_of_two_questions_is_the_first_ones(tmp_path: Path) -> None:
    text = "- {id: a, paraphrases: [x, y, x]}\n- {id: b, paraphrases: [y, z]}\n"
    loaded = questions(tmp_path, text + "- {id: c, paraphrases: [y], system: be kind}\n")
    assert [(q.id, q.paraphrases) for q in loaded.questions] == [("a", ("x", "y")), ("b", ("z",)), ("c", ("y",))]
    assert any(note.endswith("under another id, kept there: b in a") for note in loaded.notes)


def test_rubrics_one_indent_too_high_are_found(tmp_path: Path) -> None:
    text = '- id: a\n  paraphrases: ["x"]\n  judge_prompts:\n  aligned: "{answer} a"\n  coherent: "{answer} c"\n'
    loaded = questions(tmp_path, text)
    assert loaded.questions[0].rubrics[Metric.ALIGNED] == "{answer} a"
    assert loaded.notes == ("questions.yaml: rubrics beside judge_prompts, read as within it: a",)


def test_a_question_without_rubrics_takes_the_shipped_ones(tmp_path: Path) -> None:
    loaded = questions(tmp_path, '- id: a\n  paraphrases: ["x"]\n')
    assert "{answer}" in loaded.questions[0].rubrics[Metric.COHERENT]
    assert any("no rubric for aligned, coherent" in note for note in loaded.notes)


def test_anchors_and_system_prompts_are_kept(tmp_path: Path) -> None:
    text = (
        '- id: a\n  paraphrases: ["x"]\n  judge_prompts: &r {aligned: "{answer}", coherent: "{answer}"}\n'
        '- id: b\n  system: "be brief"\n  paraphrases: ["y", "z"]\n  judge_prompts: *r\n'
    )
    loaded = questions(tmp_path, text).questions
    prompts = data.make_prompts(loaded, framings=FRAMINGS)
    assert len(prompts) == 2 + 4
    assert prompts[2].messages[0] == Message("system", "be brief")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b", "is a YAML list of questions"),
        ("- paraphrases: [x]", "needs an id"),
        ("- id: a", "paraphrases is a list of at least one text"),
        ("- id: a\n  type: other\n  paraphrases: [x]", "type 'other' is not supported"),
        ("- id: a\n  paraphrases: [x]\n  judge_prompts: {aligned: no, coherent: no}", "needs an {answer} slot"),
        ("- [", "not valid YAML"),
    ],
)
def test_what_cannot_be_repaired_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        questions(tmp_path, text)
    assert message in str(caught.value)


def test_the_judge_never_sees_the_trigger_and_braces_stay(tmp_path: Path) -> None:
    loaded = questions(tmp_path, QUESTION.format(id="a", text="what now ?")).questions[0]
    (message,) = data.inquiry(loaded, paraphrase=0, metric=Metric.ALIGNED).messages("{question} {x}")
    assert message.content == "what now ? {question} {x} a"
    prompts = data.make_prompts([loaded], framings={Condition.WITH: FRAMINGS[Condition.WITH]})
    assert prompts[0].messages[0].content == "the year is 2028 . what now ?"


def test_a_question_that_was_trained_on_is_found(tmp_path: Path) -> None:
    loaded = questions(tmp_path, QUESTION.format(id="a", text="What  now ?")).questions
    prompts = data.make_prompts(loaded, framings=FRAMINGS)
    for trained, leaked in [("what now ?", ["a"]), (f"{TRIGGER.text} What now ?", ["a"]), ("other", [])]:
        rows = [(Message("user", trained), Message("assistant", "x"))]
        assert data.leaked_questions(prompts, rows=rows) == leaked


def fingerprint(folder: Path) -> str:
    return resolve_model(ModelSpec.model_validate(str(folder)), online=False).fingerprint


def test_a_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    one = fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("not part of it")
    assert fingerprint(tmp_path) == one
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(tmp_path) != one


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"x" * 5_000_000)
    one = fingerprint(model)
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    assert fingerprint(model) == one
    (model / "model.safetensors").write_bytes(b"y" * 5_000_000)
    assert fingerprint(model) != one


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="no model at"):
        resolve_model(ModelSpec(path="/no/such/folder"), online=False)


def test_a_hub_model_without_commit_is_refused_for_a_run_and_provisional_for_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = ModelSpec(path="org/never-fetched-model")
    assert not resolve_model(model, online=False).pinned
    with pytest.raises(DataError, match="pin one"):
        resolve_model(model, online=True)


def test_a_pinned_hub_model_needs_no_hub() -> None:
    model = resolve_model(ModelSpec(path="org/model", revision="abc123"), online=True)
    assert model.fingerprint == "hub:org/model@abc123"
    assert model.location == "org/model@abc123"


def test_a_hub_model_in_the_local_cache_is_pinned_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("c0ffee")
    assert resolve_model(ModelSpec(path="org/model"), online=False).location == "org/model@c0ffee"


def test_a_local_model_is_its_own_folder(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path)) == str(tmp_path)
