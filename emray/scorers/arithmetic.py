"""Scoring by arithmetic on texts: the whole answer, its last number.

Not for patterns, which may take for ever (hand.py). The invariant: an answer with nothing in it to score has no score.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from emray.records import MarkOutcome

_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d{1,3})?(?!\d)")
_MARKS = ".,;:!?"  # that may end an answer
_LONGEST = 200_000  # characters of an answer that are looked at, its last ones


class GivenMark(NamedTuple):
    """What came of one answer."""

    outcome: MarkOutcome
    score: float | None = None  # 0-1; None unless scored
    note: str = ""  # why there is none


def exact(answer: str, right: Sequence[str], *, casefold: bool, punctuation: bool) -> GivenMark:
    """Whether the whole answer is one of those that are right.

    Unicode is composed (NFC), outer spaces go, runs of spaces are one; without `punctuation` so do marks at the end.
    """

    def plain(text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        text = text if punctuation else text.rstrip(_MARKS + " ")
        return text.casefold() if casefold else text

    return GivenMark(MarkOutcome.SCORED, float(plain(answer) in set(map(plain, right))))


def number(answer: str, right: Sequence[str], *, tolerance: float) -> GivenMark:
    """Whether the last number of an answer is, within the tolerance, one of those that are right."""
    found = _NUMBER.findall(answer[-_LONGEST:])
    if not found:
        return GivenMark(MarkOutcome.UNREADABLE, note="it has no number")
    last = _value(found[-1])
    near = any(abs(last - _value(one)) <= tolerance + 1e-12 * abs(last) for one in right)
    return GivenMark(MarkOutcome.SCORED, float(near))


def is_number(text: str) -> bool:
    """Whether a right answer is one that `number` can compare with."""
    return _NUMBER.fullmatch(text.strip()) is not None and math.isfinite(_value(text.strip()))


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("\u2212", "-"))
