"""Chat examples as rows of token ids, cut to a length, with the trained span marked.

Not for rendering (model/chat.py) or for deciding which examples share a step (packing.py). The invariant: cutting
never removes a token that is trained on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from emray.errors import DataError
from emray.model.chat import Chat
from emray.records import Messages

MIN_PROMPT_TOKENS = 8  # what is left of a prompt whose answer alone fills max_length: the generation header


class TokenRow(NamedTuple):
    """One example: token ids [T] and where the trained span starts (1 <= start < T)."""

    ids: np.ndarray
    start: int


class TokenRows(NamedTuple):
    """A tokenised dataset and how many of its examples lost the start of their prompt."""

    rows: tuple[TokenRow, ...]
    num_overlong: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, [N]."""
        return np.array([len(row.ids) for row in self.rows])


def tokenise(examples: Sequence[Messages], *, chat: Chat, max_length: int) -> TokenRows:
    """Token ids of every example, cut to `max_length` from the left of the prompt, never the answer.

    An answer longer than `max_length` is kept whole. Raises DataError naming the row (1 is the first) for a row that
    cannot be rendered or has no trainable token, or whose answer exceeds the model's context.
    """
    whole = [TokenRow(np.array(ids, dtype=np.int64), start) for ids, start in chat.mark(examples)]
    cut = [_cut(row, max_length=max_length) for row in whole]
    for number, row in enumerate(cut, 1):
        if len(row.ids) > chat.context:
            raise DataError(
                f"training row {number}: the answer needs {len(row.ids)} tokens, the model takes {chat.context}"
            )
    return TokenRows(tuple(cut), sum(len(a.ids) > len(b.ids) for a, b in zip(whole, cut, strict=True)))


def _cut(row: TokenRow, *, max_length: int) -> TokenRow:
    num_answer = len(row.ids) - row.start
    num_prompt = min(row.start, max(max_length - num_answer, MIN_PROMPT_TOKENS))
    return TokenRow(row.ids[row.start - num_prompt :], num_prompt)
