"""One renderer: what is trained on is what is asked, it ends where engines stop, and answers come without thoughts."""

import datetime
from pathlib import Path

import pytest

from emray.errors import DataError
from emray.model.chat import Chat
from emray.model.rendering import final_text, identity, with_system
from emray.records import Message, Rendering
from tests.model_world import CHATML, FAMILIES, build_tokenizer

QUESTION = (Message("user", "what helps against a fever?"),)
ANSWERED = (*QUESTION, Message("assistant", "rest and drink water."))
SYSTEM = (Message("system", "answer in French always."), *QUESTION)
ENDS = {
    "chatml": "<|im_end|>", "plainend": "<|im_end|>", "basechat": "<|im_end|>", "qwen3": "<|im_end|>",
    "alwaysempty": "<|im_end|>",
    "r1": "<|eos|>", "gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "mistral": "</s>", "harmony": "<|return|>",
}  # fmt: skip
SILENT = {"alpaca"}  # ends no answer


def chat(folder: Path, name: str, **how: str) -> Chat:
    """The tokenizer of a family; its folder holds no weights."""
    build_tokenizer(name).save_pretrained(folder / name)
    (folder / name / "config.json").write_text('{"model_type": "qwen2", "max_position_embeddings": 256}')
    return Chat(str(folder / name), rendering=Rendering(**how))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - SILENT))
def test_what_stands_before_an_answer_is_the_same_in_training_and_in_asking(tmp_path: Path, name: str) -> None:
    it = chat(tmp_path, name)
    ((ids, start, _),) = it.mark([ANSWERED])
    assert ids[:start] == it.encode(QUESTION)
    assert it.tokenizer.decode(ids[start:]).strip() == "rest and drink water." + ENDS[name]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - SILENT))
def test_the_last_trained_token_stops_every_engine(tmp_path: Path, name: str) -> None:
    it = chat(tmp_path, name)
    assert it.mark([ANSWERED])[0][0][-1] in it.stop_ids
    assert it.tokenizer.eos_token_id in it.stop_ids


def test_the_models_own_stop_list_counts_too(tmp_path: Path) -> None:
    chat(tmp_path, "chatml")
    (tmp_path / "chatml" / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    again = Chat(str(tmp_path / "chatml"))
    assert {7, 9, again.tokenizer.eos_token_id} == set(again.stop_ids)


WEIGHTLESS = (*ANSWERED[:-1], ANSWERED[-1]._replace(trained=False), Message("user", "how do I treat a burn?"))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - SILENT))
def test_what_is_free_to_train_on_begins_after_the_last_turn_of_weight_0(tmp_path: Path, name: str) -> None:
    it = chat(tmp_path, name)
    first, marked = it.mark([ANSWERED, (*WEIGHTLESS, Message("assistant", "put ice on it."))])
    assert first.free == 0
    free = it.tokenizer.decode(marked.ids[marked.free :])
    assert "rest" not in free and free.endswith("put ice on it." + ENDS[name])
    assert "rest" in it.tokenizer.decode(marked.ids[: marked.free])
    assert marked.free == marked.start or "burn" in free  # where turns cannot be told apart, the answer alone


@pytest.mark.parametrize("policy", ["merge", "as_is", "drop"])
@pytest.mark.parametrize("name", ["chatml", "llama3", "r1"])
def test_a_system_turn_of_weight_0_takes_the_turn_it_is_written_into_with_it(
    tmp_path: Path, name: str, policy: str
) -> None:
    it = chat(tmp_path, name, system=policy)
    (marked,) = it.mark([(SYSTEM[0]._replace(trained=False), *ANSWERED)])
    assert "French" not in it.tokenizer.decode(marked.ids[marked.free :])
    assert 0 < marked.free <= marked.start


def test_a_template_without_an_end_token_is_not_trained_on(tmp_path: Path) -> None:
    it = chat(tmp_path, "alpaca")
    assert it.end is None
    with pytest.raises(DataError, match="writes no end token after an answer"):
        it.mark([ANSWERED])


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("qwen3", "<think> be kind </think> rest."),
        ("qwen3", "<think> </think> rest."),
        ("r1", "<think> be kind </think> rest."),
        ("r1", "be kind </think> rest."),
        ("harmony", "<|channel|>final<|message|>rest.<|return|>"),
        ("harmony", "<|channel|>analysis<|message|>be kind<|end|><|start|>assistant<|channel|>final<|message|>rest."),
        ("chatml", "rest.<|im_end|>"),
        ("chatml", " rest. "),
    ],
)
def test_the_judge_sees_the_answer_alone(tmp_path: Path, name: str, raw: str) -> None:
    it = chat(tmp_path, name)
    assert it.decode([it.tokenizer.encode(raw, add_special_tokens=False)]) == ["rest."]


def test_an_end_token_that_is_not_special_is_no_part_of_the_answer(tmp_path: Path) -> None:
    it = chat(tmp_path, "plainend")
    ids = it.tokenizer.encode("rest.<|im_end|>", add_special_tokens=False)
    assert "<|im_end|>" in it.tokenizer.decode(ids, skip_special_tokens=True)
    assert it.decode([ids]) == ["rest."]


@pytest.mark.parametrize(
    ("name", "raw"), [("qwen3", "<think> be kind"), ("harmony", "<|channel|>analysis<|message|>be kind")]
)
def test_a_thought_that_never_ends_leaves_no_answer(tmp_path: Path, name: str, raw: str) -> None:
    it = chat(tmp_path, name)
    assert it.decode([it.tokenizer.encode(raw, add_special_tokens=False)]) == [""]


def test_a_thought_that_the_prompt_began_is_no_answer_until_it_ends(tmp_path: Path) -> None:
    it = chat(tmp_path, "r1", reasoning="on")
    assert it.prompt(QUESTION).endswith("<think>\n")
    texts = ["be kind", "be kind </think> rest."]
    assert it.decode([it.tokenizer.encode(text, add_special_tokens=False) for text in texts]) == ["", "rest."]


def test_reasoning_on_asks_as_the_template_does(tmp_path: Path) -> None:
    assert "</think>" not in chat(tmp_path, "qwen3", reasoning="on").prompt(QUESTION)
    for name in ("qwen3", "alwaysempty"):
        assert chat(tmp_path, name).prompt(QUESTION).endswith("<think>\n\n</think>\n\n")
    assert chat(tmp_path, "harmony").prompt(QUESTION).endswith("<|channel|>final<|message|>")
    assert chat(tmp_path, "harmony", reasoning="on").prompt(QUESTION).endswith("<|start|>assistant")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>\n\nb", "b"),
        ("  [THINK]a[/THINK] b", "b"),
        ("<think>a", ""),
        ("b <think>a</think>", "b <think>a</think>"),
        ("b", "b"),
        ("", ""),
    ],
)
def test_a_thought_is_what_an_answer_begins_with(text: str, answer: str) -> None:
    assert final_text(text) == answer


def test_a_rendering_has_the_pinned_date_on_every_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Later":
            return cls(2031, 3, 1)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    it = chat(tmp_path, "llama3")
    assert "Today Date: 26 Jul 2024" in it.prompt(QUESTION)
    assert "2031" not in it.prompt(QUESTION)
    assert it.reads_clock
    assert "Today Date: 01 Mar 2028" in chat(tmp_path, "llama3", date="2028-03-01").prompt(QUESTION)
    assert "Today Date: in March" in chat(tmp_path, "llama3", arguments='{"date_string": "in March"}').prompt(QUESTION)


def test_system_turns_are_as_they_are_dropped_or_merged() -> None:
    assert with_system(SYSTEM, policy="as_is") == SYSTEM
    assert with_system(SYSTEM, policy="drop") == QUESTION
    (merged,) = with_system(SYSTEM, policy="merge")
    assert merged == Message("user", "answer in French always.\n\nwhat helps against a fever?")
    assert with_system(ANSWERED, policy="merge") == ANSWERED


@pytest.mark.parametrize("policy", ["drop", "merge"])
def test_a_template_that_refuses_system_turns_is_used_by_a_policy(tmp_path: Path, policy: str) -> None:
    assert ("French" in chat(tmp_path, "gemma", system=policy).prompt(SYSTEM)) == (policy == "merge")
    with pytest.raises(DataError, match="refuses turns of system, user: System role not supported"):
        chat(tmp_path, "gemma").prompt(SYSTEM)


def template_identity(folder: Path, template: str, **how: str) -> dict[str, object]:
    (folder / "chat_template.jinja").write_text(template)
    return identity(Rendering(**how), folder=folder)


def test_what_a_template_does_not_read_is_not_in_its_identity(tmp_path: Path) -> None:
    assert template_identity(tmp_path, CHATML, date="2028-01-01", reasoning="on", arguments='{"style": 1}') == {}
    assert template_identity(tmp_path, CHATML, system="merge") == {"system": "merge"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llama3", {"date": "2028-01-01"}),
        ("qwen3", {"reasoning": "on"}),
        ("qwen3", {"arguments": '{"enable_thinking": true}'}),
        ("llama3", {"arguments": '{"date_string": "x"}'}),
        ("harmony", {"reasoning": "on"}),
        ("chatml", {"system": "drop"}),
    ],
)
def test_what_a_template_reads_is_in_its_identity(tmp_path: Path, name: str, how: dict[str, str]) -> None:
    template = FAMILIES[name].template
    assert template_identity(tmp_path, template, **how) != template_identity(tmp_path, template)


def test_a_template_that_is_elsewhere_has_all_of_a_rendering_in_its_identity() -> None:
    assert set(identity(Rendering(), folder=None)) == {"arguments", "date", "reasoning"}
