"""The keys that name results.

Not for what they name (nouns.py). The invariant: a key is a content hash of what *defines* a result and of nothing
about how it was computed, so equal keys mean interchangeable results. Unstable values raise.

    adapter key     model identity, digest of the training rows, hyper-parameters, seed; the key of what it goes on with
    prompt key      the chat messages (how they are rendered is part of the model's identity)
    steered key     key of the cell that is steered, the direction, layer, what is done with it, scale
    generation key  adapter key, prompt key, sampling settings, sample index
    verdict key     judge model, canonical request   (two equal answers share one verdict key: asked once)
    asked           the question's wording, the rubric   (what a verdict was about, beside the answer)
    judge key       the judge's settings   (who was asked)
    scoring key     a quiz's way of scoring, the question's wording, what is right   (what a mark was about)
    mark key        generation key, scoring key
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring as _quoted  # a text as canonical_json has it
from typing import Any

from emray.records.nouns import Messages

KEY_LENGTH = 20  # hex digits, 80 bits: collisions stay below 1e-9 for a hundred million rows


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Raises TypeError on what has no stable text."""
    return json.dumps(_stable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def key_of(kind: str, value: Any) -> str:
    """Content hash of a value, KEY_LENGTH hex digits; `kind` keeps keys of different nouns apart."""
    return _hashed(kind, canonical_json(value))


def prompt_key(messages: Messages) -> str:
    return key_of("prompt", [[message.role, message.content] for message in messages])


def adapter_key(
    fingerprint: str, *, rows_digest: str, hyperparameters: Mapping[str, Any], seed: int, start: str = ""
) -> str:
    """`start` is the key of the adapter that training goes on with, where it does not begin with a fresh one."""
    identity = {"model": fingerprint, "rows": rows_digest, "train": dict(hyperparameters), "seed": seed}
    return key_of("adapter", identity | ({"start": start} if start else {}))


def base_key(fingerprint: str) -> str:
    """The key of a base cell: the model itself, no adapter."""
    return key_of("base", fingerprint)


def checkpoint_key(adapter: str, *, step: int) -> str:
    """The key of an adapter kept on the way to the finished one."""
    return key_of("checkpoint", [adapter, step])


def steered_key(steering: Mapping[str, Any]) -> str:
    """The key of a cell that answers while its residual stream is pushed: the fields of a Steering."""
    return key_of("steered", dict(steering))


def generation_keys(
    adapter: str, *, prompt: str, sampling: Mapping[str, Any], samples: Sequence[int]
) -> tuple[str, ...]:
    """Keys of several samples of one prompt to one adapter."""
    return series_keys(generation_series(adapter, prompt=prompt, sampling=sampling), samples=samples)


def generation_series(adapter: str, *, prompt: str, sampling: Mapping[str, Any]) -> str:
    """What the samples of one prompt to one adapter have in common."""
    return series_under(sampling)(adapter, prompt)


def series_under(sampling: Mapping[str, Any]) -> Callable[[str, str], str]:
    """`generation_series` by an adapter's and a prompt's key, for many of them: what is the same is written once."""
    same = canonical_json(dict(sampling))
    return lambda adapter, prompt: _hashed("generation", f"[{_quoted(adapter)},{_quoted(prompt)},{same}]")


def series_keys(series: str, *, samples: Sequence[int]) -> tuple[str, ...]:
    """Generation keys of samples of a series (hashed from one prefix: there are millions)."""
    return tuple(hashlib.sha256(f"{series}#{k}".encode()).hexdigest()[:KEY_LENGTH] for k in samples)


def joined_series_keys(series: Iterable[tuple[str, int]]) -> str:
    """`series_keys` of the first so many samples of each, one key after another: quicker, where there are millions."""
    digests = (hashlib.sha256(f"{one}#{k}".encode()).digest() for one, num in series for k in range(num))
    return b"".join(digest[: KEY_LENGTH // 2] for digest in digests).hex()


def sampling_seed(adapter: str, *, prompt: str) -> int:
    """The seed of sample 0 of a prompt; sample k uses this + k. Below 2**31 with room for k."""
    return int(_hashed("sampling-seed", f"[{_quoted(adapter)},{_quoted(prompt)}]")[:7], 16)


def verdict_key(request: Mapping[str, Any]) -> str:
    """Key of a canonical judge request: {model, messages, temperature, max_tokens, ...}."""
    return key_of("verdict", dict(request))


def asked_key(wording: str, *, rubric: str) -> str:
    return key_of("asked", [wording, rubric])


def scoring_key(score: Mapping[str, Any], *, wording: str, right: Sequence[str]) -> str:
    """Key of what an answer of a quiz is scored by; `score` is {way: its fields}."""
    return key_of("scoring", [dict(score), wording, list(right)])


def mark_keys(generations: Sequence[str], *, scoring: str) -> list[str]:
    """Keys of the scores of several answers by one scoring."""
    return [hashlib.sha256(f"mark\n{one}#{scoring}".encode()).hexdigest()[:KEY_LENGTH] for one in generations]


def judge_key(settings: Mapping[str, Any]) -> str:
    """Key of what defines a judge: {model, temperature, max_tokens, ...}."""
    return key_of("judge", dict(settings))


def prompt_text(messages: Messages) -> str:
    """The `prompt` column: a JSON list of [role, content]."""
    return canonical_json([[message.role, message.content] for message in messages])


def _hashed(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()[:KEY_LENGTH]


def _stable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)  # a StrEnum is its text
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot key a non-finite number: {value!r}")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"cannot key a mapping whose names are not strings: {list(value)!r}")
        return {str(name): _stable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    raise TypeError(f"cannot key a {type(value).__name__}: its text is not stable")
