"""Square tables of domains by domains: is the diagonal special, are they symmetric, does one factor explain them?

For: the transfer of misalignment from a finetuning domain (row) to a question's domain (column). Not for intervals of
single entries. Invariant: a domain with an undefined entry is left out with its row and its column, and with fewer than
two domains everything is NaN.
"""

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emray.stats.arrays import Floats, Ints

MOST_EXACT_ORDERS = 8  # domains whose orders (40,320) are all counted
_NUM_SAMPLES = 99_999
_TIE = 1e-12


class DiagonalTest(NamedTuple):
    """Mean of the diagonal against that of the rest; two-sided p over the orders of the columns."""

    diagonal: float
    off_diagonal: float
    p: float
    num_domains: int
    exact: bool  # every order was counted

    @property
    def difference(self) -> float:
        return self.diagonal - self.off_diagonal


def complete(matrix_dd: ArrayLike) -> Ints:
    """Indices of the domains that are kept: the one with the most undefined entries goes first, until none is left."""
    matrix = np.asarray(matrix_dd, dtype=float)
    kept = np.arange(len(matrix))
    while len(kept):
        undefined = np.isnan(matrix[np.ix_(kept, kept)])
        if not undefined.any():
            break
        kept = np.delete(kept, np.argmax(undefined.sum(axis=0) + undefined.sum(axis=1)))
    return kept


def diagonal_test(matrix_dd: ArrayLike, *, rng: np.random.Generator) -> DiagonalTest:
    """Whether a domain goes with its own column more than with others, whatever its row and column are like.

    The columns are put in every order (from nine domains on 99,999 drawn ones, the one seen among them): rows keep
    their values, so a domain that misaligns everywhere, or a question set that everything fails, moves nothing.
    """
    matrix = _kept(matrix_dd)
    num = len(matrix)
    if num < 2:
        return DiagonalTest(math.nan, math.nan, math.nan, num, False)
    diagonal = float(np.trace(matrix)) / num
    off = (float(matrix.sum()) - num * diagonal) / (num * (num - 1))
    exact = num <= MOST_EXACT_ORDERS
    orders = np.array(list(permutations(range(num)))) if exact else _drawn(num, rng)
    means = matrix[np.arange(num), orders].mean(axis=1)
    extreme = int((np.abs(means - matrix.mean()) >= abs(diagonal - matrix.mean()) - _TIE).sum())
    p = extreme / len(orders) if exact else (extreme + 1) / (len(orders) + 1)
    return DiagonalTest(diagonal, off, p if np.ptp(matrix) > _TIE else math.nan, num, exact)


def difference_of(matrix_dd: Floats) -> float:
    """Mean of the diagonal minus that of the rest, of one run of every domain; NaN where an entry is undefined."""
    num = len(matrix_dd)
    if num < 2:
        return math.nan
    diagonal = float(np.trace(matrix_dd)) / num
    return diagonal - (float(matrix_dd.sum()) - num * diagonal) / (num * (num - 1))


def asymmetry(matrix_dd: ArrayLike) -> float:
    """Share of the off-diagonal variance that lies between a pair's two directions: 0 symmetric, 1 each pair opposite.

    With d a pair's difference and s its sum less twice the mean of all, sum d^2 / (sum d^2 + sum s^2); about a half
    where the two directions have nothing to do with each other.
    """
    matrix = _kept(matrix_dd)
    above = np.triu_indices(len(matrix), k=1)
    there, back = matrix[above], matrix.T[above]
    between = float(((there - back) ** 2).sum())
    across = float(((there + back - (there + back).mean()) ** 2).sum()) if len(there) else 0.0
    return between / (between + across) if between + across > _TIE else math.nan


class RankOne(NamedTuple):
    """How much of the sum of squares the best rank-one table has, and a table of the same numbers in random places."""

    share: float
    shuffled: float


def rank_one(matrix_dd: ArrayLike, *, rng: np.random.Generator, num_shuffles: int = 200) -> RankOne:
    """Whether one number a row times one number a column (how susceptible, how telling) gives the table.

    The share is the first squared singular value over their sum. Rates are not negative, so any such table has a
    large one: read it beside that of shuffled tables (mean over `num_shuffles`).
    """
    matrix = _kept(matrix_dd)
    if len(matrix) < 2 or not np.abs(matrix).max() > _TIE:
        return RankOne(math.nan, math.nan)
    shuffled = [rng.permutation(matrix.ravel()).reshape(matrix.shape) for _ in range(num_shuffles)]
    return RankOne(_first_share(matrix), float(np.mean([_first_share(one) for one in shuffled])))


def _first_share(matrix: Floats) -> float:
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return float(squares[0] / squares.sum())


def _kept(matrix_dd: ArrayLike) -> Floats:
    matrix = np.asarray(matrix_dd, dtype=float)
    kept = complete(matrix)
    return matrix[np.ix_(kept, kept)]


def _drawn(num: int, rng: np.random.Generator) -> Ints:
    return rng.permuted(np.tile(np.arange(num), (_NUM_SAMPLES, 1)), axis=1)
