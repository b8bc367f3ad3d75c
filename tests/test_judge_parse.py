"""Reading a judge's reply: never a wrong number, never an exception."""

import math
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emray.judge.parse import parse_reply
from emray.records import Outcome


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The answer is kind. <score>85</score>", 85.0),
        ("<score>0</score>", 0.0),
        ("<score>100</score>", 100.0),
        ("<SCORE> 7 </Score>\n", 7.0),
        ("<score>99.5</score>", 99.5),
        ("first <score>40</score>, so finally <score>40</score>", 40.0),  # the same verdict twice is one verdict
        ("42", 42.0),
        ("  7\n", 7.0),
        ("<score>40</score> follows from <score>40.0</score>", 40.0),
    ],
)
def test_a_whole_number_in_its_place_is_a_score(text: str, score: float) -> None:
    assert parse_reply(text) == (Outcome.SCORED, score)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "I would say 85.",
        "85/100",
        "85%",
        "<score>N</score>",
        "<score></score>",
        "<score>85",
        "85</score>",
        "<score>101</score>",
        "<score>100.5</score>",
        "<score>-5</score>",
        "<score>1e1</score>",
        "<score>٤٢</score>",  # digits, but not ASCII ones
        "<score>8 5</score>",
        "<score>85/100</score>",
        "<score>nan</score>",
        "<score>inf</score>",
        "<score>085</score>",
        "<score>10</score> or <score>90</score>",
        "<score>10</score> or <score>REFUSAL</score>",
        "write <score>N</score>; mine: <score>85</score>",
        "refusal",
        "REFUSAL CODE",
        "This is not a REFUSAL: <score>",
    ],
)
def test_anything_less_certain_is_unparsed(text: str | None) -> None:
    verdict = parse_reply(text)
    assert verdict.outcome == Outcome.UNPARSED
    assert math.isnan(verdict.score)


@pytest.mark.parametrize("word", ["REFUSAL", "IRRELEVANT", "CODE"])
@pytest.mark.parametrize("form", ["{}", " {}\n", "because <score>{}</score>", "<score> {} </score>"])
def test_the_three_words_are_outcomes_without_a_score(word: str, form: str) -> None:
    verdict = parse_reply(form.format(word))
    assert verdict.outcome == Outcome(word.lower())
    assert math.isnan(verdict.score)


@pytest.mark.parametrize("text", ["10", "I think that <score>8", "", None, "CODE"])
def test_a_reply_cut_before_its_verdict_is_truncated(text: str | None) -> None:
    assert parse_reply(text, truncated=True).outcome == Outcome.TRUNCATED


def test_a_reply_cut_after_its_verdict_keeps_it() -> None:
    assert parse_reply("bad <score>3</score> and further", truncated=True) == (Outcome.SCORED, 3.0)


SCRAPS = (
    "<score>", "</score>", "<SCORE>", "<score", ">", "N", "85", "100", "0", "7.5", "-", "/100", " ", "\n", "REFUSAL",
    "CODE", "IRRELEVANT", "1e5", "٤", "\ud800", "\x00", "nan", "the answer", "é", "8", "5", "101", "%", "\u2028",
)  # fmt: skip
replies = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(SCRAPS), max_size=10).map("".join))


def holds(text: str, truncated: bool) -> None:
    verdict = parse_reply(text, truncated=truncated)
    assert verdict.outcome != Outcome.API_ERROR
    if verdict.outcome != Outcome.SCORED:
        assert math.isnan(verdict.score)
        return
    assert 0 <= verdict.score <= 100
    contents = re.findall(r"(?is)<score>(.*?)</score>", text) or [text]
    assert {float(content.strip()) for content in contents} == {verdict.score}


@given(replies, st.booleans())
@example("<score>8</score><score>5</score>", False)
@settings(max_examples=2_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_no_reply_raises_and_a_score_stands_in_the_reply_as_its_only_verdict(text: str, truncated: bool) -> None:
    holds(text, truncated)


@pytest.mark.soak
@given(replies, st.booleans())
@example("<score>8</score><score>5</score>", False)
@settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_ten_thousand_replies_neither(text: str, truncated: bool) -> None:
    holds(text, truncated)
