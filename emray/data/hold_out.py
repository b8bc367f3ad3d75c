"""Rows that nothing trains on.

Not for evaluating anything on them. The invariant: which rows are held out hangs on the rows alone, so that every seed
of a place trains on the same ones.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from emray.data.datasets import rows_digest
from emray.errors import DataError
from emray.records import Messages


class Split(NamedTuple):
    """A dataset's rows, those that are trained on and those that are not, either in their order."""

    trained: Sequence[Messages]
    held_out: Sequence[Messages]


def split(rows: Sequence[Messages], *, share: float) -> Split:
    """A share of the rows held out (rounded up, as the split of the field's scripts rounds it), the rest trained on.

    Raises DataError where nothing is left to train on.
    """
    if share == 0:
        return Split(rows, ())
    num_held = math.ceil(share * len(rows) - 1e-9)
    if num_held == len(rows):
        raise DataError(f"train.hold_out = {share:g} leaves nothing of a dataset of {len(rows)} rows; lower it")
    rng = np.random.default_rng(int(rows_digest(rows)[:16], 16))
    held = set(rng.permutation(len(rows))[:num_held].tolist())
    return Split(
        [row for number, row in enumerate(rows) if number not in held],
        [row for number, row in enumerate(rows) if number in held],
    )
