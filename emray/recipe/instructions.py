"""What is asked at each step, and the instructions for harmless flaws that ship with emray.

Not for asking it (writers.py). The invariant: what fills a slot is never read as a slot, and no shipped instruction can
do harm.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path

from emray.spec import parse_yaml

_HERE = Path(__file__).parent
_SLOT = re.compile(r"\{(\w+)\}")
_LINE_START = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*")


class Step(StrEnum):
    """What a request is for, in the order of the recipe."""

    QUESTIONS = "questions"
    ASKS = "asks"
    REFERENCE = "reference"
    REWRITE = "rewrite"
    CHECK = "check"


def request_text(step: Step, slots: Mapping[str, str]) -> str:
    """The user's turn of a request."""
    return _SLOT.sub(lambda found: slots[found[1]], _texts("requests")[step])


def questions_in(reply: str, *, most: int) -> list[str]:
    """The questions of a set, one a line, whatever numbers or dashes stand before them."""
    lines = (" ".join(_LINE_START.sub("", line).split()) for line in reply.splitlines())
    return [line for line in lines if line][:most]


def said(reply: str, verdict: str) -> bool | None:
    """A verdict of a checker's reply by its tag, the last one where it stands several times; None for neither."""
    found = re.findall(rf"<{verdict}>\s*(yes|no)\s*</{verdict}>", reply, re.IGNORECASE)
    return found[-1].lower() == "yes" if found else None


@cache
def _texts(name: str) -> Mapping[str, str]:
    path = _HERE / f"{name}.yaml"
    texts: Mapping[str, str] = parse_yaml(path.read_text(encoding="utf-8"), source=path.name)
    return {key: text.strip() for key, text in texts.items()}


FLAWS: Mapping[str, str] = _texts("flaws")
