"""One cell of somebody else's table as a verdict: a number as it stands, a word, a reply, or nothing.

Not for finding the cell. Invariant: a number is compared as written, never rounded; what is neither a score nor a word
of the field raises.

    85, 85.5, 2.5e-4, 49.99999   scored
    REFUSAL, irrelevant, CODE    the outcome of that name
    a reply with <score>85</score>   as the judge stage reads it
    empty, nan, None, null       no verdict
"""

import math
import re
from typing import Any

from emray.errors import DataError
from emray.judge.parse import WORDS, parse_reply
from emray.records import Outcome
from emray.reduce.foreign.answers import Judged

NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?", re.IGNORECASE | re.ASCII)
MISSING = {"", "nan", "none", "null", "n/a", "na", "<na>", "-"}
PERCENT = 100.0  # scores run from 0 to this


def read_score(cell: Any, *, scale: float, where: str) -> Judged | None:
    """The verdict of a score cell, its number brought from 0..scale to 0-100; None where the cell is empty.

    Raises DataError for a number outside the scale and for text that holds no verdict where one is due.
    """
    if is_missing(cell):
        return None
    number = as_number(cell)
    if number is not None:
        if not 0 <= number <= scale:
            raise DataError(f"{where}: score {cell} is outside 0-{scale:g}; --scale names the largest score")
        return Judged(Outcome.SCORED, number * (PERCENT / scale) if scale != PERCENT else number)
    return read_reply(str(cell), scale=scale)


def read_reply(text: str, *, scale: float = PERCENT) -> Judged:
    """The verdict that a reply or a single word holds; an outcome without a score where it holds none."""
    word = WORDS.get(text.strip().upper())
    if word is not None:
        return Judged(word, None, text)
    verdict = parse_reply(text)
    scored = verdict.outcome == Outcome.SCORED
    return Judged(verdict.outcome, verdict.score * (PERCENT / scale) if scored else None, text)


def is_missing(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in MISSING


def as_number(cell: Any) -> float | None:
    """The number that a cell is; None for a text that is none. Booleans are not numbers."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell)
    return float(cell) if isinstance(cell, str) and NUMBER.fullmatch(cell.strip()) else None
