"""What a rule makes of one answer: right, wrong, a fraction, nothing to score, or an error.

    rules.py     exact, number: arithmetic on texts
    hand.py      patterns and functions: in a process of their own, with a time limit
    process.py   that process

Not for tables or keys (marks/), nor for the odds of options (probes/choices.py). The invariant: a score hangs on the
answer, the question, what is right and the way of scoring alone.
"""

from emray.scorers.hand import Hand, source_digest
from emray.scorers.rules import Mark, exact, is_number, number

__all__ = ["Hand", "Mark", "exact", "is_number", "number", "source_digest"]
