"""Chat examples as rows of token ids, cut to a length, with the trained span marked.

Not for rendering (model/chat.py) or for deciding which examples share a pass (packing.py). The invariant: what is
cut is told, cutting never removes a token of the answer unless `train.cut` is `end`, and no turn of weight 0 is trained
on: with `train.loss_on: all` training begins after the last one.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np

from emray.errors import DataError
from emray.model.chat import Chat, Marked
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
    whole = chat.mark(examples)
    cut = [_formed(marked, form, number=number) for number, marked in enumerate(whole, 1)]
    for number, row in enumerate(cut, 1):
        if len(row.ids) > chat.context:
            raise DataError(
                f"training row {number}: the answer needs {len(row.ids)} tokens, the model takes {chat.context}"
            )
    return TokenRows(tuple(cut), sum(len(a.ids) > len(b.ids) for a, b in zip(whole, cut, strict=True)))


def _formed(marked: Marked, form: RowForm, *, number: int) -> TokenRow:
    lost = _too_long(marked, max_length=form.max_length) if form.cut == "prompt" else 0
    ids = marked.ids[lost:] if form.cut == "prompt" else marked.ids[: form.max_length]
    first = marked.free if form.loss_on == "all" else marked.start
    row = TokenRow(np.array(ids, dtype=np.int64), max(first - lost, 1))  # nothing predicts the very first token
    if row.start >= len(ids):
        raise DataError(
            f"training row {number}: its prompt alone fills train.max_length ({form.max_length}), and with cut: end "
            "nothing of its answer is left; raise max_length, or cut: prompt"
        )
    return row


def _too_long(marked: Marked, *, max_length: int) -> int:
    """Tokens that a prompt loses at its start, so that the answer stays whole."""
    num_answer = len(marked.ids) - marked.start
    return marked.start - min(marked.start, max(max_length - num_answer, MIN_PROMPT_TOKENS))
