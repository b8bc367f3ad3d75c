"""The body of a chat completion, in the dialects of the providers, as a `Reply`.

    content           a text, or a list of parts of which those of type text count; null where nothing was written
    thoughts          message.reasoning or reasoning_content, parts of type thinking or reasoning, and <think> blocks:
                      the first two are kept beside the text, the last in it, for its readers to cut
    refusal           the model declines: kept as its refusal
    an error          beside or instead of choices, or in the choice (finish_reason error): no reply but a failure
    finish_reason     content_filter: a reply, with as much text as there was
    usage             prompt, completion and cached tokens; what is no count below 2**31 is not known

Not for scores (the judge reads those). The invariant: any bytes become a `Reply` whose values files and tables take, or
a `CallFailed`; nothing else is raised.
"""

import math
from collections.abc import Mapping
from typing import Any

from emray.endpoint.refusals import CallFailed, Failure, body_of, error_within, storable
from emray.endpoint.reply import Reply, TokenChoice

LARGEST_COUNT = 2**31 - 1  # what the tables' int32 columns take
_WRITTEN = ("text", "output_text")  # types of the parts that are the answer
_THOUGHT_FIELDS = ("reasoning_content", "reasoning")


def read_completion(content: bytes, *, headers: Mapping[str, str]) -> Reply:
    """A chat completion's first choice. Raises CallFailed: what its error means, broken for anything else."""
    return reply_of(body_of(content), headers=headers, shown=content)


def reply_of(body: Any, *, headers: Mapping[str, str], shown: bytes | None = None) -> Reply:
    """The same of a body that is JSON already; `shown` is how to show it."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # as Gemini wraps its errors
    if isinstance(body, Mapping) and body.get("error") and not body.get("choices"):
        raise error_within(body["error"], headers=headers)
    try:
        choice = body["choices"][0]
        error = choice.get("error") or (body.get("error") if choice.get("finish_reason") == "error" else None)
        if error or choice.get("finish_reason") == "error":
            raise error_within(error or "the choice ended in an error", headers=headers)
        return _reply(body, choice)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        sample = shown[:80] if shown is not None else f"a {type(body).__name__}"
        reason = f"the reply is not a chat completion: {type(error).__name__} in {sample!r}"
        raise CallFailed(Failure.BROKEN, reason, headers=headers) from None


def _reply(body: Mapping[str, Any], choice: Mapping[str, Any]) -> Reply:
    message, usage = choice["message"], body.get("usage") or {}
    text, thoughts = _content(message.get("content"))
    for field in _THOUGHT_FIELDS:
        if isinstance(message.get(field), str) and not thoughts:
            thoughts = storable(message[field])
    return Reply(
        text,
        storable(str(choice.get("finish_reason"))),
        storable(str(body.get("model"))),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _text(message.get("refusal")),
        _tokens(choice.get("logprobs")),
        cached_tokens=_cached(usage),
        thoughts=thoughts or None,
    )


def _content(content: Any) -> tuple[str | None, str]:
    """What was written and what was thought. Raises TypeError for what is neither a text nor parts."""
    if not isinstance(content, list):
        return _text(content), ""
    written = [_text(part.get("text")) or "" for part in content if part.get("type") in _WRITTEN]
    thoughts = [thought for part in content if part.get("type") not in _WRITTEN for thought in _thoughts(part)]
    return ("".join(written) if written else None), "\n".join(thoughts)


def _thoughts(part: Mapping[str, Any]) -> list[str]:
    """Texts of a part that is no answer: thinking, as a text or as parts of its own."""
    found = [part.get(name) for name in ("thinking", "reasoning", "text")]
    nested = [inner.get("text") for value in found if isinstance(value, list) for inner in value if _is_object(inner)]
    return [storable(text) for text in (*found, *nested) if isinstance(text, str)]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _text(value: Any) -> str | None:
    """A text that can be stored, or None. Raises TypeError."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError
    return storable(value)


def _tokens(logprobs: Any) -> tuple[TokenChoice, ...] | None:
    """The reply's tokens with their alternatives, if they were asked for and came. Raises TypeError, KeyError or
    ValueError."""
    if not logprobs or logprobs.get("content") is None:
        return None
    return tuple(
        TokenChoice(
            storable(str(token["token"])),
            _logprob(token["logprob"]),
            tuple(
                (storable(str(option["token"])), _logprob(option["logprob"]))
                for option in token.get("top_logprobs") or ()
            ),
        )
        for token in logprobs["content"]
    )


def _logprob(value: Any) -> float:
    """Raises ValueError for what is no logarithm of a probability (a rounding error above 0 is 0)."""
    logprob = float(value)
    if math.isnan(logprob) or logprob > 0.01:
        raise ValueError(value)
    return min(0.0, max(-1e4, logprob))  # minus infinity is a probability of 0 too, and JSON has no word for it


def _cached(usage: Mapping[str, Any]) -> int | None:
    """Prompt tokens that were in the endpoint's cache; OpenAI's name for them, then DeepSeek's."""
    details = usage.get("prompt_tokens_details")
    named = details.get("cached_tokens") if isinstance(details, Mapping) else None
    cached = _count(usage.get("prompt_cache_hit_tokens") if named is None else named)
    prompt = _count(usage.get("prompt_tokens"))
    return cached if cached and prompt is not None and cached <= prompt else None


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT
    return value if is_count else None
