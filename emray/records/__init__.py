"""The nouns of a sweep as plain values, the keys that name them, and the tables they stand in.

Not for reading or writing them (store/). The invariant: a key is a content hash of what *defines* a result and of
nothing about how it was computed, so equal keys mean interchangeable results.
"""

from emray.records.jobs import Answerer, GenerationTask, Steer, Steering, TrainJob, Weights
from emray.records.keys import (
    KEY_LENGTH,
    adapter_key,
    asked_key,
    base_key,
    canonical_json,
    checkpoint_key,
    generation_keys,
    generation_series,
    judge_key,
    key_of,
    prompt_key,
    prompt_text,
    sampling_seed,
    steered_key,
    verdict_key,
)
from emray.records.nouns import (
    NO_DOMAIN,
    USUAL_RENDERING,
    Arm,
    Cell,
    Condition,
    FinishReason,
    Message,
    Messages,
    Metric,
    Outcome,
    Place,
    Prompt,
    Rendering,
)
from emray.records.schemas import GENERATION_SCHEMA, VERDICT_SCHEMA

__all__ = [
    "GENERATION_SCHEMA",
    "KEY_LENGTH",
    "NO_DOMAIN",
    "USUAL_RENDERING",
    "VERDICT_SCHEMA",
    "Answerer",
    "Arm",
    "Cell",
    "Condition",
    "FinishReason",
    "GenerationTask",
    "Message",
    "Messages",
    "Metric",
    "Outcome",
    "Place",
    "Prompt",
    "Rendering",
    "Steer",
    "Steering",
    "TrainJob",
    "Weights",
    "adapter_key",
    "asked_key",
    "base_key",
    "canonical_json",
    "checkpoint_key",
    "generation_keys",
    "generation_series",
    "judge_key",
    "key_of",
    "prompt_key",
    "prompt_text",
    "sampling_seed",
    "steered_key",
    "verdict_key",
]
