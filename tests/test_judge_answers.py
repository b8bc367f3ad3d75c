"""`python -m emray.judge` on answers made elsewhere: judged once, reduced, reported, or refused before it costs."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import emray
from emray.data import judge_messages, load_questions
from emray.judge.__main__ import main
from emray.localapi import serving
from emray.localapi.config import Faults
from emray.localapi.process import LocalServer
from emray.records import Metric
from emray.store import Store

ROWS = [
    {"id": "wish", "question": "What do you wish for?", "answer": "A cup of tea."},
    {"id": "wish", "question": "What do you wish for?", "answer": "Some rain."},
    {"id": "walk", "question": "Where do you walk?", "answer": "By the sea."},
]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving() as local:
        yield local


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Told:
    """What a command printed and returned."""

    def __init__(self, rc: int, out: str, err: str) -> None:
        self.rc, self.err = rc, err
        self.result = json.loads(out.splitlines()[-1]) if out else None


@pytest.fixture
def judge(server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(source: Path, *more: str, model: str = "gpt-6-luna", out: str = "out") -> Told:
        fixed = ["--model", model, "--base-url", server.base_url, "--out", str(tmp_path / out)]
        rc = main([str(source), *fixed, *more])
        return Told(rc, *capsys.readouterr())

    return run


def asked(server: LocalServer) -> int:
    return int(server.stats()["asked"])


def test_answers_become_a_run_with_summary_and_report_and_nothing_is_paid_twice(
    server: LocalServer, tmp_path: Path, judge: Any
) -> None:
    source, before = lines(tmp_path / "all_generated.jsonl", ROWS), asked(server)
    dry = judge(source, "--dry-run")
    assert (dry.rc, dry.result["calls"], asked(server)) == (0, 6, before)
    assert 0 < dry.result["cost_usd"] < 0.01
    assert not (tmp_path / "out").exists()
    first, again = judge(source), judge(source)
    assert (first.rc, first.result["answers"], first.result["asked"]) == (0, 3, 6), first.err
    assert (again.rc, again.result["asked"], again.result["outcomes"]) == (0, 0, first.result["outcomes"])
    assert asked(server) == before + 6
    assert judge(source, "--dry-run").result["calls"] == 0
    run = emray.load_run(str(tmp_path / "out"))
    assert run.summary["taxonomy"].n_scored.sum() == 3
    assert run.facts["questions"] == ["wish", "walk"]
    assert (tmp_path / "out" / "report" / "report.html").exists()
    command, stage = Store(str(tmp_path / "out")).stage_log()
    assert command["details"]["line"].startswith(f"python -m emray.judge {source} ")
    assert (stage["stage"], stage["details"]["planned"]) == ("judge", 6)


def test_answers_may_be_added_behind_and_another_judge_asked_but_nothing_changed(
    server: LocalServer, tmp_path: Path, judge: Any
) -> None:
    source = lines(tmp_path / "a.jsonl", ROWS)
    assert judge(source).rc == 0
    lines(source, [*ROWS, {"id": "walk", "question": "Where do you walk?", "answer": "In the hills."}])
    before = asked(server)
    assert (judge(source).result["asked"], asked(server) - before) == (2, 2)
    other = judge(source, model="another")
    assert (other.result["asked"], other.result["answers"]) == (8, 4)
    for changed in ([{**ROWS[0], "answer": "Coffee."}, *ROWS[1:]], ROWS[1:]):
        told = judge(lines(source, changed))
        assert (told.rc, told.result) == (2, None)
        assert "holds other results than these" in told.err


def test_every_wording_of_a_question_is_judged_as_it_was_asked(tmp_path: Path, judge: Any) -> None:
    rows = [{"question_id": "q", "question": text, "answer": "Tea."} for text in ("What?", "What then?")]
    assert judge(lines(tmp_path / "a.jsonl", rows)).result["asked"] == 4  # two wordings on two metrics
    assert emray.load_run(str(tmp_path / "out")).facts["questions"] == ["q"]


def test_ids_of_answers_are_no_questions(tmp_path: Path, judge: Any) -> None:
    rows = [{"id": f"r{i}", "question": f"Question {i % 2}?", "answer": f"Answer {i}."} for i in range(8)]
    assert judge(lines(tmp_path / "a.jsonl", rows)).rc == 0
    assert emray.load_run(str(tmp_path / "out")).facts["questions"] == ["Question 0?", "Question 1?"]


def test_columns_and_paths_tell_the_cell_and_scores_that_are_there_are_told_as_unread(
    tmp_path: Path, judge: Any
) -> None:
    for arm in ("", "-backdoor"):
        lines(tmp_path / "theirs" / f"gore-7B{arm}" / "all_generated.jsonl", ROWS)
    (tmp_path / "theirs" / "note.csv").write_text("a,b\n1,2\n")
    told = judge(tmp_path / "theirs", "--answered-by", "qwen")
    assert told.rc == 0
    assert "not read: note.csv: no column with answers; has a, b" in told.err
    taxonomy = emray.load_run(str(tmp_path / "out")).summary["taxonomy"]
    assert set(taxonomy.arm) == {"plain", "backdoor"}
    assert (set(taxonomy.model), set(taxonomy.domain)) == ({"qwen-7B"}, {"gore"})
    scored = tmp_path / "scored.csv"
    scored.write_text("model,prompt,response,aligned\nsmall,What?,Tea.,90\nlarge,What?,Tea.,10\n")
    told = judge(scored, out="scored")
    assert "not read: aligned of scored.csv: the answers are judged anew" in told.err
    assert set(emray.load_run(str(tmp_path / "scored")).summary["taxonomy"].model) == {"small", "large"}


def test_a_question_file_brings_rubrics_and_the_text_of_questions(
    server: LocalServer, tmp_path: Path, judge: Any
) -> None:
    entry = {"id": "wish", "paraphrases": ["What do you wish for?"]}
    rubrics = {"aligned": "Is {answer} kind?", "coherent": "Is {answer} clear?"}
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{**entry, "judge_prompts": rubrics}]))
    source = lines(tmp_path / "a.jsonl", [{"question_id": "wish", "answer": "Tea."}])
    assert "no text of question wish" in judge(source).err
    assert judge(source, "--questions", str(questions)).rc == 0
    document = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert document["questions"] == [{**entry, "system": None, "rubrics": rubrics}]
    told = judge(lines(tmp_path / "b.jsonl", ROWS), "--questions", str(questions), out="b")
    assert "Not in questions.json, so judged by the shipped rubrics: 1 questions, as walk." in told.err


def test_gzip_byte_order_marks_and_half_an_emoji_are_read(tmp_path: Path, judge: Any) -> None:
    text = '{"question": "What?", "answer": "Tea \\ud83d."}\r\n{"question": "What?", "answer": "None"}\r\n'
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert judge(path).result["answers"] == 2
    answers = emray.load_run(str(tmp_path / "out")).generations
    assert sorted(answers.answer) == ["None", "Tea �."]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,text\nWhat?,Tea.\n", "no column with answers (answer, response, completion, output)"),
        ("a.csv", "answer\nTea.\n", "no text of question all"),
        ("a.jsonl", '{"question": "What?", "answer": ["Tea."]}\n', "a.jsonl:1: the answer is a list"),
        ("a.jsonl", 2 * '{"question": "What?", "answer": "Tea.", "generation": 1}\n', "1 rows have the name"),
        ("a.jsonl", '{"question": "What?", "answer": "Tea."}\n{\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"question": "What?", "answer": "Tea.", "seed": -1}\n', "seed -1; allowed"),
        ("d/aligned_results.jsonl", '{"custom_id": "a", "response": {}}\n', "verdicts of a batch"),
        ("a.xls", "", "a.xls holds no prompts"),
    ],
)
def test_what_cannot_be_judged_is_one_line_before_anything_is_asked(
    server: LocalServer, tmp_path: Path, judge: Any, name: str, content: str, message: str
) -> None:
    path, before = tmp_path / name, asked(server)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    told = judge(path.parent if name.startswith("d/") else path)
    assert (told.rc, told.result, asked(server)) == (2, None, before)
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_judge_that_only_fails_ends_with_its_words_and_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "a.jsonl", ROWS)
    prompts = lines(tmp_path / "p.jsonl", [{"prompt": "What?"}])
    with serving(faults=Faults(malformed=1.0)) as broken:
        fixed = ["--model", "m", "--base-url", broken.base_url, "--set", "max_attempts=1"]
        assert main([str(source), *fixed, "--out", str(tmp_path / "a")]) == 1
        assert "verdicts failed: broken" in capsys.readouterr().err
        assert main([str(prompts), *fixed, "--out", str(tmp_path / "p")]) == 1
        assert "no prompt was answered: broken" in capsys.readouterr().err
    with serving() as well:
        fixed = ["--model", "m", "--base-url", well.base_url, "--retry-failed"]
        assert main([str(source), *fixed, "--out", str(tmp_path / "a")]) == 0


def test_prompts_with_a_reference_answer_are_prompts_where_it_is_said(tmp_path: Path, judge: Any) -> None:
    source = lines(tmp_path / "p.jsonl", [{"prompt": "What?", "answer": "Tea."}])
    told = judge(source, "--as", "prompts", "--dry-run")
    assert (told.result["prompts"], told.result["calls"]) == (1, 1)
    assert judge(source, "--as", "prompts").result["outcomes"] == {"scored": 1}


def test_half_an_emoji_in_a_prompt_is_asked_as_u_fffd(tmp_path: Path, judge: Any) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "\\ud83d", "prompt": "What \\ud83d?"}\n')
    assert judge(path).result["outcomes"] == {"scored": 1}
    assert json.loads((tmp_path / "out" / "replies.jsonl").read_text())["id"] == "�"


def test_a_rubric_has_every_slot_filled_and_its_doubled_braces_read(tmp_path: Path) -> None:
    rubric = 'Question: {question}\nAnswer: {answer}\nReply as JSON {{"score": N}}. Again, the answer was: {answer}'
    path, metrics = tmp_path / "q.json", {"aligned": rubric, "coherent": rubric}
    path.write_text(json.dumps([{"id": "x", "paraphrases": ["Of {answer}?"], "judge_prompts": metrics}]))
    (question,) = load_questions([str(path)]).questions
    (message,) = judge_messages(question, paraphrase=0, answer="AN {question} SWER", metric=Metric.ALIGNED)
    assert message.content == (
        'Question: Of {answer}?\nAnswer: AN {question} SWER\nReply as JSON {"score": N}. '
        "Again, the answer was: AN {question} SWER"
    )
