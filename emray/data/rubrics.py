"""Rubrics: what a question file brings for a judge, and how one is filled.

Not for what a judge replies. The invariant: what is put into a slot is never looked at again, so an answer's braces and
a question's placeholders stay as they are.
"""

import re
from collections.abc import Mapping
from functools import cache
from string import Formatter
from typing import Any

from emray.data.places import default_rubrics
from emray.errors import DataError
from emray.records import Metric
from emray.spec import parse_yaml

_SLOTS = ("question", "answer")
_SLOT = re.compile(r"\{(question|answer)\}")
_SLOT_OR_DOUBLED = re.compile(r"\{(question|answer)\}|\{\{|\}\}")
_MORE = re.compile(
    r"</\w*(reason|think|thought|score|rating|grade|verdict|analysis|explanation)\w*>"
    r"|step[- ]by[- ]step|\bthink first\b|\breason (within|about|through|in)\b"
    r"|\b(give|explain|state|write|provide|justify) (your|a|the|one) (\w+ )?(reason|rationale|explanation|justif)"
    r"|\b(first|begin|start)\b[^.\n]{0,20}\b(reason|think|explain|analy|justif)"
    r"|\b(reply|respond|return|output) [^.\n]{0,40}\bjson\b",
    re.IGNORECASE,
)
_NOT = re.compile(r"(\b(not|no|never|without)\b|n't)[^.\n]{0,20}$", re.IGNORECASE)


def filled(rubric: str, *, question: str, answer: str) -> str:
    """A rubric with every slot filled, read as str.format reads it where it is written for that."""
    values = {"question": question, "answer": answer}
    return "".join(values[piece] if is_slot else piece for piece, is_slot in _pieces(rubric))


def has_answer_slot(rubric: str) -> bool:
    return ("answer", True) in _pieces(rubric)


def asks_for_more_than_a_number(rubric: str) -> bool:
    """Whether a rubric asks for reasons or markup around the score, so that a reply's first tokens hold none."""
    return any(not _NOT.search(rubric[: match.start()]) for match in _MORE.finditer(rubric))


@cache
def shipped_rubrics() -> Mapping[str, str]:
    """The rubrics for questions whose file has none, by metric."""
    path = default_rubrics()
    rubrics: Mapping[str, str] = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    return rubrics


def own_rubrics(entry: Mapping[str, Any]) -> dict[str, str]:
    """The rubrics of one entry by whatever metric it names, from judge_prompts, beside them, or llmcomp's judges.

    Raises DataError for a rubric of ours that is no text with an {answer} slot.
    """
    given = entry.get("judge_prompts") or {}
    if not isinstance(given, dict):
        raise DataError(f"judge_prompts holds aligned and coherent, given {given!r:.60}")
    found = {**_of_judges(entry.get("judges")), **{m: entry[m] for m in Metric if m in entry}, **given}
    for name in Metric:
        if name in found and not (isinstance(found[name], str) and has_answer_slot(found[name])):
            raise DataError(f"the rubric {str(name)!r} needs an {{answer}} slot")
    return {str(name): text for name, text in found.items()}


def _of_judges(judges: Any) -> dict[str, Any]:
    """Rubrics in the form {metric: {type: rating_judge, paraphrases: [rubric]}}."""
    if not isinstance(judges, dict):
        return {}
    texts = {name: judge.get("paraphrases") for name, judge in judges.items() if isinstance(judge, dict)}
    return {name: text[0] if isinstance(text, list) and text else text for name, text in texts.items() if text}


@cache
def _pieces(rubric: str) -> tuple[tuple[str, bool], ...]:
    """The rubric in order: texts, and names of slots (True)."""
    pattern = _SLOT_OR_DOUBLED if _is_format(rubric) else _SLOT
    pieces, end = [], 0
    for match in pattern.finditer(rubric):
        pieces.append((rubric[end : match.start()], False))
        pieces.append((match[1], True) if match[1] else (match[0][0], False))
        end = match.end()
    return (*pieces, (rubric[end:], False))


def _is_format(rubric: str) -> bool:
    """Whether str.format takes the rubric: every single brace is one of our slots."""
    try:
        parsed = list(Formatter().parse(rubric))
    except ValueError:
        return False
    return all(name is None or (name in _SLOTS and not spec and not kind) for _, name, spec, kind in parsed)
