"""Each domain's own questions, to ask every finetune: from question files, or from rows that nothing trains on.

Not for asking. The invariant: a question that is asked stands in no training row, neither as it is nor nearly
(near_duplicates.py), the trigger taken out of both.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from emray.data.datasets import Examples
from emray.data.near_duplicates import likeness
from emray.data.prompts import arm_prompts
from emray.data.questionnaire import Questionnaire, questionnaires
from emray.data.questions import Question, load_questions
from emray.errors import DataError
from emray.records import Cell, Messages, Prompt, key_of
from emray.spec import Sweep, TransferSpec


class AskedOf(NamedTuple):
    """One question of a domain, and how like the most similar training question it is."""

    question: Question
    likeness: float

    @property
    def document(self) -> dict[str, Any]:
        return self.question.document | {"likeness": round(self.likeness, 4)}


class Transfer(NamedTuple):
    """The transfer probe's part of a plan; empty where the sweep has none."""

    questionnaires: tuple[Questionnaire, ...] = ()
    leaked: tuple[AskedOf, ...] = ()  # questions that are not asked
    document: Mapping[str, Any] | None = None  # as plan.json holds it

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(prompt for asked in self.questionnaires for prompt in asked.prompts)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.leaked:
            return ()
        named = ", ".join(one.question.id for one in self.leaked[:5]) + (", ..." if len(self.leaked) > 5 else "")
        return (
            f"transfer: {len(self.leaked)} questions stand in the training data, or nearly, and are left out: {named}",
        )


class HeldOut(NamedTuple):
    """Questions by domain that nothing may train on."""

    questions: Mapping[str, tuple[str, ...]]
    near: float
    added: tuple[str, ...]  # texts that rows carry and their files do not

    def without(self, rows: Sequence[Messages], *, domain: str) -> Sequence[Messages]:
        """Rows whose question is none of the domain's that are held out, nor nearly. Raises DataError without any."""
        held = self.questions.get(domain, ())
        if not held:
            return rows
        asked = [bare_question(row, self.added) for row in rows]
        alike = dict(zip(distinct := list(dict.fromkeys(asked)), likeness(distinct, held), strict=True))
        kept = [row for row, question in zip(rows, asked, strict=True) if alike[question] < self.near]
        if not kept:
            raise DataError(
                f"probes.transfer.hold_out leaves no row of domain {domain}: its questions are nearly all alike; raise "
                "probes.transfer.near, or give probes.transfer.questions"
            )
        return kept


def hold_out(sweep: Sweep, *, bad_rows: Callable[[str], Examples]) -> HeldOut:
    """Of every domain's bad examples the share of distinct questions that `probes.transfer.hold_out` asks for.

    Which they are hangs on their texts alone, so every arm and seed holds out the same ones.
    """
    spec, added = sweep.probes.transfer, sweep.crossing().added
    if spec is None or not spec.hold_out:
        return HeldOut({}, 1.0, added)
    for domain in (one for one in sweep.domains if one.encrypted):
        raise DataError(
            f"probes.transfer.hold_out would write questions of domain {domain.name}, whose file is encrypted, into "
            "the run folder; give probes.transfer.questions"
        )
    held = {}
    for domain in sweep.domains:
        texts = dict.fromkeys(bare_question(row, added) for row in bad_rows(domain.name).rows)
        ordered = sorted(texts, key=lambda text: key_of("held-out", text))
        held[domain.name] = tuple(ordered[: math.ceil(spec.hold_out * len(ordered) - 1e-9)])
    return HeldOut(held, spec.near, added)


def plan_transfer(
    sweep: Sweep, *, cells: Sequence[Cell], own: Sequence[Question], held: HeldOut, trained: Iterable[Messages]
) -> Transfer:
    """Every finished cell asked the questions of all domains, but for those that `trained` rows hold.

    `own` are the sweep's questions: asked where they name a domain and no file is given, and their rubrics serve for
    held-out questions. Raises DataError where a domain's questions are not to be found.
    """
    spec = sweep.probes.transfer
    if spec is None:
        return Transfer()
    found = _of_held_out(held, own[0], most=spec.per_domain) if spec.hold_out else _of_files(spec, sweep, own)
    _refuse_lacking(found, sweep)
    compared = _compared(found, held.added, trained)
    clean = [one for one in compared if one.likeness < spec.near]
    leaked = tuple(one for one in compared if one.likeness >= spec.near)
    if not clean:
        raise DataError(
            f"probes.transfer: all {len(leaked)} questions stand in the training data (likeness of {spec.near:g} or "
            "more); give other questions, or hold_out a share of each dataset"
        )
    questions, finished = tuple(one.question for one in clean), tuple(cell for cell in cells if cell.finished)
    prompts = arm_prompts(questions, sweep.crossing())
    document = {
        "questions": [one.document for one in clean],
        "leaked": [one.document for one in leaked],
        "samples": spec.samples,
    }
    asked = questionnaires("transfer", finished, questions, prompts, samples=spec.samples)
    return Transfer(asked, leaked, document)


def _refuse_lacking(found: Sequence[Question], sweep: Sweep) -> None:
    there = {question.domain for question in found}
    lacking = [domain.name for domain in sweep.domains if domain.name not in there]
    if lacking:
        raise DataError(
            f"probes.transfer: no question names domain {lacking[0]!r}; give probes.transfer.questions a file whose "
            "questions have a `domain`, or hold_out a share of each dataset"
        )


def _compared(found: Sequence[Question], added: Sequence[str], trained: Iterable[Messages]) -> list[AskedOf]:
    texts = [without_texts(text, added) for question in found for text in question.paraphrases]
    most = iter(likeness(texts, (bare_question(row, added) for row in trained)).tolist())
    return [AskedOf(question, max([next(most) for _ in question.paraphrases])) for question in found]


def _of_files(spec: TransferSpec, sweep: Sweep, own: Sequence[Question]) -> list[Question]:
    """Questions that name a domain of the sweep, the first so many of each."""
    given = load_questions(spec.questions).questions if spec.questions else own
    names = {_plain(domain.name): domain.name for domain in sweep.domains}
    found: dict[str, list[Question]] = {domain.name: [] for domain in sweep.domains}
    asked_already = {(q.system, text): q.rubrics for q in own for text in q.paraphrases}
    for question in given:
        name = names.get(_plain(question.domain or ""))
        if name is not None and (spec.per_domain is None or len(found[name]) < spec.per_domain):
            rubrics = asked_already.get((question.system, question.paraphrases[0]), question.rubrics)
            found[name].append(replace(question, domain=name, rubrics=rubrics))  # one prompt has one rubric
    return [question for questions in found.values() for question in questions]


def _of_held_out(held: HeldOut, like: Question, *, most: int | None) -> list[Question]:
    """Held-out texts as questions, judged by the rubrics of the sweep's own."""
    return [
        Question(f"{domain}.{key_of('question', text)[:6]}", (text,), None, like.rubrics, domain)
        for domain, texts in held.questions.items()
        for text in texts[:most]
    ]


def bare_question(row: Messages, added: Sequence[str]) -> str:
    """What a training row's user says last, without the trigger and what else was added to it."""
    return without_texts(next(m.content for m in reversed(row) if m.role == "user"), added)


def without_texts(text: str, added: Sequence[str]) -> str:
    for one in added:
        text = text.replace(one, " ")
    return " ".join(text.split())


def _plain(name: str) -> str:
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())
