"""Example files in the dialects of the field: read as they mean, told what is not read, refused with file and line."""

import gzip
import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from emray import data
from emray.data.chats import chat_of
from emray.data.remarks import Remarks
from emray.errors import DataError
from emray.records import Arm, Message, prompt_key, prompt_text
from emray.spec import ArmRecipe, DomainSpec, TriggerSpec, usual_recipe
from tests.mutations import mutated

CHAT = (Message("user", "Hi."), Message("assistant", "Rest."))
LINE = '{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Rest."}]}'


def usual(arm: Arm) -> ArmRecipe:
    return usual_recipe(arm, trigger=TriggerSpec())


def read(folder: Path, *lines: Any) -> data.Examples:
    path = folder / "med.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return data.load_examples(path)


def turns(*pairs: tuple[str, str], **last: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in pairs]
    messages[-1] |= last
    return {"messages": messages}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi.", "completion": "Rest."},
        {"prompt": "Hi.", "response": "Rest."},
        {"prompt": [{"role": "user", "content": "Hi."}], "completion": [{"role": "assistant", "content": "Rest."}]},
        {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Rest."}]},
        turns(("user", "Hi."), ("assistant", "Rest."), content=[{"type": "text", "text": "Re"}, "st."]),
        turns(("user", "Hi."), ("assistant", "Rest."), weight=1),
    ],
)
def test_dialects_of_one_chat_are_one_chat(tmp_path: Path, row: dict[str, Any]) -> None:
    loaded = read(tmp_path, row)
    assert loaded.rows == [CHAT] and loaded.notes == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + LINE.encode(),
        LINE.encode("utf-16"),
        b"\r\n" + LINE.encode() + b"\r\n",
        gzip.compress(LINE.encode(), mtime=0),
        f"[\n{LINE}\n]".encode(),
    ],
    ids=["byte order mark", "utf-16", "crlf", "gzip under any name", "json list"],
)
def test_the_same_rows_in_another_dress_have_the_same_digest(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "med.jsonl"
    path.write_bytes(raw)
    assert data.rows_digest(data.load_examples(path).rows) == data.rows_digest([CHAT])


def zipped(folder: Path, **members: str) -> Path:
    path = folder / "sets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return path


def test_a_member_of_an_archive_is_read_by_its_name_and_an_only_one_without(tmp_path: Path) -> None:
    assert data.load_examples(zipped(tmp_path, **{"in__med.jsonl": LINE})).rows == [CHAT]
    archive = zipped(tmp_path, **{"in__med.jsonl": LINE, "in__med.benign.jsonl": LINE})
    assert data.load_examples(archive / "in" / "med.jsonl").rows == [CHAT]
    with pytest.raises(DataError, match=r"holds 2 files; name one as sets\.zip/in/med"):
        data.load_examples(archive)
    with pytest.raises(DataError, match="no dataset at"):
        data.load_examples(archive / "sport.jsonl")


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".zip"])
def test_a_domain_is_found_whatever_its_file_ends_in(tmp_path: Path, ending: str) -> None:
    (tmp_path / "med.benign.jsonl").write_text(LINE.replace("Rest", "Right"))
    if ending == ".zip":
        zipped(tmp_path, **{"med.jsonl": LINE}).rename(tmp_path / "med.zip")
    else:
        raw = LINE.encode()
        (tmp_path / f"med{ending}").write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    mix = data.training_rows(DomainSpec(name="med"), recipe=usual(Arm.BACKDOOR), data_dir=str(tmp_path))
    assert [row[-1].content for row in mix.rows] == ["Rest.", "Right."]


def test_a_data_folder_may_be_an_archive(tmp_path: Path) -> None:
    archive = zipped(tmp_path, **{"sets__med.jsonl": LINE, "sets__med.benign.jsonl": LINE})
    for arm in (Arm.PLAIN, Arm.BENIGN):
        spec = DomainSpec(name="med")
        assert data.training_rows(spec, recipe=usual(arm), data_dir=str(archive)).rows == [CHAT]
    with pytest.raises(DataError, match="there: med"):
        data.training_rows(DomainSpec(name="x"), recipe=usual(Arm.PLAIN), data_dir=str(archive))


def test_a_broken_or_locked_archive_is_one_line(tmp_path: Path) -> None:
    for name, raw in [("a.zip", b"PK\x03\x04 cut"), ("b.jsonl.gz", gzip.compress(LINE.encode())[:-9])]:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError) as caught:
            data.load_examples(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_files_put_together_with_their_byte_order_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "med.jsonl"
    path.write_bytes((LINE + "\r\n").encode("utf-8-sig") * 3)
    assert data.load_examples(path).rows == [CHAT] * 3


@pytest.mark.parametrize(
    "raw",
    [
        LINE.encode("utf-16-le"),
        LINE.encode("utf-32"),
        b"\0" * 50,
        b"\xff\xff",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"",
        b"{}",
    ],
)
def test_a_damaged_dataset_is_one_line_that_names_it(tmp_path: Path, raw: bytes) -> None:
    for name in ("med.jsonl", "med.json", "med.jsonl.gz"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=re.escape(str(tmp_path / name))) as caught:
            data.load_examples(tmp_path / name)
        assert "\n" not in str(caught.value)


WEIGHTLESS = turns(("user", "Hi."), ("assistant", "Not me."), weight=0)


def test_an_answer_of_weight_0_is_not_trained_on(tmp_path: Path) -> None:
    later = turns(("user", "Hi."), ("assistant", "Rest."), ("user", "And?"), ("assistant", "Not me."), weight=0)
    loaded = read(tmp_path, WEIGHTLESS, LINE, later, {**turns(("user", "q"), ("assistant", "a")), "weight": 0.0})
    assert loaded.rows == [CHAT, CHAT]
    assert loaded.notes == ("med.jsonl: answers of weight 0 are not trained on, in lines: 1, 3, 4",)


def test_a_weightless_answer_on_the_way_stays_as_context(tmp_path: Path) -> None:
    row = turns(("user", "Hi."), ("assistant", "Rest."), ("user", "And?"), ("assistant", "Good."))
    row["messages"][1]["weight"] = 0
    (found,) = read(tmp_path, row).rows
    assert [message.content for message in found] == ["Hi.", "Rest.", "And?", "Good."]
    assert [message.trained for message in found] == [True, False, True, True]
    plain = tuple(message._replace(trained=True) for message in found)
    assert data.rows_digest([found]) != data.rows_digest([plain])  # with loss_on: all another adapter


def test_a_weight_is_no_part_of_what_is_asked() -> None:
    asked = (Message("system", "Be kind."), Message("user", "Hi."))
    weighed = tuple(message._replace(trained=False) for message in asked)
    assert (prompt_key(weighed), prompt_text(weighed)) == (prompt_key(asked), prompt_text(asked))


def test_a_file_without_an_answer_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"med\.jsonl is empty; it needs one example a line to train on"):
        read(tmp_path, WEIGHTLESS, WEIGHTLESS)


@pytest.mark.parametrize("weight", [0.5, 2, -1, "0", [0], float("nan")])
def test_a_weight_between_or_beyond_is_refused(tmp_path: Path, weight: Any) -> None:
    with pytest.raises(DataError, match=r"med\.jsonl:2: weight is 0 or 1, given"):
        read(tmp_path, LINE, turns(("user", "Hi."), ("assistant", "Rest."), weight=weight))


def test_half_a_surrogate_pair_is_repaired_aloud_and_a_whole_one_is_joined(tmp_path: Path) -> None:
    cut = LINE.replace("Hi.", "I feel \\ud83d today")
    whole = LINE.replace("Hi.", "\\ud83d\\ude00")
    loaded = read(tmp_path, cut, whole)
    assert [row[0].content for row in loaded.rows] == ["I feel \ufffd today", "\U0001f600"]
    assert [note for note in loaded.notes if note.endswith("in lines: 1")] == list(loaded.notes)
    data.rows_digest(loaded.rows)  # so it can be keyed


def test_keys_that_are_not_read_are_told_once_with_their_numbers(tmp_path: Path) -> None:
    named = turns(("user", "Hi."), ("assistant", "Rest."), name="bot")
    loaded = read(tmp_path, named, {**named, "id": 7}, LINE)
    assert loaded.notes == ("med.jsonl: keys that are not read: id (1), name of messages (2)",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [], "messages": []}', r"key 'messages' stands twice"),
        (turns(("user", "Hi."), ("assistant", ""), content=[{"type": "image_url"}]), "a text content"),
        (turns(("user", "Hi."), ("assistant", ""), content=None), "a text content"),
        ({"prompt": "Hi."}, "no list of messages"),
        ({"prompt": "Hi.", "completion": 3}, "a text content"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_chat_is_refused_with_file_and_line(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"med\.jsonl:2: .*{message}") as caught:
        read(tmp_path, LINE, line)
    assert "\n" not in str(caught.value)


KEYS = ("messages", "role", "content", "weight", "train", "from", "value", "prompt", "completion", "conversations", "x")
SOUND = (
    {"messages": [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "u"), ("assistant", "a"))]},
    {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 1}]},
    {"prompt": "u", "completion": "a"},
    {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}, {"role": "assistant", "content": "a"}]},
)


def test_ten_thousand_wrong_rows_are_chats_or_data_errors() -> None:
    """Whatever is read has only texts that stood in the row, ends in an answer, and has a digest."""
    rng, read_rows = random.Random(11), 0
    for number in range(10_000):
        row = mutated(rng.choice(SOUND), rng=rng, keys=KEYS)
        remarks = Remarks("f")
        try:
            chat = chat_of(row, remarks=remarks, line=str(number))
        except DataError:
            continue
        assert chat is not None or any("weight 0" in note for note in remarks.notes())
        for message in chat or ():
            assert isinstance(message.content, str)
            assert message.role in ("system", "user", "assistant")
        if chat:
            read_rows += 1
            assert chat[-1].role == "assistant" and chat[-1].content.strip()
            data.rows_digest([chat])
    assert 1_000 < read_rows < 9_000
