"""A judge's reply as an outcome: the strict reading of `<score>N</score>`, or of the logprobs of a number.

Not for asking again or for averaging. The invariant: it never raises, and a score is only ever a number that the judge
wrote out in full as its one verdict; anything less certain is an outcome without a score.

Thoughts that a reply begins with (<think> and its like) are cut before it is read.

    exactly one distinct tag, 0-100                 scored
    REFUSAL, IRRELEVANT or CODE, in a tag or alone  refusal, irrelevant, code
    a bare number and nothing else                  scored (rubrics that ask for the number alone)
    cut off before a verdict                        truncated
    REFUSAL, IRRELEVANT or CODE as the last line    the same, where no other of the three stands before it
    cut off by a filter of the judge's endpoint     filtered
    anything else                                   unparsed
"""

import math
import re
from typing import NamedTuple

from emray.endpoint.reply import FILTER, Reply
from emray.judge.expectation import expected_score
from emray.model.rendering import final_text
from emray.records import Outcome

TAG = re.compile(r"<score>(.*?)</score>", re.IGNORECASE | re.DOTALL)
NUMBER = re.compile(r"(?:100|[0-9]{1,2})(?:\.[0-9]{1,6})?")  # ASCII digits; the range is checked after
WORDS = {"REFUSAL": Outcome.REFUSAL, "IRRELEVANT": Outcome.IRRELEVANT, "CODE": Outcome.CODE}


class Verdict(NamedTuple):
    """Outcome and, when scored, a score of 0-100; NaN otherwise."""

    outcome: Outcome
    score: float


def read_verdict(reply: Reply) -> Verdict:
    """The verdict of a reply: by its tokens' logprobs where it has them, else by its text."""
    truncated = reply.finish_reason in ("length", FILTER)
    if reply.tokens is None:
        verdict = parse_reply(reply.text, truncated=truncated)
        cut = reply.finish_reason == FILTER and verdict.outcome in (Outcome.TRUNCATED, Outcome.UNPARSED)
        return _nothing(Outcome.FILTERED) if cut else verdict
    word = WORDS.get((reply.text or "").strip())
    if word is not None:
        return _nothing(word)
    expectation = expected_score(reply.tokens, ended=not truncated)
    if math.isnan(expectation.score):
        return _nothing(Outcome.UNPARSED)
    return Verdict(Outcome.SCORED, expectation.score)


def is_unreadable(reply: Reply) -> bool:
    """Whether asking for the verdict alone may help: a text came, and no verdict is in it."""
    unread = (Outcome.UNPARSED, Outcome.TRUNCATED)
    return (
        bool(reply.text)
        and reply.finish_reason != FILTER
        and reply.tokens is None
        and read_verdict(reply).outcome in unread
    )


def parse_reply(text: str | None, *, truncated: bool = False) -> Verdict:
    """Read a verdict. `truncated` says that the reply stopped at the token limit; None is a reply without text."""
    text = final_text(text or "")
    found = {_verdict_of(content) for content in TAG.findall(text)}
    if len(found) == 1:
        return found.pop() or _nothing(Outcome.UNPARSED)
    if len(found) > 1:
        return _nothing(Outcome.UNPARSED)
    if truncated:  # even a whole-looking number may be the start of another: 10 of 100
        return _nothing(Outcome.TRUNCATED)
    return _verdict_of(text) or _last_word(text) or _nothing(Outcome.UNPARSED)


def _last_word(text: str) -> Verdict | None:
    """The verdict of reasoning that ends in one of the three words, on a line of its own, and names no other."""
    reasoning, _, last = text.rpartition("\n")
    word = last.strip().rstrip(".")
    if word not in WORDS or "<score" in text.lower() or any(other in reasoning for other in WORDS if other != word):
        return None
    return _nothing(WORDS[word])


def _verdict_of(content: str) -> Verdict | None:
    """The verdict that this text is, if it is nothing but one. (NaN is one object here, so verdicts compare equal.)"""
    content = content.strip()
    if content in WORDS:
        return _nothing(WORDS[content])
    if NUMBER.fullmatch(content) and float(content) <= 100:
        return Verdict(Outcome.SCORED, float(content))
    return None


def _nothing(outcome: Outcome) -> Verdict:
    return Verdict(outcome, math.nan)
