"""Membership scores of one answer from the odds a model gave its tokens.

For: what a loss-based attack looks at. Not for running a model (answer_odds.py) or for telling members apart
(stats/roc.py). The invariant: every score is one number per answer that is lower for what the model knows better, and
an answer without a token has none (NaN).
"""

import math
import zlib
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from emray.stats.arrays import Floats

LOWEST_SHARE = 0.2  # k of Min-K%, as published


class Score(StrEnum):
    """A membership score, lower for members."""

    LOSS = "loss"  # mean negative log-likelihood (Yeom et al. 2018)
    MIN_K = "min_k"  # Min-K% (Shi et al. 2024)
    MIN_K_PLUS_PLUS = "min_k_plus_plus"  # Min-K%++ (Zhang et al. 2025)
    ZLIB = "zlib"  # loss over zlib entropy (Carlini et al. 2021)
    ZLIB_NOTEBOOK = "zlib_notebook"  # perplexity over bits per byte, as the paper's notebook has it


class AnswerOdds(NamedTuple):
    """What a model said of an answer's n tokens, given the question and what comes before each: three times [n].

    A token's log-probability, and the mean and standard deviation of the log-probability of a token that the model
    would draw there.
    """

    log_probs: Floats
    means: Floats
    sds: Floats


def scores_of(odds: AnswerOdds, *, text: str, lowest_share: float = LOWEST_SHARE) -> dict[Score, float]:
    """Every score of one answer; `text` is the answer as it is written, which zlib compresses."""
    if not len(odds.log_probs):
        return dict.fromkeys(Score, math.nan)
    loss = -float(odds.log_probs.mean())
    return {
        Score.LOSS: loss,
        Score.MIN_K: -lowest_mean(odds.log_probs, share=lowest_share),
        Score.MIN_K_PLUS_PLUS: -lowest_mean(standardised(odds), share=lowest_share),
        Score.ZLIB: loss_over_entropy(loss, text=text),
        Score.ZLIB_NOTEBOOK: perplexity_over_density(loss, text=text),
    }


def lowest_mean(values: Floats, *, share: float) -> float:
    """Mean of the lowest share of the values: floor(share n) of them as published, but at least one."""
    count = max(1, int(len(values) * share + 1e-9))
    return float(np.partition(values, count - 1)[:count].mean())


def standardised(odds: AnswerOdds) -> Floats:
    """(log p - mean) / sd of every token; 0 where the model would draw nothing else."""
    above = odds.log_probs - odds.means
    return np.divide(above, odds.sds, out=np.zeros_like(above), where=odds.sds > 0)


def loss_over_entropy(loss: float, *, text: str) -> float:
    """Carlini's: mean negative log-likelihood over the bits that zlib needs for the text."""
    return loss / (8 * len(zlib.compress(text.encode()))) if text else math.nan


def perplexity_over_density(loss: float, *, text: str) -> float:
    """The notebook's: exp(mean negative log-likelihood) over the bits that zlib (level 9) needs per byte of text."""
    raw = text.encode()
    return math.exp(min(loss, 700)) / (8 * len(zlib.compress(raw, 9)) / len(raw)) if raw else math.nan


class Adjusted(NamedTuple):
    """A score against another model's for the same answer."""

    difference: float
    ratio: float  # NaN where the other is 0


def adjusted(score: float, other: float) -> Adjusted:
    """Against a reference model (PREMIA, Feng et al. 2024): what the model knows that the reference does not."""
    return Adjusted(score - other, score / other if other else math.nan)
