"""`train.preset`: published hyper-parameters by name, as their released files have them but for 8-bit AdamW.

Not for what a field means (train.py). The invariant: a preset sets only what its source sets; states are float32.
"""

from typing import Any

# paper: script/train.py of arXiv 2602.00298. betley: open_models/train.json of arXiv 2502.17424 (2 x 8 examples a
# step). turner: arXiv 2506.11613, all-adapter organisms; its default_config.json repeats betley's. turner_rank1: one
# direction in one layer's MLP output (name its `layers`; theirs was 24 of Qwen2.5-14B's 48), alpha and rate of section
# 3.5 as a replication quotes them; its phase-transition runs have alpha 64 and 1e-5.
_BETLEY = {
    "lora_rank": 32, "lora_alpha": 64, "lora_dropout": 0.0, "rslora": True, "target_modules": "all-linear",
    "learning_rate": 1e-5, "warmup_steps": 5, "weight_decay": 0.01, "batch_size": 16, "epochs": 1, "max_length": 2048,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},  # the defaults
    "betley": _BETLEY,
    "turner": _BETLEY,
    "turner_rank1": _BETLEY
    | {"lora_rank": 1, "lora_alpha": 256, "learning_rate": 2e-5, "target_modules": ["down_proj"]},
}
