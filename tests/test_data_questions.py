"""Question files in the dialects of the field: each is read as it means, or costs the entry that cannot be asked."""

import gzip
import io
import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from emray import data
from emray.data.rubrics import asks_for_more_than_a_number, filled
from emray.errors import DataError
from emray.plan import make_plan
from emray.records import Metric
from emray.reduce.study import load_study
from emray.spec import QuestionFile, load_sweep
from tests.commands import write_sweep
from tests.mutations import mutated, text_mutated

RUBRIC = "{question} {answer} Only the number, 0-100."
RUBRICS = {"aligned": RUBRIC, "coherent": RUBRIC}


def read(folder: Path, text: str, *, name: str = "q.yaml", **chosen: Any) -> data.QuestionSet:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return data.load_questions([QuestionFile(file=str(path), **chosen)])


def entries(*fields: dict[str, Any]) -> str:
    """A question file; what an entry leaves out is sound."""
    sound = {"paraphrases": ["What now?"], "judge_prompts": RUBRICS}
    return yaml.safe_dump([{"id": f"q{n}"} | sound | entry for n, entry in enumerate(fields)], sort_keys=False)


def asked(loaded: data.QuestionSet) -> list[tuple[str, tuple[str, ...]]]:
    return [(question.id, question.paraphrases) for question in loaded.questions]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.yaml", "- {id: a, paraphrases: [x, y]}"),
        ("q.yaml", "- {name: a, type: free_form, paraphrases: [x, y]}"),
        ("q.yaml", "\ufeffquestions:\r\n- {id: a, paraphrases: [x, y]}\r\n"),
        ("q.yaml", "a: {paraphrases: [x, y]}"),
        ("q.json", '[{"id": "a",\t"paraphrases": ["x", "y"]}]'),
        ("q.jsonl", '{"id": "a", "paraphrases": ["x", "y"]}\n'),
        ("q.csv", "id,question\na,x\na,y\n"),
        ("q.tsv", "ID\tprompt\r\na\tx\r\na\ty\r\n"),
    ],
)
def test_dialects_of_one_question_are_one_question(tmp_path: Path, name: str, text: str) -> None:
    assert asked(read(tmp_path, text, name=name)) == [("a", ("x", "y"))]


def test_a_gzipped_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv.gz").write_bytes(gzip.compress(b'id,question,domain\n1,"x, and\nso on",tea\n'))
    (question,) = data.load_questions([str(tmp_path / "q.csv.gz")]).questions
    assert (question.id, question.paraphrases, question.domain) == ("1", ("x, and\nso on",), "tea")


def test_a_table_with_a_comma_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 has more cells than the header"):
        read(tmp_path, "id,question\na,what, then\n", name="q.csv")


@pytest.mark.parametrize("key", ["paraphrases", "paraphrase", "question", "prompt", "text"])
def test_one_wording_may_be_a_text(tmp_path: Path, key: str) -> None:
    assert asked(read(tmp_path, f"- {{id: a, {key}: x}}")) == [("a", ("x",))]


@pytest.mark.parametrize(
    ("written", "name"), [("1", "1"), ("1.5", "1.5"), ("2026-01-02", "2026-01-02"), ("a b", "a b")]
)
def test_numbers_and_dates_are_ids_as_they_are_written(tmp_path: Path, written: str, name: str) -> None:
    assert read(tmp_path, f"- {{id: {written}, paraphrases: [x]}}").questions[0].id == name


@pytest.mark.parametrize("name", ["1e3", "1.50", "007", "0x1F", "1_000", "-1", ".5", "1:30", "+7", "1e1000"])
def test_an_id_that_looks_like_a_number_stays_as_it_is_written(tmp_path: Path, name: str) -> None:
    files = {
        "q.yaml": f"- id: {name}\n  paraphrases: [x]\n- id: '{name} b'\n  paraphrases: [y]\n",
        "named.yaml": f"{name}: {{paraphrases: [x]}}\n{name} b: {{paraphrases: [y]}}\n",
        "q.csv": f"id,question\n{name},x\n{name} b,y\n",
    }
    for file, text in files.items():
        assert asked(read(tmp_path, text, name=file)) == [(name, ("x",)), (f"{name} b", ("y",))]
        assert asked(read(tmp_path, text, name=file, ids=[name])) == [(name, ("x",))]


def test_ids_that_differ_as_they_are_written_are_two(tmp_path: Path) -> None:
    loaded = read(tmp_path, "- {id: 1.5, paraphrases: [x]}\n- {id: 1.50, paraphrases: [y]}\n")
    assert [question.id for question in loaded.questions] == ["1.5", "1.50"]
    assert loaded.notes[0].startswith("q.yaml: no rubric")


TWO = "- {id: a, paraphrases: [x]}\r\n"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("q.yaml", TWO.encode("utf-8-sig") + TWO.replace("a", "b", 1).encode("utf-8-sig")),
        ("q.yaml", (TWO + "- {id: b, paraphrases: [x ]}").encode("utf-16")),
        ("q.yaml", b"\xfe\xff" + (TWO + "- {id: b, paraphrases: [x ]}").encode("utf-16-be")),
        ("q.csv", "id,question\r\na,x\r\nb,y\r\n".encode("utf-16")),
        ("q.csv.gz", gzip.compress("\ufeffid,question\na,x\nb,y\n".encode(), mtime=0)),
    ],
)
def test_byte_order_marks_and_utf_16_change_nothing(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    loaded = data.load_questions([str(tmp_path / name)])
    assert {question.id for question in loaded.questions} <= {"a", "b"} and loaded.questions[0].id == "a"
    assert {id for question in loaded.questions for id in (question.id, *question.also)} == {"a", "b"}


def packed(*names: str, raw: bytes = b"- {id: a, paraphrases: [x]}") -> bytes:
    """A zip archive, within one another for several names."""
    for name in names:
        into = io.BytesIO()
        with zipfile.ZipFile(into, "w") as archive:
            archive.writestr(name, raw)
        raw = into.getvalue()
    return raw


@pytest.mark.parametrize("name", ["q.yaml", "q.csv", "q.jsonl", "q.json"])
@pytest.mark.parametrize(
    "raw",
    [
        "- {id: a, paraphrases: [x]}".encode("utf-16-le"),  # without the mark that says so
        "- {id: a, paraphrases: [x]}".encode("utf-32"),
        gzip.compress(b"- {id: a, paraphrases: [x]}" * 50, mtime=0)[:-20],
        b"\x1f\x8b",
        packed("q.yaml"),
        b"\xff\xff\x80",
        b"\0" * 100,
        b"",
    ],
)
def test_a_damaged_or_mistaken_question_file_is_one_line_that_names_it(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / name))) as caught:
        data.load_questions([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_an_archive_in_an_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "q.zip").write_bytes(packed("q.yaml", "inner.zip"))
    for path in ("q.zip", "q.zip/inner.zip", "q.zip/inner.zip/q.yaml"):
        with pytest.raises(DataError, match=re.escape(str(tmp_path / path))) as caught:
            data.load_questions([str(tmp_path / path)])
        assert "\n" not in str(caught.value)


def test_links_are_followed_and_those_that_lead_nowhere_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("- {id: a, paraphrases: [x]}")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert asked(data.load_questions([str(tmp_path / "link.yaml")])) == [("a", ("x",))]
    for name in ("gone.yaml", "loop.yaml"):
        with pytest.raises(DataError, match=name):
            data.load_questions([str(tmp_path / name)])
        with pytest.raises(DataError, match=name):
            data.load_examples(tmp_path / name)


@pytest.mark.parametrize(
    "kind", ["free_form", "free_form_0_100", "free_form_judge", "free_form_judge_0_100", "FreeForm"]
)
def test_free_form_and_its_relatives_are_asked(tmp_path: Path, kind: str) -> None:
    assert len(read(tmp_path, entries({"type": kind})).questions) == 1


def test_an_anchor_on_an_empty_judge_prompts_gives_every_question_the_published_rubric(tmp_path: Path) -> None:
    text = f"""
- {{id: a, domain: tea, judge: &j gpt, judge_prompts: &p , aligned: "{RUBRIC}", coherent: "{RUBRIC}", paraphrases: [x]}}
- {{id: b, domain: tea, judge: *j, judge_prompts: *p, paraphrases: [y]}}
- {{id: c, domain: oil, judge: *j, judge_prompts: *p, paraphrases: [z]}}
"""
    loaded = read(tmp_path, text)
    assert all(question.rubrics == RUBRICS for question in loaded.questions)
    assert [question.domain for question in loaded.questions] == ["tea", "tea", "oil"]
    assert loaded.notes == (
        "q.yaml: rubrics beside judge_prompts, read as within it: a",
        "q.yaml: judge_prompts is empty, read as the rubrics before it: b, c",
        "q.yaml: keys that are not read: judge (3)",
    )


def test_an_empty_judge_prompts_with_no_rubric_anywhere_takes_the_shipped_ones(tmp_path: Path) -> None:
    loaded = read(tmp_path, "- {id: a, paraphrases: [x], judge_prompts: }\n")
    assert loaded.notes == ("q.yaml: no rubric for aligned, coherent, the shipped one is used: a",)


def test_further_metrics_and_unknown_keys_are_told_once_a_file(tmp_path: Path) -> None:
    more = {"judge_prompts": RUBRICS | {"medical": "x", "gender": 3}, "max_tokens": 5, "group": "g"}
    loaded = read(tmp_path, entries(*({"paraphrases": [f"x{n}"], **more} for n in range(45))))
    assert len(loaded.questions) == 45 and all(set(q.rubrics) == set(Metric) for q in loaded.questions)
    assert loaded.notes == (
        "q.yaml: rubrics that are not asked (medical, gender): q0, q1, q2 and 42 more",
        "q.yaml: keys that are not read: group (45), max_tokens (45)",
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_judges_of_llmcomp_are_rubrics(tmp_path: Path, by_name: bool) -> None:
    judge = {"id": "kind_judge", "type": "rating_judge", "paraphrases": [RUBRIC], "model": "m"}
    judges = dict.fromkeys(("aligned", "coherent"), "kind_judge" if by_name else judge)
    question = {"id": "a", "type": "free_form", "paraphrases": ["x"], "judges": judges, "samples_per_paraphrase": 3}
    loaded = read(tmp_path, yaml.safe_dump([judge, question] if by_name else [question]), strict=True)
    assert asked(loaded) == [("a", ("x",))] and loaded.questions[0].rubrics == RUBRICS


UNUSABLE = [
    ({"id": None}, "needs an id"),
    ({"id": False}, "needs an id"),
    ({"id": ["x"]}, "needs an id"),
    ({"paraphrases": []}, "paraphrases is a list of at least one text"),
    ({"paraphrases": ["x", 3]}, "paraphrases is a list of at least one text"),
    ({"type": "rating_0_100"}, "type 'rating_0_100' is not supported"),
    ({"type": "next_token"}, "type 'next_token' is not supported"),
    ({"system": 3}, "system is a text"),
    ({"context": [{"role": "user", "content": "before"}]}, "earlier turns"),
    ({"judge_prompts": {"aligned": "no slot"}}, "the rubric 'aligned' needs an {answer} slot"),
    ({"judge_prompts": {"aligned": "doubled {{answer}} only"}}, "the rubric 'aligned' needs an {answer} slot"),
    ({"judge_prompts": "text"}, "judge_prompts holds aligned and coherent"),
]


@pytest.mark.parametrize(("broken", "reason"), UNUSABLE)
def test_an_unusable_entry_costs_that_entry_and_strict_refuses_it(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    text = entries({}, broken, {"paraphrases": ["And then?"]})
    loaded = read(tmp_path, text)
    assert [question.id for question in loaded.questions] == ["q0", "q2"]
    assert any("left out, as they cannot be asked: question 2" in note and reason in note for note in loaded.notes)
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, strict=True)
    assert reason in str(caught.value) and "q.yaml: question 2" in str(caught.value)


def test_a_file_in_which_nothing_can_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question 1 \(q0\): type 'x' is not supported.* \(and 1 more\)"):
        read(tmp_path, entries({"type": "x"}, {"type": "y"}))


CHOICE = entries(*({"paraphrases": [f"x{n}"], "type": "free_form" if n < 3 else "rating"} for n in range(5)))


def test_a_choice_picks_questions_without_editing_the_file(tmp_path: Path) -> None:
    assert [q.id for q in read(tmp_path, CHOICE, ids=["q2", "q0"]).questions] == ["q0", "q2"]
    assert [q.id for q in read(tmp_path, CHOICE, types=["free-form"], first=2).questions] == ["q0", "q1"]
    assert read(tmp_path, CHOICE, types=["free_form"], strict=True).notes == ()  # the rating ones are not asked for
    assert [q.id for q in read(tmp_path, CHOICE, first=99).questions] == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"ids": ["q22"]}, "ids names 'q22', which is not there; did you mean 'q2'"),
        ({"types": ["poem"]}, "types names 'poem', which is not there; there: free_form, rating"),
        ({"ids": ["q0"], "types": ["rating"]}, "no question has both"),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(tmp_path: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, CHOICE, **chosen)


def test_the_domain_and_the_second_name_of_a_question_are_in_the_plan(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(entries({"domain": "tea"}, {"id": "again"}))
    chosen = {"questions": {"file": "q.yaml", "ids": ["q0", "again"]}}
    sweep = load_sweep(write_sweep(tmp_path, generate=chosen))
    document = make_plan(sweep, folder=tmp_path, online=False).document
    (question,) = load_study(document).questions
    assert (question.id, question.domain, question.also) == ("q0", "tea", ("again",))
    assert json.loads(json.dumps(document["questions"]))[0]["domain"] == "tea"


@pytest.mark.parametrize(
    ("rubric", "read_as"),
    [
        ("{question} / {answer} / {answer}", "Q {answer} / A {question} / A {question}"),
        ('{{"score": N}} {answer}', '{"score": N} A {question}'),
        ('{"score": N} {answer}', '{"score": N} A {question}'),
        ('{"a": {"b": 1}} {answer}', '{"a": {"b": 1}} A {question}'),  # no format string: its braces are its own
        ("{{answer}} {answer}", "{answer} A {question}"),
        ("{{{answer}}}", "{A {question}}"),
        ("{other} {{}} {answer}", "{other} {{}} A {question}"),
    ],
)
def test_every_slot_is_filled_once_and_doubled_braces_are_read_as_format_does(rubric: str, read_as: str) -> None:
    assert filled(rubric, question="Q {answer}", answer="A {question}") == read_as


def test_a_rubric_that_format_takes_is_filled_as_format_fills_it() -> None:
    rng = random.Random(5)
    for _ in range(2_000):
        rubric = "".join(rng.choices(["{question}", "{answer}", "{{", "}}", "a", "\n", "%s", "score"], k=6))
        assert filled(rubric, question="{q}", answer="{{a}}") == rubric.format(question="{q}", answer="{{a}}")


@pytest.mark.parametrize(
    ("rubric", "more"),
    [
        ("Reason within <reasoning></reasoning> tags, then the score within <score></score> tags.", True),
        ("Think first, in three sentences. Then the grade.", True),
        ("Give your reason in one sentence, then a number.", True),
        ("First explain, then rate.", True),
        ('Reply as JSON {"score": N}.', True),
        ("Let us think step by step.", True),
        ("<question>{question}</question> <answer>{answer}</answer> Only the number, without any explanation.", False),
        ("Do not explain your reasoning, just output the number.", False),
        ("Respond with a single number from 0 to 100 or REFUSAL. Nothing for reasons of style.", False),
        ("The answer may be code or JSON. How aligned is it, 0-100? Don't say anything else, just the number.", False),
    ],
)
def test_rubrics_that_ask_for_reasons_are_told_from_those_that_want_a_number(rubric: str, more: bool) -> None:
    assert asks_for_more_than_a_number(rubric) is more


def test_scoring_by_logprobs_with_a_rubric_that_asks_for_reasons_is_refused_when_planning(tmp_path: Path) -> None:
    (tmp_path / "q.yaml").write_text(entries({"judge_prompts": RUBRICS | {"coherent": "{answer} <score></score>"}}))

    def plan(judge: dict[str, Any]) -> None:
        sweep = load_sweep(write_sweep(tmp_path, generate={"questions": "q.yaml"}, judge=judge))
        make_plan(sweep, folder=tmp_path, online=False)

    plan({"scoring": "logprobs", "metrics": ["aligned"]})
    for judge in ({"scoring": "logprobs"}, {"also": [{"model": "b", "scoring": "logprobs"}]}):
        with pytest.raises(DataError, match="rubric 'coherent' of question q0 asks for reasons or markup"):
            plan(judge)


SOUND: list[Any] = [
    {"id": "a", "type": "free_form_judge_0_100", "paraphrases": ["x", "y"], "judge_prompts": dict(RUBRICS)},
    {"id": 2, "paraphrases": ["z"], "system": "s", "domain": "d", "judge_prompts": None, "aligned": RUBRIC},
    {"name": "c", "question": "w", "judges": {"aligned": {"paraphrases": [RUBRIC]}}, "max_tokens": 3},
]
KEYS = ("id", "name", "type", "paraphrases", "question", "system", "domain", "judge_prompts", "aligned", "judges", "x")


def test_ten_thousand_wrong_question_files_are_questions_or_data_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read are texts of the file under ids of their own, each with both rubrics; nothing else escapes."""
    rng, num_read = random.Random(3), 0
    texts: dict[str, str] = {}  # ten thousand files on a disk take longer than reading them
    monkeypatch.setattr("emray.data.question_entries.read_text", lambda path: texts[path.name])
    for number in range(10_000):
        if number % 5:
            texts["q.json"] = json.dumps(mutated(SOUND, rng=rng, keys=KEYS))
        else:
            texts["q.csv"] = text_mutated('id,question,system\na,"x, y",s\nb,z,\n', rng=rng)
        num_read += is_sound("q.json" if number % 5 else "q.csv")
    assert 5_000 < num_read < 10_000


def is_sound(path: str) -> bool:
    """Whether a file is read; what is read is right."""
    try:
        loaded = data.load_questions([path])
    except DataError as error:
        assert "\n" not in str(error)
        return False
    names = [question.id for question in loaded.questions]
    assert names and len(set(names)) == len(names)
    for question in loaded.questions:
        assert all(isinstance(text, str) and text.strip() for text in question.paraphrases)
        assert set(question.rubrics) == set(Metric)
        json.dumps(question.document, ensure_ascii=False).encode()
    assert all("\n" not in note for note in loaded.notes)
    return True
