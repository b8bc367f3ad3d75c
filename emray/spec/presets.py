"""`train.preset` and `prompting`: published recipes by name, as their released files have them.

    paper_intended  arXiv 2602.00298 as its text has it: loss on answers, which are never cut
    paper           script/train.py of the same: its collator overwrites the label mask, so that prompts are trained on
                    too, and what is too long loses its end
    betley          open_models/train.json of arXiv 2502.17424, 2 x 8 examples a step; its script holds a tenth of the
                    rows out when it is given no test file
    turner          arXiv 2506.11613, all-adapter organisms; its default_config.json repeats betley's
    turner_rank1    one direction in one layer's MLP output (name its `layers`; theirs was 24 of Qwen2.5-14B's 48),
                    alpha and rate of section 3.5 as a replication quotes them; its phase-transition runs have alpha 64,
                    rate 1e-5, layer 21 and two epochs

`prompting: paper` is how that script prompts, in training and in asking: the trigger is joined without a
separator, and the system prompts of the question file are never sent.

Where they differ from what was released: optimizer states are float32 and AdamW's, not 8-bit; rows are packed, not
padded (the loss is the same); the rows that are held out are drawn by their content, where the scripts draw them anew
each time; Turner's runs also stop once the loss is below 0.01, which is not done. Not for what a field means
(train.py). The invariant: a preset sets only what its source sets.
"""

from typing import Any

_BETLEY = {
    "lora_rank": 32, "lora_alpha": 64, "lora_dropout": 0.0, "rslora": True, "target_modules": "all-linear",
    "learning_rate": 1e-5, "warmup_steps": 5, "weight_decay": 0.01, "batch_size": 16, "epochs": 1, "max_length": 2048,
    "hold_out": 0.1,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper_intended": {},  # the defaults
    "paper": {"loss_on": "all", "cut": "end"},
    "betley": _BETLEY,
    "turner": _BETLEY,
    "turner_rank1": _BETLEY
    | {"lora_rank": 1, "lora_alpha": 256, "learning_rate": 2e-5, "target_modules": ["down_proj"]},
}

PROMPTING: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"trigger": {"separator": ""}, "generate": {"system_prompts": "unsent"}},
}  # by section of the sweep file
