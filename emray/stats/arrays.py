"""What arrays of numbers are called in signatures.

Not for computing. Invariant: a name says the kind of number; the axes stand in the names of arguments (C cell, S seed,
Q question, D domain, B draw).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
