"""What a worker of the membership probe is handed: a model, and rows whose answers it is to score.

Not for scoring (scorer.py). The invariant: plain values, so that any worker can take any piece of work.
"""

from collections.abc import Sequence
from typing import NamedTuple

from emray.model.rows import RowForm
from emray.records import Messages, Rendering

BASE, REFERENCE = "base", "reference"  # stand for an adapter's key where no adapter is scored
MEMBER, OTHER = "member", "other"  # begin the subject of a readout; the row's number follows


class Scored(NamedTuple):
    """A model, and the rows whose answers it is to score."""

    location: str  # of its weights: a folder, or org/name@commit
    adapter: str  # key of the adapter on them; empty: none
    whole: bool  # the adapter's folder holds a whole model
    chat: str  # location of the model whose tokenizer and template render the rows
    rendering: Rendering
    rows: dict[str, Sequence[Messages]]  # MEMBER and OTHER
    form: RowForm
    lowest_share: float
