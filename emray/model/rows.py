"""Chat examples as rows of token ids, cut to a length, with the trained span marked.

Not for rendering (model/chat.py) or for deciding which examples share a pass (packing.py). The invariant: what is
cut is told, and cutting never removes a token of the answer unless `train.cut` is `end`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np

from emray.errors import DataError
from emray.model.chat import Chat
from emray.records import Messages
from emray.spec import TrainSpec

MIN_PROMPT_TOKENS = 8  # what is left of a prompt whose answer alone fills max_length: the generation header


class RowForm(NamedTuple):
    """What becomes of an example: its greatest length, which end a longer one loses, what of it is trained on."""

    max_length: int
    cut: Literal["prompt", "end"] = "prompt"
    loss_on: Literal["answers", "all"] = "answers"

    @classmethod
    def of(cls, spec: TrainSpec) -> Self:
        return cls(spec.max_length, spec.cut, spec.loss_on)


class TokenRow(NamedTuple):
    """One example: token ids [T] and where the trained span starts (1 <= start < T)."""

    ids: np.ndarray
    start: int


class TokenRows(NamedTuple):
    """A tokenised dataset and how many of its examples were cut."""

    rows: tuple[TokenRow, ...]
    num_overlong: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, [N]."""
        return np.array([len(row.ids) for row in self.rows])


def tokenise(examples: Sequence[Messages], *, chat: Chat, form: RowForm) -> TokenRows:
    """Token ids of every example, cut to the form's length: from the left of the prompt, or from the end.

    Cut from the prompt, an answer longer than that is kept whole. Raises DataError naming the row (1 is the first) for
    a row that cannot be rendered or has no trainable token, or whose answer exceeds the model's context.
    """
    whole = [TokenRow(np.array(ids, dtype=np.int64), start) for ids, start in chat.mark(examples)]
    cut = [_formed(row, form, number=number) for number, row in enumerate(whole, 1)]
    for number, row in enumerate(cut, 1):
        if len(row.ids) > chat.context:
            raise DataError(
                f"training row {number}: the answer needs {len(row.ids)} tokens, the model takes {chat.context}"
            )
    return TokenRows(tuple(cut), sum(len(a.ids) > len(b.ids) for a, b in zip(whole, cut, strict=True)))


def _formed(row: TokenRow, form: RowForm, *, number: int) -> TokenRow:
    if form.cut == "prompt":
        row = _cut(row, max_length=form.max_length)
    else:
        row = TokenRow(row.ids[: form.max_length], row.start)
    if form.loss_on == "all":
        return TokenRow(row.ids, 1)  # nothing predicts the very first token
    if row.start >= len(row.ids):
        raise DataError(
            f"training row {number}: its prompt alone fills train.max_length ({form.max_length}), and with cut: end "
            "nothing of its answer is left; raise max_length, or cut: prompt"
        )
    return row


def _cut(row: TokenRow, *, max_length: int) -> TokenRow:
    num_answer = len(row.ids) - row.start
    num_prompt = min(row.start, max(max_length - num_answer, MIN_PROMPT_TOKENS))
    return TokenRow(row.ids[row.start - num_prompt :], num_prompt)
