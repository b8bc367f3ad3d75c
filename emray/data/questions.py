"""Question files: the lists that the field passes around, with their known defects repaired aloud or refused.

Not for how a file is written (question_entries.py), nor for sampling or judging settings: the sweep file decides those,
and says so when a question file disagrees. The invariant: question ids are unique, no wording is two questions', and
every question has both rubrics with an {answer} slot.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from emray.data.places import question_file
from emray.data.question_entries import entries_of
from emray.data.remarks import Remarks
from emray.data.right_answers import right_answers
from emray.data.rubrics import asks_for_more_than_a_number, own_rubrics, shipped_rubrics
from emray.errors import DataError
from emray.records import Metric, key_of
from emray.spec import QuestionFile

_READ = {"id", "type", "paraphrases", "system", "domain", "judge_prompts", "judges", *Metric}
_READ_BY_QUIZZES = {"id", "type", "paraphrases", "system", "domain", "answer", "answers", "options"}
EARLIER_TURNS = ("context", "messages")  # of other tools: what stands before the question


@dataclass(frozen=True)
class Question:
    """One question with its wordings, its system prompt if any, and a rubric per metric; a quiz's has none of these."""

    id: str
    paraphrases: tuple[str, ...]
    system: str | None
    rubrics: Mapping[Metric, str]
    domain: str | None = None  # what its file says it is about
    also: tuple[str, ...] = ()  # ids under which the same text stands again
    right: tuple[str, ...] = ()  # answers that are right, for quizzes
    options: tuple[str, ...] = ()  # answers to choose from

    @property
    def name(self) -> str:
        """Its id for the eye, with those under which the same text stands again."""
        return f"{self.id} (also {', '.join(self.also)})" if self.also else self.id

    @property
    def document(self) -> dict[str, Any]:
        """As plan.json holds it."""
        fields = {"id": self.id, "paraphrases": list(self.paraphrases), "system": self.system}
        lists = {"also": list(self.also), "right": list(self.right), "options": list(self.options)}
        said = {name: value for name, value in {"domain": self.domain, **lists}.items() if value}
        return fields | {"rubrics": {str(metric): text for metric, text in self.rubrics.items()}} | said

    @classmethod
    def from_document(cls, fields: Mapping[str, Any]) -> "Question":
        """Raises KeyError or ValueError for what `document` did not write."""
        rubrics = {Metric(metric): text for metric, text in fields["rubrics"].items()}
        lists = {name: tuple(fields.get(name, ())) for name in ("also", "right", "options")}
        domain = fields.get("domain")
        return cls(fields["id"], tuple(fields["paraphrases"]), fields["system"], rubrics, domain, **lists)


class QuestionSet(NamedTuple):
    """Questions in file order, and one sentence per kind of repair."""

    questions: tuple[Question, ...]
    notes: tuple[str, ...]


def load_questions(files: Sequence[QuestionFile | str], *, quiz: bool = False) -> QuestionSet:
    """Read question files; for a `quiz` with what is right, and without rubrics.

    Raises DataError naming file and question for what cannot be repaired.
    """
    notes: list[str] = []
    questions: list[Question] = []
    for file in files:
        chosen = QuestionFile.model_validate(file)
        remarks = Remarks(question_file(chosen.file).name)
        for question in _questions_of(chosen, remarks, quiz=quiz):
            _keep(question, questions, remarks=remarks)
        notes.extend(remarks.notes())
    return QuestionSet(_named(questions, notes=notes), tuple(dict.fromkeys(notes)))


def refuse_unscorable(questions: Iterable[Question], *, metrics: Sequence[Metric]) -> None:
    """Raises DataError when a rubric asks for more than a number, which scoring by logprobs cannot read."""
    for question in questions:
        for metric in metrics:
            if asks_for_more_than_a_number(question.rubrics[metric]):
                raise DataError(
                    f"judge.scoring logprobs reads a reply's first tokens, but the rubric {str(metric)!r} of question "
                    f"{question.id} asks for reasons or markup; set scoring: text, or let it ask for the number alone"
                )


def _questions_of(file: QuestionFile, remarks: Remarks, *, quiz: bool) -> list[Question]:
    """The chosen questions of one file; an entry that cannot be used is told and left out, or with `strict` and for
    a quiz refused.
    """
    path = question_file(file.file)
    entries = entries_of(path)
    shared = _shared_rubrics(entries)
    read = _quiz_question if quiz else _question
    found, problems = [], []
    for number, entry in _chosen(file, entries, source=str(path)):
        label = f"question {number}" + (f" ({entry['id']})" if isinstance(entry, dict) and "id" in entry else "")
        try:
            found.append(read(entry, shared=shared[number - 1], remarks=remarks))
        except DataError as error:
            problems.append(f"{label}: {error}")
            remarks.add("left out, as they cannot be asked", where=problems[-1])
    if problems and (file.strict or quiz or not found):
        raise DataError(f"{path}: {problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    return found


def _chosen(file: QuestionFile, entries: Sequence[Any], *, source: str) -> list[tuple[int, Any]]:
    """The entries that the sweep file picks, with their number in the file. Raises DataError where it picks none."""
    numbered = list(enumerate(entries, start=1))
    ids = {str(entry.get("id")) for entry in entries if isinstance(entry, dict)}
    types = {_kind_of(entry) for entry in entries}
    for field, wanted, there in (("ids", set(file.ids), ids), ("types", {_plain(t) for t in file.types}, types)):
        unknown = sorted(wanted - there)
        if unknown:
            close = difflib.get_close_matches(unknown[0], sorted(there), n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"there: {', '.join(sorted(there)[:20])}"
            raise DataError(f"{source}: generate.questions.{field} names {unknown[0]!r}, which is not there; {hint}")
    if file.ids:
        numbered = [(n, entry) for n, entry in numbered if isinstance(entry, dict) and str(entry.get("id")) in file.ids]
    if file.types:
        wanted_types = {_plain(kind) for kind in file.types}
        numbered = [(n, entry) for n, entry in numbered if _kind_of(entry) in wanted_types]
    if not numbered:
        raise DataError(f"{source}: no question has both an id of generate.questions.ids and a type of its types")
    return numbered[: file.first]


def _question(entry: Any, *, shared: Mapping[str, str], remarks: Remarks) -> Question:
    """Raises DataError (without the place) for an entry that cannot be asked."""
    question = _bare_question(entry)
    rubrics = _rubrics(entry, question.id, shared=shared, remarks=remarks)
    remarks.unread(str(key) for key in entry if key not in _READ)
    return replace(question, rubrics=rubrics)


def _quiz_question(entry: Any, *, shared: Mapping[str, str], remarks: Remarks) -> Question:
    """The same with what is right; rubrics are left alone."""
    question = _bare_question(entry)
    right, options = right_answers(entry)
    remarks.unread(str(key) for key in entry if key not in _READ_BY_QUIZZES)
    return replace(question, right=right, options=options)


def _bare_question(entry: Any) -> Question:
    name = _label(entry.get("id")) if isinstance(entry, dict) else None
    if name is None:
        raise DataError(f"needs an id (a text or a number), given {entry!r:.60}")
    texts, system = entry.get("paraphrases"), entry.get("system")
    if not _kind_of(entry).startswith("free_form"):
        raise DataError(f"type {entry['type']!r} is not supported; allowed: free_form and its relatives")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(f"paraphrases is a list of at least one text, given {texts!r:.60}")
    if all("{answer}" in text for text in texts) and not own_rubrics(entry):
        raise DataError("its text has an {answer} slot: it is a judge, not a question")
    if not (system is None or isinstance(system, str)):
        raise DataError(f"system is a text, given {system!r:.60}")
    for key in EARLIER_TURNS:
        if entry.get(key):
            raise DataError(f"{key}: earlier turns of a conversation cannot be asked")
    return Question(name, tuple(texts), system, {}, _label(entry.get("domain")))


def _label(value: Any) -> str | None:
    """An id or a domain as text; YAML reads `1` as a number, and `no` as neither."""
    if value is None or isinstance(value, bool | list | dict):
        return None
    return " ".join(str(value).split()) or None


def _kind_of(entry: Any) -> str:
    """An entry's type; without one it is free-form."""
    given = entry.get("type") if isinstance(entry, dict) else None
    return "free_form" if given is None else _plain(given)


def _plain(kind: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(kind).lower()).replace("freeform", "free_form")


def _shared_rubrics(entries: Sequence[Any]) -> list[Mapping[str, str]]:
    """For every entry the rubrics that an empty judge_prompts stands for: those that stood beside the last empty one.

    Such a file has its anchor on an empty judge_prompts, the rubrics one indent too high, and aliases of it after.
    """
    shared: list[Mapping[str, str]] = []
    last: Mapping[str, str] = {}
    for entry in entries:
        if isinstance(entry, dict) and "judge_prompts" in entry and not entry["judge_prompts"]:
            last = {str(m): entry[m] for m in Metric if isinstance(entry.get(m), str)} or last
            shared.append(last)
        else:
            shared.append({})
    return shared


def _rubrics(entry: Mapping[str, Any], name: str, *, shared: Mapping[str, str], remarks: Remarks) -> dict[Metric, str]:
    """The question's rubrics, found one indent too high or in the entry before if need be, else the shipped ones."""
    own = own_rubrics(entry)
    others = [metric for metric in own if metric not in list(Metric)]
    if others:
        remarks.add(f"rubrics that are not asked ({', '.join(others)})", where=name)
    if any(metric in entry for metric in Metric):
        remarks.add("rubrics beside judge_prompts, read as within it", where=name)
    elif shared and not own:
        remarks.add("judge_prompts is empty, read as the rubrics before it", where=name)
    rubrics = {**shared, **own}
    missing = [metric for metric in Metric if metric not in rubrics]
    if missing:
        remarks.add(f"no rubric for {', '.join(missing)}, the shipped one is used", where=name)
    rubrics = {**shipped_rubrics(), **rubrics} if missing else rubrics
    return {metric: rubrics[metric] for metric in Metric}


def _keep(question: Question, questions: list[Question], *, remarks: Remarks) -> None:
    """Keep of a question what nothing before it asks: one prompt is one question's."""
    asked = {(known.system, text): n for n, known in enumerate(questions) for text in known.paraphrases}
    texts = tuple(dict.fromkeys(question.paraphrases))
    new = tuple(text for text in texts if (question.system, text) not in asked)
    for n in dict.fromkeys(asked[question.system, text] for text in texts if text not in new):
        first = questions[n]
        _tell_repeat(question, first, remarks=remarks, whole=not new)
        if not new and question.id not in (first.id, *first.also):
            questions[n] = replace(first, also=(*first.also, question.id))
    if new:
        questions.append(replace(question, paraphrases=new))


def _tell_repeat(question: Question, first: Question, *, remarks: Remarks, whole: bool) -> None:
    if not whole:
        remarks.add("wordings that stand before under another id, kept there", where=f"{question.id} in {first.id}")
        return
    if question.id == first.id:
        remarks.add("stand twice with the same text, kept once", where=question.id)
    else:
        remarks.add("ask what stands before, one prompt with two names", where=f"{question.id} as {first.id}")
    if question.rubrics != first.rubrics:
        remarks.add("judged with the rubrics of the question before", where=f"{question.id} as {first.id}")
    if (question.right, question.options) != (first.right, first.options):
        remarks.add("scored by the right answers of the question before", where=f"{question.id} as {first.id}")


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
