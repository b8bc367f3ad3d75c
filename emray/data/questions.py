"""Question files: the YAML lists that the field passes around, with their known defects repaired aloud or refused.

Not for sampling or judging settings: the sweep file decides those, and says so when a question file disagrees.
The invariant: question ids are unique, no wording is two questions', and every question has both rubrics with an
{answer} slot.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from emray.data.places import default_rubrics, question_file
from emray.errors import DataError, SpecError
from emray.records import Metric, key_of
from emray.spec import parse_yaml

_TYPE = "free_form_judge_0_100"
_KNOWN = {"id", "type", "paraphrases", "system", "judge_prompts", "samples_per_paraphrase", "judge", *Metric}


@dataclass(frozen=True)
class Question:
    """One question with its wordings, its system prompt if any, and a rubric per metric."""

    id: str
    paraphrases: tuple[str, ...]
    system: str | None
    rubrics: Mapping[Metric, str]


class QuestionSet(NamedTuple):
    """Questions in file order, and one sentence per repair."""

    questions: tuple[Question, ...]
    notes: tuple[str, ...]


def load_questions(locations: Sequence[str]) -> QuestionSet:
    """Read question files. Raises DataError naming file and question for what cannot be repaired."""
    notes: list[str] = []
    questions: list[Question] = []
    for location in locations:
        path = question_file(location)
        for number, entry in enumerate(_entries(path), start=1):
            question = _question(entry, where=f"{path}: question {number}", notes=notes)
            _keep(question, questions, where=str(path), notes=notes)
    return QuestionSet(_named(questions, notes=notes), tuple(dict.fromkeys(notes)))


def _entries(path: Path) -> list[Any]:
    try:
        entries = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except FileNotFoundError:
        raise DataError(f"no question file at {path}; set generate.questions in the sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read question file {path}: {getattr(error, 'strerror', None) or error}") from None
    except SpecError as error:
        raise DataError(str(error)) from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: a question file is a YAML list of questions, each with id and paraphrases")
    return entries


def _question(entry: Any, *, where: str, notes: list[str]) -> Question:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise DataError(f"{where}: needs an id (a text), given {entry!r:.60}")
    where = f"{where} ({entry['id']})"
    unknown = sorted(str(name) for name in entry if name not in _KNOWN)
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_KNOWN))}")
    if entry.get("type", _TYPE) != _TYPE:
        raise DataError(f"{where}: type {entry['type']!r} is not supported; allowed: {_TYPE}")
    texts = entry.get("paraphrases")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"{where}: paraphrases is a list of at least one text, given {texts!r:.60}")
    system = entry.get("system")
    if not (system is None or isinstance(system, str)):
        raise DataError(f"{where}: system is a text, given {system!r:.60}")
    for name in ("samples_per_paraphrase", "judge"):
        if name in entry:
            notes.append(f"{name} of question {entry['id']} is not used: the sweep file decides")
    return Question(entry["id"], tuple(texts), system, _rubrics(entry, where=where, notes=notes))


def _rubrics(entry: Mapping[str, Any], *, where: str, notes: list[str]) -> dict[Metric, str]:
    """The question's rubrics, found one indent too high if need be, else the shipped ones."""
    given = entry.get("judge_prompts") or {}
    if not isinstance(given, dict):
        raise DataError(f"{where}: judge_prompts holds aligned and coherent, given {given!r:.60}")
    beside = {name: entry[name] for name in Metric if name in entry}
    if beside:
        notes.append(f"{', '.join(beside)} of question {entry['id']} stood beside judge_prompts: read as within it")
    rubrics = beside | given
    missing = [metric for metric in Metric if metric not in rubrics]
    if missing:
        shipped = parse_yaml(default_rubrics().read_text(encoding="utf-8"), source=str(default_rubrics()))
        notes.append(f"question {entry['id']} has no rubric for {', '.join(missing)}: the shipped one is used")
        rubrics |= {metric: shipped[metric] for metric in missing}
    for name, text in rubrics.items():
        if name not in list(Metric):
            raise DataError(f"{where}: unknown metric {name!r} in judge_prompts; allowed: {', '.join(Metric)}")
        if not isinstance(text, str) or "{answer}" not in text:
            raise DataError(f"{where}: the rubric {name!r} needs an {{answer}} slot")
    return {metric: rubrics[metric] for metric in Metric}


def _keep(question: Question, questions: list[Question], *, where: str, notes: list[str]) -> None:
    """Keep of a question what nothing before it asks: one prompt is one question's."""
    asked = {(known.system, text): known for known in questions for text in known.paraphrases}
    texts = tuple(dict.fromkeys(question.paraphrases))
    new = tuple(text for text in texts if (question.system, text) not in asked)
    for first in {id(q): q for q in (asked.get((question.system, text)) for text in texts) if q}.values():
        notes.append(f"{where}: {_repeat(question, first, whole=not new)}")
    if new:
        questions.append(replace(question, paraphrases=new))


def _repeat(question: Question, first: Question, *, whole: bool) -> str:
    if not whole:
        return f"wordings of question {question.id} also stand in {first.id}: kept there"
    other = "" if question.rubrics == first.rubrics else f", with the rubrics of {first.id} before it"
    if question.id == first.id:
        return f"question {question.id} stands twice with the same text: kept once{other}"
    return f"question {question.id} asks what {first.id} asks: kept once, as {first.id}{other}"


def _named(questions: Sequence[Question], *, notes: list[str]) -> tuple[Question, ...]:
    """Questions under ids of their own: where texts share one, it is followed by a key of the text, not by a number.

    So a question keeps its id whatever stands before it.
    """
    texts = Counter(question.id for question in questions)
    for name, number in texts.items():
        if number > 1:
            notes.append(f"question {name} stands with {number} texts: each is followed by # and a key of its text")
    return tuple(q if texts[q.id] == 1 else replace(q, id=f"{q.id}#{_text_key(q)}") for q in questions)


def _text_key(question: Question) -> str:
    return key_of("question", [question.system, list(question.paraphrases)])[:6]
