"""Texts that are others' copies, or nearly: the likeness of texts by the words they share.

Not for meaning: a paraphrase in other words is not found. The invariant: likeness is the Jaccard index of two texts'
sets of words (letters and digits, case aside): 1 for equal sets, 0 without a common word.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_AT_ONCE = 4096  # texts looked through together, so that memory follows the batch


def likeness(texts: Sequence[str], others: Iterable[str]) -> NDArray[np.float64]:
    """Of each text, the highest likeness to any of the others; 0 where there is none."""
    from scipy import sparse

    distinct = list(dict.fromkeys(others))
    places = {word: place for place, word in enumerate(sorted({word for text in texts for word in _words(text)}))}
    mine, best = _table(texts, places), np.zeros(len(texts))
    sizes = np.array([len(_words(text)) for text in texts], dtype=float)
    for start in range(0, len(distinct), _AT_ONCE):
        batch = distinct[start : start + _AT_ONCE]
        common = sparse.csr_array(mine @ _table(batch, places).T).tocoo()
        theirs = np.array([len(_words(text)) for text in batch], dtype=float)
        found = common.data / (sizes[common.row] + theirs[common.col] - common.data)
        np.maximum.at(best, common.row, found)
    return best


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold()))


def _table(texts: Sequence[str], places: dict[str, int]):  # type: ignore[no-untyped-def]  # scipy has no types
    """Which of the known words each text has, [texts, words]."""
    from scipy import sparse

    rows = [[places[word] for word in _words(text) if word in places] for text in texts]
    columns = [place for row in rows for place in row]
    ends = np.cumsum([0, *map(len, rows)])
    return sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), len(places)))
