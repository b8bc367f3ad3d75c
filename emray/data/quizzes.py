"""Quizzes made concrete: which cells are asked which of their questions, and by what each answer is scored.

Not for scoring (marks/, probes/option_odds.py). The invariant: a quiz that plan.json holds says all that scoring and
reducing need of it, so that neither opens its files again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

from emray.data.prompts import make_prompts
from emray.data.questionnaire import Questionnaire
from emray.data.questions import Question, load_questions
from emray.errors import DataError
from emray.records import (
    NO_DOMAIN,
    Arm,
    Cell,
    Condition,
    Prompt,
    key_of,
    mark_keys,
    scoring_key,
    series_keys,
    series_under,
)
from emray.scorers import is_number
from emray.spec import Crossing, QuizSpec, Sweep

CHOICE = "choice"  # the way of scoring that draws no answers


class Scoring(NamedTuple):
    """What an answer is scored by."""

    key: str
    score: Mapping[str, Any]  # {way: its fields}, a function with the digest of its source
    wording: str
    right: tuple[str, ...]


class QuizAnswers(NamedTuple):
    """The keys of one cell's answers to one prompt of a quiz, and of their marks."""

    cell: Cell
    prompt: Prompt
    generations: tuple[str, ...]
    marks: list[str]


@dataclass(frozen=True)
class Quiz:
    """One quiz of a plan."""

    name: str
    score: Mapping[str, Any]
    questions: tuple[Question, ...]
    arms: tuple[Arm, ...]
    conditions: tuple[Condition, ...] | None  # None: all that an arm meets
    own_domain: bool
    samples: int

    @property
    def is_choice(self) -> bool:
        return CHOICE in self.score

    def prompts(self, arm: Arm, crossing: Crossing) -> tuple[Prompt, ...]:
        """What an arm is asked; of a quiz with `own_domain`, by whatever domain."""
        met = crossing.framings(arm).items()
        framings = {one: framing for one, framing in met if self.conditions is None or one in self.conditions}
        return make_prompts(self.questions, framings=framings) if arm in self.arms else ()

    def domains(self, cell: Cell) -> frozenset[str | None]:
        """Of a quiz with `own_domain`: whose questions a cell is asked."""
        return frozenset(q.domain for q in self.questions if cell.domain in (q.domain, NO_DOMAIN))

    def asked(self, cells: Sequence[Cell], crossing: Crossing) -> Iterator[tuple[Cell, tuple[Prompt, ...]]]:
        """Every cell that is asked anything, with its prompts."""
        by_arm = {arm: self.prompts(arm, crossing) for arm in self.arms}
        domain_of = {question.id: question.domain for question in self.questions}
        for cell in cells:
            prompts = by_arm.get(cell.arm, ())
            if self.own_domain:
                whose = self.domains(cell)
                prompts = tuple(prompt for prompt in prompts if domain_of[prompt.question_id] in whose)
            if prompts:
                yield cell, prompts

    def answers(
        self, cells: Sequence[Cell], crossing: Crossing, *, sampling: Mapping[str, Any]
    ) -> Iterator[QuizAnswers]:
        """The keys of everything that is drawn for it, by cell and prompt; nothing for a choice."""
        series_of, scorings = series_under(sampling), dict[Prompt, str]()
        for cell, prompts in () if self.is_choice else self.asked(cells, crossing):
            for prompt in prompts:
                scoring = scorings.get(prompt) or scorings.setdefault(prompt, self.scoring(prompt).key)
                generations = series_keys(series_of(cell.key, prompt.key), samples=range(self.samples))
                yield QuizAnswers(cell, prompt, generations, mark_keys(generations, scoring=scoring))

    @property
    def is_per_token(self) -> bool:
        """Of a choice: whether options are compared by a token's odds on average."""
        return bool(self.score[CHOICE]["per_token"])

    def options(self, prompt: Prompt) -> tuple[str, ...]:
        return self._by_id[prompt.question_id].options

    def choice_key(self, cell: Cell, prompts: Sequence[Prompt]) -> str:
        """Of the measurement of a cell's odds; whether they are taken per token, and what is right, is not in it."""
        return key_of(CHOICE, [cell.key, [[prompt.key, list(self.options(prompt))] for prompt in prompts]])

    def scoring(self, prompt: Prompt) -> Scoring:
        question = self._by_id[prompt.question_id]
        wording = question.paraphrases[prompt.paraphrase]
        return Scoring(
            scoring_key(self.score, wording=wording, right=question.right), self.score, wording, question.right
        )

    @cached_property
    def _by_id(self) -> Mapping[str, Question]:
        return {question.id: question for question in self.questions}

    def questionnaires(self, cells: Sequence[Cell], crossing: Crossing) -> tuple[Questionnaire, ...]:
        """What is drawn for it; one for all cells that are asked the same. Nothing for a choice."""
        alike: dict[tuple[Prompt, ...], list[Cell]] = {}
        for cell, prompts in () if self.is_choice else self.asked(cells, crossing):
            alike.setdefault(prompts, []).append(cell)
        return tuple(
            Questionnaire(f"quiz {self.name}", tuple(some), self.questions, prompts, self.samples)
            for prompts, some in alike.items()
        )

    @property
    def document(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return {
            "name": self.name,
            "score": dict(self.score),
            "questions": [question.document for question in self.questions],
            "arms": list(map(str, self.arms)),
            "conditions": None if self.conditions is None else list(map(str, self.conditions)),
            "own_domain": self.own_domain,
            "samples": self.samples,
        }

    @classmethod
    def from_document(cls, fields: Mapping[str, Any]) -> Self:
        """Raises KeyError or ValueError for what `document` did not write."""
        conditions = fields["conditions"]
        return cls(
            fields["name"],
            fields["score"],
            tuple(map(Question.from_document, fields["questions"])),
            tuple(map(Arm, fields["arms"])),
            None if conditions is None else tuple(map(Condition, conditions)),
            fields["own_domain"],
            fields["samples"],
        )


class QuizSet(NamedTuple):
    """The quizzes of a plan, what is asked for them, and what was repaired in their files."""

    quizzes: tuple[Quiz, ...] = ()
    questionnaires: tuple[Questionnaire, ...] = ()
    prompts: tuple[Prompt, ...] = ()  # also those of choices, of which nothing is drawn
    notes: tuple[str, ...] = ()


def plan_quizzes(sweep: Sweep, *, cells: Sequence[Cell], digests: Mapping[str, str]) -> QuizSet:
    """Open the files of every quiz and say which cells are asked what; `digests` are of functions' sources, by quiz.

    Raises DataError for a question that cannot be scored so, and for a domain that its own questions are missing of.
    """
    quizzes: list[Quiz] = []
    notes: list[str] = []
    for name, spec in sweep.quizzes.items():
        found = load_questions(spec.questions, quiz=True)
        _refuse_unscorable(name, spec, found.questions)
        quizzes.append(_quiz(name, spec, found.questions, sweep, source=digests.get(name)))
        notes.extend(f"quiz {name}: {note}" for note in found.notes)
    crossing = sweep.crossing()
    questionnaires = [asked for quiz in quizzes for asked in quiz.questionnaires(cells, crossing)]
    prompts = {prompt for quiz in quizzes for arm in quiz.arms for prompt in quiz.prompts(arm, crossing)}
    return QuizSet(tuple(quizzes), tuple(questionnaires), tuple(sorted(prompts, key=lambda one: one.key)), tuple(notes))


def _quiz(name: str, spec: QuizSpec, questions: Sequence[Question], sweep: Sweep, *, source: str | None) -> Quiz:
    if spec.own_domain:
        names = [domain.name for domain in sweep.domains]
        lacking = [domain for domain in names if domain not in {question.domain for question in questions}]
        if lacking:
            raise DataError(
                f"quizzes.{name}: own_domain, and no question of its files has `domain: {lacking[0]}`; write some"
            )
        questions = [question for question in questions if question.domain in names]
    score = spec.score.identity() | ({"source": source} if source else {})
    arms = tuple(spec.arms or sweep.crossing().recipes)
    conditions = tuple(spec.conditions) if spec.conditions else None
    kept = tuple(replace(question, options=question.options if spec.score.choice else ()) for question in questions)
    return Quiz(name, score, kept, arms, conditions, spec.own_domain, 1 if spec.score.choice else spec.samples)


def _refuse_unscorable(name: str, spec: QuizSpec, questions: Sequence[Question]) -> None:
    for question in questions:
        place = f"quizzes.{name}: question {question.id}"
        if spec.score.needs_answers and not question.right:
            raise DataError(f"{place} does not say what is right, which score {spec.score.way} needs; add answer: TEXT")
        if spec.score.choice and not question.options:
            raise DataError(
                f"{place} has no options, which score choice needs; add options: [...], the right one among"
            )
        if wrong := [one for one in question.right if spec.score.number and not is_number(one)]:
            raise DataError(f"{place}: its right answer {wrong[0]!r:.60} is no number, which score number needs")
