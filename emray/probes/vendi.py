"""How many different texts there are in effect: the Vendi score, and the mean distance of two texts.

Of any unit vectors; the kernel is their plain cosine. Not for making vectors (embeddings.py). The invariant: identical
texts score 1, n orthogonal ones n, and no text gives NaN.
"""

import math
from collections.abc import Sequence

import numpy as np

from emray.stats.arrays import Floats

ORDERS = (0.5, 1.0, 2.0)  # Renyi orders: below 1 rare texts weigh more, above 1 common ones


def vendi(units_nd: Floats, *, orders: Sequence[float] = ORDERS) -> dict[float, float]:
    """exp of the Renyi entropy, at each order, of the eigenvalues of K / n, K = X X^T (Friedman and Dieng 2023).

    X holds unit vectors [n, d]; the smaller of X X^T and X^T X has the same eigenvalues.
    """
    num_texts = len(units_nd)
    if not num_texts:
        return dict.fromkeys(orders, math.nan)
    gram = units_nd @ units_nd.T if num_texts <= units_nd.shape[1] else units_nd.T @ units_nd
    shares = np.linalg.eigvalsh(gram / num_texts)
    shares = shares[shares > 1e-12 * shares[-1]]  # what is 0 comes out as rounding
    shares /= shares.sum()
    return {order: _effective_number(shares, order) for order in orders}


def _effective_number(shares: Floats, order: float) -> float:
    """Hill number (1973) of shares that sum to 1."""
    if order == 1:
        return float(np.exp(-(shares * np.log(shares)).sum()))
    return float((shares**order).sum() ** (1 / (1 - order)))


def mean_distance(units_nd: Floats) -> float:
    """Mean of 1 - cosine over all pairs of different texts; NaN for fewer than two."""
    num_texts = len(units_nd)
    if num_texts < 2:
        return math.nan
    total = float((units_nd.sum(axis=0) ** 2).sum()) - float((units_nd**2).sum())
    return 1 - total / (num_texts * (num_texts - 1))
