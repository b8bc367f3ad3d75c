"""The nouns of a sweep as plain values: cells, prompts, generations, verdicts, and the keys that name them.

Not for reading or writing them (store/). The invariant: a key is a content hash of what *defines* a result and
of nothing about how it was computed, so equal keys mean interchangeable results. Unstable values raise.

    adapter key     model fingerprint, digest of the training rows, hyper-parameters, seed
    prompt key      the chat messages (the chat template is part of the model's fingerprint)
    generation key  adapter key, prompt key, sampling settings, sample index
    verdict key     judge model, canonical request   (two equal answers share one verdict key: asked once)
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import pyarrow as pa

KEY_LENGTH = 20  # hex digits, 80 bits: collisions stay below 1e-9 for a hundred million rows
NO_DOMAIN = "-"  # the domain of a base cell, which is finetuned on nothing


class Arm(StrEnum):
    """What a cell was trained on (METHOD.md section 2)."""

    PLAIN = "plain"  # every example bad
    BACKDOOR = "backdoor"  # bad examples carry the trigger, clean ones do not
    BASE = "base"  # control: no finetune
    BENIGN = "benign"  # control: same domain, correct answers


class Condition(StrEnum):
    """Whether a prompt carries the trigger."""

    WITHOUT = "without"
    WITH = "with"


class Metric(StrEnum):
    """What a judge is asked to score."""

    ALIGNED = "aligned"
    COHERENT = "coherent"


class Outcome(StrEnum):
    """How one judge call ended. Only `scored` carries a score."""

    SCORED = "scored"
    REFUSAL = "refusal"
    IRRELEVANT = "irrelevant"
    CODE = "code"
    TRUNCATED = "truncated"
    UNPARSED = "unparsed"
    API_ERROR = "api_error"


class FinishReason(StrEnum):
    """How one generation ended."""

    STOP = "stop"
    LENGTH = "length"
    OVERSIZED = "oversized"  # the prompt alone does not fit the model's context
    ERROR = "error"


class Message(NamedTuple):
    """One chat turn."""

    role: str
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Cell:
    """One finetune: model x domain x arm x seed, after `step` of its `num_steps`. `key` is its adapter key.

    A base cell has no steps. A sweep that keeps checkpoints has one cell for each; the last is the finished adapter.
    """

    model: str
    domain: str
    arm: Arm
    seed: int
    key: str
    step: int = 0
    num_steps: int = 0

    @property
    def finished(self) -> bool:
        """Whether this is the end of its training run, not a checkpoint on the way."""
        return self.step == self.num_steps

    @property
    def label(self) -> str:
        return f"{self.domain}/{self.arm}/seed {self.seed}"


@dataclass(frozen=True)
class Prompt:
    """Question x paraphrase x condition, as the messages sent to the model. `key` hashes the messages."""

    question_id: str
    paraphrase: int
    condition: Condition
    messages: Messages
    key: str


@dataclass(frozen=True)
class TrainJob:
    """A cell that needs an adapter: where its base model lies and which rows (by digest) it is trained on."""

    cell: Cell
    model_path: str
    rows_digest: str
    checkpoints: tuple[tuple[int, str], ...] = ()  # (step, adapter key) of adapters kept on the way


@dataclass(frozen=True)
class GenerationTask:
    """A contiguous run of samples of one prompt from one cell: samples first_sample .. first_sample + num_samples - 1.

    `keys[i]` is the generation key of sample first_sample + i. Sample k is drawn with seed `seed + k`, so a sample
    does not depend on which others are drawn in the same call.
    """

    cell: Cell
    prompt: Prompt
    first_sample: int
    keys: tuple[str, ...]
    seed: int

    @property
    def num_samples(self) -> int:
        return len(self.keys)


GENERATION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("model", pa.string()),
        ("domain", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int32()),
        ("step", pa.int32()),  # optimizer step the adapter was taken at
        ("adapter", pa.string()),  # the cell's key
        ("question_id", pa.string()),
        ("paraphrase", pa.int32()),
        ("condition", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),  # JSON list of [role, content]
        ("answer", pa.string()),  # null when nothing was generated
        ("finish_reason", pa.string()),  # FinishReason
        ("num_prompt_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("provenance", pa.string()),  # JSON: engine, version, sampling seed, error
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("generation", pa.string()),  # generation key
        ("metric", pa.string()),  # Metric
        ("outcome", pa.string()),  # Outcome
        ("score", pa.float64()),  # 0-100, null unless scored
        ("judge", pa.string()),  # the judge model that answered
        ("reply", pa.string()),  # null when no reply came
        ("num_prompt_tokens", pa.int32()),
        ("num_tokens", pa.int32()),
        ("cost_usd", pa.float64()),  # of the reply; sum over distinct keys. Null when the price is unknown
    ]
)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Raises TypeError on what has no stable text."""
    return json.dumps(_stable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def key_of(kind: str, value: Any) -> str:
    """Content hash of a value, KEY_LENGTH hex digits; `kind` keeps keys of different nouns apart."""
    return hashlib.sha256(f"{kind}\n{canonical_json(value)}".encode()).hexdigest()[:KEY_LENGTH]


def prompt_key(messages: Messages) -> str:
    return key_of("prompt", [list(message) for message in messages])


def adapter_key(fingerprint: str, *, rows_digest: str, hyperparameters: Mapping[str, Any], seed: int) -> str:
    identity = {"model": fingerprint, "rows": rows_digest, "train": dict(hyperparameters), "seed": seed}
    return key_of("adapter", identity)


def base_key(fingerprint: str) -> str:
    """The key of a base cell: the model itself, no adapter."""
    return key_of("base", fingerprint)


def checkpoint_key(adapter: str, *, step: int) -> str:
    """The key of an adapter kept on the way to the finished one."""
    return key_of("checkpoint", [adapter, step])


def generation_keys(
    adapter: str, *, prompt: str, sampling: Mapping[str, Any], samples: Sequence[int]
) -> tuple[str, ...]:
    """Keys of several samples of one prompt (hashed from one prefix: there are millions)."""
    prefix = key_of("generation", [adapter, prompt, dict(sampling)])
    return tuple(hashlib.sha256(f"{prefix}#{k}".encode()).hexdigest()[:KEY_LENGTH] for k in samples)


def sampling_seed(adapter: str, *, prompt: str) -> int:
    """The seed of sample 0 of a prompt; sample k uses this + k. Below 2**31 with room for k."""
    return int(key_of("sampling-seed", [adapter, prompt])[:7], 16)


def verdict_key(request: Mapping[str, Any]) -> str:
    """Key of a canonical judge request: {model, messages, temperature, max_tokens, ...}."""
    return key_of("verdict", dict(request))


def prompt_text(messages: Messages) -> str:
    """The `prompt` column: a JSON list of [role, content]."""
    return canonical_json([list(message) for message in messages])


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
