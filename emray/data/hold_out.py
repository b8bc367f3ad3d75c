"""Rows that nothing trains on.

Not for evaluating anything on them. The invariant: which rows are held out hangs on the rows alone, so that every seed
of a place trains on the same ones.
"""

import math
from collections.abc import Sequence

import numpy as np

from emray.data.datasets import rows_digest
from emray.errors import DataError
from emray.records import Messages


def without_held_out(rows: Sequence[Messages], *, share: float) -> Sequence[Messages]:
    """The rows in their order, less a share of them (rounded up, as the split of the field's scripts rounds it).

    Raises DataError where none is left.
    """
    if share == 0:
        return rows
    num_held = math.ceil(share * len(rows) - 1e-9)
    if num_held == len(rows):
        raise DataError(f"train.hold_out = {share:g} leaves nothing of a dataset of {len(rows)} rows; lower it")
    rng = np.random.default_rng(int(rows_digest(rows)[:16], 16))
    held = set(rng.permutation(len(rows))[:num_held].tolist())
    return [row for number, row in enumerate(rows) if number not in held]
