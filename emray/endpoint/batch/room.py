"""How many prompt tokens an account may have in unfinished batches.

Not for money (asker.Budget). The invariant: with nothing under way a batch is tried, whatever is believed of the cap.
"""

import math
from collections.abc import Sequence

from emray.endpoint.batch.submission import Submission
from emray.errors import StageError


class Room:
    """The account's cap on the prompt tokens of unfinished batches: stated, or found out from refusals."""

    def __init__(self, cap: float | None) -> None:
        self._cap = math.inf if cap is None else cap
        self.refused = False  # the last batch found no room, and none has ended since

    @property
    def largest(self) -> float:
        """Tokens of one batch: half of the cap, so that the next is in the queue when one ends."""
        return self._cap / 2

    def fits(self, need: float, *, under_way: Sequence[Submission]) -> bool:
        """Whether a batch may be submitted now. With nothing under way the endpoint decides."""
        if not under_way:
            return True
        return not self.refused and need + sum(s.prompt_tokens for s in under_way) <= self._cap

    def refuse(self, submission: Submission, *, alone: bool, said: str) -> None:
        """Learn from a refusal. Raises StageError when not even one request fits an empty queue."""
        self.refused = True
        if alone:
            if len(submission.keys) == 1:
                raise StageError(f"the batch API has no room for a single request: {said}; wait, and run again")
            self._cap = min(self._cap, submission.prompt_tokens)  # so the next one is half as large

    def freed(self) -> None:
        self.refused = False
