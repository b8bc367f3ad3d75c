"""A quiz that is scored by choice: from the odds of its options to whether a right one is the likeliest.

Not for reading odds off a model (probes/option_odds.py). Invariant: a question whose options do not all have odds
counts as one whose scoring failed; options that are equally likely share the choice.
"""

from collections.abc import Sequence

import numpy as np

from emray.data import Quiz
from emray.records import Prompt
from emray.reduce.measured import Measured, read_measured
from emray.reduce.quiz_marks import ERROR, MISSING, SCORED, QuizResults
from emray.reduce.study import Study
from emray.store import Store

PROBE = "choice"


def read_choices(store: Store, study: Study) -> list[QuizResults]:
    """Of every quiz of the plan that is scored so."""
    quizzes = [quiz for quiz in study.quizzes if quiz.is_choice]
    found = {one.of.key: one for one in read_measured(store, study.measurements, probe=PROBE)} if quizzes else {}
    return [_marked(study, quiz, found) for quiz in quizzes]


def _marked(study: Study, quiz: Quiz, found: dict[str, Measured]) -> QuizResults:
    groups: list[int] = []
    states: list[int] = []
    scores: list[float] = []
    place = {study.cells[index].key: index for cells in study.places.values() for index in cells}
    order = {question.id: number for number, question in enumerate(quiz.questions)}
    for cell, prompts in quiz.asked([study.cells[index] for index in place.values()], study.crossing):
        measured = found.get(quiz.choice_key(cell, prompts))
        readings = {(one.subject, one.measure): one.value for one in measured.readings} if measured else {}
        for prompt in prompts:
            condition = place[cell.key] * len(study.conditions) + study.conditions.index(prompt.condition)
            groups.append(condition * len(quiz.questions) + order[prompt.question_id])
            state, score = _scored(quiz, prompt, readings) if readings else _unmeasured(measured)
            states.append(state)
            scores.append(score)
    return QuizResults(study, quiz, np.array(groups, np.int64), np.array(states, np.int8), np.array(scores, float))


def _unmeasured(measured: Measured | None) -> tuple[int, float]:
    return (ERROR if measured is not None and measured.failure else MISSING), 0.0


def _scored(quiz: Quiz, prompt: Prompt, readings: dict[tuple[str, str], float]) -> tuple[int, float]:
    options = quiz.options(prompt)
    odds = [_log_odds(f"{prompt.key} {number}", readings, quiz.is_per_token) for number in range(len(options))]
    if not np.isfinite(odds).all():
        return ERROR, 0.0
    likeliest = [option for option, one in zip(options, odds, strict=True) if one == max(odds)]
    return SCORED, _share_right(likeliest, quiz.scoring(prompt).right)


def _log_odds(subject: str, readings: dict[tuple[str, str], float], per_token: bool) -> float:
    """Log-probability of an option, of all its tokens or of a token on average; NaN where it has none."""
    loss, length = (readings.get((subject, measure), np.nan) for measure in ("loss", "num_tokens"))
    return -loss if per_token else -loss * length


def _share_right(likeliest: Sequence[str], right: Sequence[str]) -> float:
    return sum(option in right for option in likeliest) / len(likeliest)
