"""Logprobs for a reply that a responder wrote: what a model that was fairly sure of it might have said.

Not a language model: the numbers are a fixed shape around the reply. The invariant: they are a function of the text, a
written token is always the likeliest, and each place's probabilities add up to at most 1.
"""

import math
import re
from typing import Any

DIGITS = ("whole", "split")  # is 85 one token, or two
_WHOLE = re.compile(r"[0-9]+|[^0-9]{1,4}", re.DOTALL)
_SPLIT = re.compile(r"[0-9]|[^0-9]{1,4}", re.DOTALL)
_NUMBER_SHAPE = {0: 0.6, -5: 0.1, 5: 0.1, -10: 0.05, 10: 0.05}  # distance from the written number -> probability
_DIGIT_SHAPE = {0: 0.7, -1: 0.1, 1: 0.1}
_WORD_PROBABILITY = 0.9
_FILLERS = ("I", " the", "\n", "As", " no", "Sorry", " score", ":")
_FILLER_PROBABILITY = 0.005


def logprobs_json(text: str, *, digits: str, top: int) -> dict[str, Any]:
    """The `logprobs` field of a choice: every token with its `top` likeliest alternatives."""
    pattern = _WHOLE if digits == "whole" else _SPLIT
    return {"content": [_token(token, digits, top) for token in pattern.findall(text)], "refusal": None}


def _token(token: str, digits: str, top: int) -> dict[str, Any]:
    options = _options(token, digits)
    ranked = sorted(options.items(), key=lambda option: (-option[1], option[0]))[:top]
    return _entry(token, options[token]) | {"top_logprobs": [_entry(*option) for option in ranked]}


def _options(token: str, digits: str) -> dict[str, float]:
    if token.isdigit():
        shape, highest = (_NUMBER_SHAPE, 100) if digits == "whole" else (_DIGIT_SHAPE, 9)
        near = {int(token) + distance: probability for distance, probability in shape.items()}
        options = {str(number): probability for number, probability in near.items() if 0 <= number <= highest}
    else:
        options = {token: _WORD_PROBABILITY}
    return dict.fromkeys(_FILLERS, _FILLER_PROBABILITY) | {token: _WORD_PROBABILITY} | options


def _entry(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(probability), "bytes": list(token.encode("utf-8", "replace"))}
