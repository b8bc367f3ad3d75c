"""Answers of quizzes to marks: scored by a rule, a pattern or a function, without a judge.

    unmarked.py   what has no mark yet
    marking.py    scoring it and writing rows

Not for a choice, which needs no answer (probes/option_odds.py), nor for what marks mean (reduce/). The invariant: an
answer that is there is marked once by each scoring that is asked for, and a mark never changes an answer.
"""

from emray.marks.marking import run
from emray.marks.unmarked import MarkScheme, MarkTask, Unmarked

__all__ = ["MarkScheme", "MarkTask", "Unmarked", "run"]
