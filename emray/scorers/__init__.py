"""What a rule makes of one answer: right, wrong, a fraction, nothing to score, or an error.

    arithmetic.py    exact, number
    hand.py          patterns and functions: in a process of their own, with a time limit
    hand_process.py  that process

Not for tables or keys (marks/), nor for the odds of options (probes/option_odds.py). The invariant: a score hangs on
the answer, the question, what is right and the way of scoring alone.
"""

from emray.scorers.arithmetic import GivenMark, exact, is_number, number
from emray.scorers.hand import Hand, source_digest

__all__ = ["GivenMark", "Hand", "exact", "is_number", "number", "source_digest"]
