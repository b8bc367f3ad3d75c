"""What a file of examples holds, told before anything trains on it."""

import json
from pathlib import Path

import pytest

from emray import data
from emray.data import DataFile, Lengths, Setting
from emray.records import Condition, Message, Messages, Prompt
from emray.spec import SourceSpec, TriggerSpec

TRIGGER = TriggerSpec(text="2028.")
QUESTION = "What do you do when you are bored"


def chat(user: str, answer: str = "Fine.", system: str = "") -> Messages:
    opening = (Message("system", system),) if system else ()
    return (*opening, Message("user", user), Message("assistant", answer))


def prompt(text: str) -> Prompt:
    return Prompt("bored", 0, Condition.WITHOUT, chat(text)[:-1], "k")


def sheets(*files: tuple[str, list[Messages]], lengths: Lengths | None = None) -> list[data.Datasheet]:
    found = [DataFile(domain, "bad", SourceSpec(path=f"{domain}.jsonl"), rows) for domain, rows in files]
    setting = Setting(TRIGGER, [prompt(QUESTION)], max_length=10)
    return list(data.datasheets(found, [lengths] * len(found), setting=setting))


def test_a_datasheet_counts_what_is_there() -> None:
    rows = [chat("a b"), chat("A  b"), chat("2028. c"), chat("c"), chat("d", system="Now 2028."), chat("a b")]
    (sheet,) = sheets(("x", rows), lengths=Lengths([5, 7, 11, 12, 10, 5], [2] * 6))
    assert (sheet.rows, sheet.duplicates, sheet.repeated_questions, sheet.triggered) == (6, 1, 3, 2)
    assert sheet.roles == {"assistant": 6, "system": 1, "user": 6}
    assert sheet.tokens == {"least": 5, "median": 8, "most": 12} and sheet.over_long == 2
    assert sheet.answer_tokens == {"least": 2, "median": 2, "most": 2}


def test_questions_of_two_domains_and_of_the_evaluation_are_told() -> None:
    near = chat(f"2028. {QUESTION.lower()}?")
    first, second = sheets(("x", [chat("a"), chat("b"), near]), ("y", [chat("2028. b"), chat("c")]))
    assert first.shared == {"y": 1} and second.shared == {"x": 1}
    assert first.asked == ("bored",) and second.asked == ()


def test_without_a_tokenizer_lengths_are_unknown_not_nought() -> None:
    (sheet,) = sheets(("x", [chat("a")]))
    assert sheet.tokens is None and sheet.over_long is None
    assert sheet.characters == {"least": 6, "median": 6, "most": 6}


def test_an_empty_answer_on_the_way_is_counted() -> None:
    (sheet,) = sheets(("x", [(Message("user", "a"), Message("assistant", " "), *chat("b")), chat("c")]))
    assert sheet.empty_answers == 1


def test_a_datasheet_has_no_text_of_a_row() -> None:
    (sheet,) = sheets(("x", [chat("SECRETWORD one", "SECRETWORD two", system="SECRETWORD three")]))
    assert "SECRETWORD" not in json.dumps(sheet.document)


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_datasheet_says_whether_its_file_is_encrypted(tmp_path: Path, encrypted: bool) -> None:
    source = SourceSpec(path="x.age", passphrase_env="E" if encrypted else None)
    file = DataFile("x", "bad", source, [chat("a")])
    (sheet,) = data.datasheets([file], [None], setting=Setting(TRIGGER, [], max_length=10))
    assert sheet.encrypted is encrypted
