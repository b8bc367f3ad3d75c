"""What has to be marked: every (answer, scoring) of a quiz that the store has no mark for.

Not for scoring (marking.py). The invariant: it only reads, part by part, and an answer that failed has no mark.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from emray.data import Quiz, Scoring
from emray.plan import Plan
from emray.records import Cell, mark_keys, prompt_text
from emray.store import Keys, Kind, Store

_ANSWERS = ["key", "prompt", "answer"]


class MarkScheme(NamedTuple):
    """How the answers of one quiz are marked."""

    quiz: str
    marks: Keys  # all that are wanted of it
    scorings: Mapping[str, Scoring]  # by the text of the prompt
    time_limit_s: float
    folders: tuple[str, ...]  # where a function's module is looked for first

    @classmethod
    def of(cls, quiz: Quiz, *, plan: Plan, cells: Sequence[Cell]) -> Self:
        """Of these cells' answers to a quiz of the plan."""
        crossing, sampling = plan.sweep.crossing(), plan.sweep.generate.identity()
        scorings: dict[str, Scoring] = {}

        def keys() -> Iterator[pa.Array]:
            for answers in quiz.answers(cells, crossing, sampling=sampling):
                if (text := prompt_text(answers.prompt.messages)) not in scorings:
                    scorings[text] = quiz.scoring(answers.prompt)
                yield pa.array(answers.marks, pa.string())

        wanted, limit_s = Keys.of_columns(keys()), plan.sweep.quizzes[quiz.name].time_limit_s
        return cls(quiz.name, wanted, scorings, limit_s, plan.folders)


class MarkTask(NamedTuple):
    """One mark that is wanted."""

    key: str
    generation: str
    answer: str
    scoring: Scoring
    scheme: int  # place among the schemes


class Unmarked:
    """The tasks without a mark: read again whenever they are walked."""

    def __init__(self, store: Store, schemes: Sequence[MarkScheme]) -> None:
        self._store, self._schemes = store, schemes

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[MarkTask]:
        if not self._schemes:
            return
        there = self._store.keys(Kind.MARKS)
        for whole in self._store.iter_parts(Kind.GENERATIONS, columns=_ANSWERS):
            part = whole.filter(pc.is_valid(whole["answer"]))
            for number, scheme in enumerate(self._schemes):
                tasks = list(_tasks(part, scheme, number))
                if tasks:
                    keys = [task.key for task in tasks]
                    lacking = scheme.marks.has(keys) & ~there.has(keys)
                    yield from (task for task, absent in zip(tasks, lacking, strict=True) if absent)


def _tasks(part: pa.Table, scheme: MarkScheme, number: int) -> Iterator[MarkTask]:
    """Of the answers of a part, those to questions that the scheme is for, whoever gave them."""
    asked = pc.is_in(part["prompt"], value_set=pa.array(list(scheme.scorings), pa.string()))
    for row in part.filter(asked).to_pylist():
        scoring = scheme.scorings[row["prompt"]]
        (key,) = mark_keys([row["key"]], scoring=scoring.key)
        yield MarkTask(key, row["key"], row["answer"], scoring, number)
