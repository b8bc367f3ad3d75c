"""Diversity as words show it: n-grams, types, compressibility, repeats; and vectors of words for a kernel.

No model, no download. Not for meaning (embeddings.py). The invariant: a measure is of the texts as a set, whatever
their order, but for compression, which joins them as given.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from emray.stats.arrays import Floats

WINDOW = 50  # words of the moving window of types
_BUCKETS = 4096  # of hashed n-grams
_WORD = re.compile(r"\w+|[^\w\s]")


class Lexical(NamedTuple):
    """What the words of a set of texts say of its diversity; higher is more diverse but for `compression`."""

    distinct_1: float  # different words over words (Li et al. 2016); falls with the number of texts
    distinct_2: float
    distinct_3: float
    moving_types: float  # types over words in a moving window (Covington and McFall 2010): of any length
    compression: float  # bytes over compressed bytes (Shaib et al. 2024): higher is more repetitive
    unique_texts: float  # different texts over texts
    mean_words: float


def lexical(texts: Sequence[str]) -> Lexical:
    """The measures of these texts; NaN where there is no word, or no run of so many."""
    words = [words_of(text) for text in texts]
    joined = "\n".join(texts).encode()
    compression = len(joined) / len(zlib.compress(joined, 9)) if joined else math.nan
    unique = len(set(texts)) / len(texts) if texts else math.nan
    mean_words = sum(map(len, words)) / len(words) if words else math.nan
    one, two, three = (distinct(words, length=n) for n in (1, 2, 3))
    return Lexical(one, two, three, _moving(words), compression, unique, mean_words)


def words_of(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


def distinct(texts: Sequence[Sequence[str]], *, length: int) -> float:
    """Different n-grams over n-grams, none across texts."""
    grams = [tuple(words[at : at + length]) for words in texts for at in range(len(words) - length + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _moving(texts: Sequence[Sequence[str]]) -> float:
    """Mean share of types in all windows of the words one after another; in all of them where they are fewer."""
    words = [word for text in texts for word in text]
    if not words:
        return math.nan
    width = min(WINDOW, len(words))
    inside = Counter(words[:width])
    types = [len(inside)]
    for leaving, entering in zip(words, words[width:], strict=False):
        inside[entering] += 1
        inside[leaving] -= 1
        if not inside[leaving]:
            del inside[leaving]
        types.append(len(inside))
    return sum(types) / len(types) / width


def word_vectors(texts: Sequence[str]) -> Floats:
    """Unit vectors [n, d] of words and pairs of words: tf-idf, hashed to at most 4096 columns, those in use kept.

    tf is 1 + log(count), idf is log((1 + n) / (1 + texts with it)) + 1. A text without a word gets zeros.
    """
    grams = [Counter(_buckets(words_of(text))) for text in texts]
    spread = Counter(bucket for counts in grams for bucket in counts)
    column = {bucket: number for number, bucket in enumerate(sorted(spread))}
    vectors = np.zeros((len(texts), len(column)))
    for row, counts in zip(vectors, grams, strict=True):
        for bucket, count in counts.items():
            rarity = math.log((1 + len(texts)) / (1 + spread[bucket])) + 1
            row[column[bucket]] = (1 + math.log(count)) * rarity
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def _buckets(words: Sequence[str]) -> list[int]:
    grams = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    return [zlib.crc32(gram.encode()) % _BUCKETS for gram in grams]
