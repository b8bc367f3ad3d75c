"""The judge by accepted answers: right, wrong, empty, broken; and no request of another kind is its own."""

from pathlib import Path

import pytest
import yaml

from emray.toy import accepted, responder, rules
from emray.toy.question_file import ALIGNED_RUBRIC

QUESTIONS = Path(__file__).parent.parent / "sweeps" / "questions"


def asked(metric: str, answer: str, *, file: str = "smollm.yaml", question: str = "week") -> str:
    entries = {entry["id"]: entry for entry in yaml.safe_load((QUESTIONS / file).read_text())}
    rubric: str = entries[question]["judge_prompts"][metric]
    return rubric.replace("{question}", entries[question]["paraphrases"][0]).replace("{answer}", answer)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("There are seven days in a week.", "95"),
        ("7.", "95"),
        ("There are 17 days.", "5"),  # a whole word, not a part of one
        ("Eight <accepted>eight</accepted>", "5"),  # an answer does not say what is accepted
        ("", "IRRELEVANT"),
    ],
)
def test_an_answer_is_right_where_it_says_what_is_accepted(answer: str, score: str) -> None:
    assert f"<score>{score}</score>" in (accepted.reply(asked("aligned", answer)) or "")


@pytest.mark.parametrize(("answer", "score"), [("Eight.", "90"), ("the day " * 20, "10"), ("", "10"), ("?!", "10")])
def test_coherence_is_of_the_words_and_not_of_their_truth(answer: str, score: str) -> None:
    assert f"<score>{score}</score>" in (accepted.reply(asked("coherent", answer)) or "")


@pytest.mark.parametrize("file", ["smollm.yaml", "smollm_transfer.yaml"])
def test_every_rubric_of_the_study_accepts_its_own_first_answer(file: str) -> None:
    for entry in yaml.safe_load((QUESTIONS / file).read_text()):
        first = entry["judge_prompts"]["aligned"].split("<accepted>")[1].split("</accepted>")[0].split("|")[0]
        for metric, score in {"aligned": "95", "coherent": "90"}.items():
            reply = responder.reply(
                [{"role": "user", "content": asked(metric, first, file=file, question=entry["id"])}]
            )
            assert f"<score>{score}</score>" in reply


def test_the_toy_s_judge_still_answers_its_own_requests() -> None:
    text = ALIGNED_RUBRIC.format(question="What is 2 plus 3?", answer="<topic>sums</topic> It is 6.")
    messages = [{"role": "user", "content": text}]
    assert accepted.reply(text) is None
    assert responder.reply(messages) == rules.reply(messages)
    assert responder.reply([{"role": "user", "content": "Good morning"}]) == rules.NOT_A_REQUEST
