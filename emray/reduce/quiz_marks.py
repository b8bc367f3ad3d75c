"""The marks of a quiz, read back from the store: counts per cell, condition and question.

Not for what is made of them (change_rows.py). Invariant: a mark counts once, and only if the plan asks for it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.data import Quiz
from emray.records import MarkOutcome
from emray.reduce.fractions import FractionCells
from emray.reduce.judged import integers
from emray.reduce.study import Prompted, Study
from emray.reduce.wanted import Wanted, key_numbers
from emray.stats.arrays import Floats, Ints
from emray.store import Kind, Store

_STATES = [str(outcome) for outcome in MarkOutcome]
SCORED, UNREADABLE, ERROR = range(len(_STATES))
MISSING = len(_STATES)


@dataclass(frozen=True)
class QuizResults:
    """A quiz with what came of each of its answers, or of each of its choices."""

    study: Study
    quiz: Quiz
    group: Ints  # of every wanted mark, its cell x condition x question
    state: NDArray[np.int8]
    score: Floats  # 0 but for what is scored

    @property
    def name(self) -> str:
        return self.quiz.name

    @cached_property
    def is_rate(self) -> bool:
        return bool(np.isin(self.score, (0.0, 1.0)).all())

    def cells(self, one: Prompted) -> FractionCells | None:
        """None where the place is not asked."""
        study, questions = self.study, [question.id for question in self.quiz.questions]
        cells = np.array(study.places[one.place], dtype=np.int64)
        first = (cells * len(study.conditions) + study.conditions.index(one.condition)) * len(questions)
        groups = first[:, None] + np.arange(len(questions))
        asked_of = self._asked[groups].any(axis=0)
        if not asked_of.any():
            return None
        mine = groups[:, asked_of]
        seeds = tuple(study.cells[index].seed for index in study.places[one.place])
        names = tuple(questions[number] for number in np.flatnonzero(asked_of))
        return FractionCells(
            seeds,
            names,
            self._sum(self.score)[mine],
            self._sum(self.score**2)[mine],
            self._count(SCORED)[mine] + self._count(UNREADABLE)[mine],
            self._count(UNREADABLE)[mine],
            self._count(ERROR)[mine],
            self._asked[mine],
        )

    @cached_property
    def _asked(self) -> Ints:
        return np.bincount(self.group, minlength=self._num_groups)

    @property
    def _num_groups(self) -> int:
        return len(self.study.cells) * len(self.study.conditions) * len(self.quiz.questions)

    def _sum(self, values: Floats) -> Floats:
        return np.bincount(self.group, weights=values, minlength=self._num_groups).astype(float)

    def _count(self, state: int) -> Ints:
        return np.bincount(self.group[self.state == state], minlength=self._num_groups)


def read_marks(store: Store, study: Study) -> list[QuizResults]:
    """Of every quiz of the plan that draws answers, in one pass over the marks."""
    quizzes = [quiz for quiz in study.quizzes if not quiz.is_choice]
    wanted = [_wanted(study, quiz) for quiz in quizzes]
    states = [np.full(len(one.number), MISSING, dtype=np.int8) for one in wanted]
    scores = [np.zeros(len(one.number)) for one in wanted]
    for part in store.iter_parts(Kind.MARKS, columns=["key", "outcome", "score"]) if quizzes else ():
        outcome = integers(pc.index_in(part["outcome"], value_set=pa.array(_STATES)), missing=ERROR)
        score = np.asarray(pc.fill_null(part["score"], 0.0).to_numpy(), dtype=float)
        for one, state, mine in zip(wanted, states, scores, strict=True):
            position, found = one.find(part["key"])
            state[position[found]], mine[position[found]] = outcome[found], score[found]
    return [
        QuizResults(study, quiz, one.group, state, score)
        for quiz, one, state, score in zip(quizzes, wanted, states, scores, strict=True)
    ]


def _wanted(study: Study, quiz: Quiz) -> Wanted:
    keys: list[str] = []
    groups: list[tuple[int, int]] = []  # of how many keys
    place = {study.cells[index].key: index for cells in study.places.values() for index in cells}
    order = {question.id: number for number, question in enumerate(quiz.questions)}
    cells, sampling = [study.cells[index] for index in place.values()], study.sweep.generate.identity()
    for cell, prompt, _, marks in quiz.answers(cells, study.crossing, sampling=sampling):
        condition = place[cell.key] * len(study.conditions) + study.conditions.index(prompt.condition)
        groups.append((condition * len(quiz.questions) + order[prompt.question_id], len(marks)))
        keys.extend(marks)
    group, times = (np.array(column, dtype=np.int64) for column in zip(*groups, strict=True)) if groups else _NOTHING
    number = key_numbers(pa.chunked_array([keys], pa.string()))
    return Wanted(number, group=np.repeat(group, times), prompt=np.zeros(len(keys), np.int64))


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))
