"""`train.deepspeed_config`: a DeepSpeed JSON, which may say how a cell is computed and not what.

Not for emray's own DeepSpeed settings (train/zero.py). The invariant: a key that would change an adapter is refused,
since an adapter's key hashes nothing of it. The file is read once, when planning: workers get what it held.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emray.errors import SpecError
from emray.plain_files import read_plain_text
from emray.spec.explain import kind_of

_DECIDED = {
    "optimizer": "set train.learning_rate and train.weight_decay (AdamW)",
    "scheduler": "set train.schedule and train.warmup_steps",
    "gradient_clipping": "set train.max_grad_norm",
    "train_batch_size": "set train.batch_size",
    "train_micro_batch_size_per_gpu": "set resources.token_budget",
    "gradient_accumulation_steps": "set resources.token_budget",
    "compression_training": "leave it out",
}
_PRECISION = "leave it out: bf16 on a GPU, float32 without"
_SWITCHES = {
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "amp": _PRECISION,
    "curriculum_learning": "leave it out",
    "data_efficiency": "leave it out",
    "progressive_layer_drop": "leave it out",
}


def read_settings(location: str) -> dict[str, Any]:
    """What the DeepSpeed JSON sets. Raises SpecError for a file that is none, and as `only_how` refuses."""
    told = f"train.deepspeed_config {location}"
    try:
        settings = json.loads(read_plain_text(Path(location)))
    except (OSError, ValueError) as error:
        raise SpecError(f"{told}: not a JSON file: {error}") from None
    if not isinstance(settings, dict):
        raise SpecError(f"{told}: holds {kind_of(settings)}, not fields")
    try:
        return only_how(settings)
    except ValueError as error:
        raise SpecError(f"{told}: {error}") from None


def only_how(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say how to compute; "auto" (transformers' word) leaves a key to emray.

    Raises ValueError for a key that would change the result.
    """
    for name, value in settings.items():
        what_instead = _decided_elsewhere(name, value)
        if what_instead:
            raise ValueError(f"{name!r} would change the result unseen; {what_instead}")
    return {n: v for n, v in settings.items() if n not in _DECIDED | _SWITCHES}


def _decided_elsewhere(name: str, value: Any) -> str | None:
    """What to do instead of setting this DeepSpeed key; None when it only says how to compute, or leaves it open."""
    if name in _DECIDED:
        return None if value == "auto" else _DECIDED[name]
    if name in _SWITCHES:
        enabled = value.get("enabled", "auto") if isinstance(value, Mapping) else value
        return None if enabled in ("auto", name == "bf16") else _SWITCHES[name]
    quantized = isinstance(value, Mapping) and any(on for key, on in value.items() if "quantized" in key)
    return "leave out what is quantized" if quantized else None
