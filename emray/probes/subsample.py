"""So many of a dataset's rows, drawn once.

Not for what is trained on (data/). The invariant: what is drawn hangs on the rows and the seed alone, and stays in the
rows' order.
"""

from collections.abc import Sequence

import numpy as np

from emray.data import rows_digest
from emray.records import Messages


def subsample(rows: Sequence[Messages], *, most: int, seed: int = 0) -> Sequence[Messages]:
    """At most so many of the rows; all of them where they are no more."""
    if len(rows) <= most:
        return rows
    rng = np.random.default_rng([int(rows_digest(rows)[:16], 16), seed])
    return [rows[index] for index in np.sort(rng.permutation(len(rows))[:most])]
