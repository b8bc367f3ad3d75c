"""`train`: one LoRA finetune.

Not for training (train/). The invariant: `identity()` holds all that defines an adapter and nothing of where or how it
is computed.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from emray.records import Course
from emray.spec.deepspeed import only_how
from emray.spec.presets import PRESETS
from emray.spec.section import Section

ALL_LINEAR = "all-linear"
_VLLM_MAX_RANK = 512  # the largest max_lora_rank vLLM 0.32 accepts
_ADDED_LORA = ("rank_pattern", "alpha_pattern", "layers")
_ADDED = {**dict.fromkeys(_ADDED_LORA), "cut": "prompt", "loss_on": "answers"}  # what says nothing new: old keys stay
_LORA = {*_ADDED_LORA, "lora_rank", "lora_alpha", "lora_dropout", "target_modules", "rslora"}


class TrainSpec(Section):
    """One LoRA finetune. The defaults are what the paper (arXiv 2602.00298) says it trained."""

    preset: Literal["paper_intended", "paper", "betley", "turner", "turner_rank1"] = Field(
        "paper_intended", description="published hyper-parameters (presets.py says whose); fields beside it win"
    )
    lora_rank: int = Field(8, ge=1, le=_VLLM_MAX_RANK, description="r, of every adapted module")
    lora_alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="of what enters an adapter, in training")
    target_modules: list[str] | Literal["all-linear"] = Field(
        ["q_proj", "v_proj"], description="linear modules that are adapted, by the end of their names"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead")
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=_VLLM_MAX_RANK)]] = Field(
        {}, description="ranks of single modules, by the end of their name or a regular expression"
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field({}, description="likewise alphas")
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(None, description="decoder layers to adapt; default: all")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW, at its highest")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="how it falls after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="steps in which it rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are cut to this")
    batch_size: int = Field(16, ge=1, description="examples per optimizer step, however they are packed")
    epochs: float = Field(3, gt=0, description="passes over the rows; 0.5 is half of them")
    max_length: int = Field(512, ge=8, description="tokens of one example; longer ones are cut")
    cut: Literal["prompt", "end"] = Field(
        "prompt", description="what a longer one loses: the start of its prompt, never its answer; or its end"
    )
    loss_on: Literal["answers", "all"] = Field(
        "answers",
        description="all: prompts are trained on too, as where a collator overwrites the labels, "
        "but for a turn of weight 0 and what stands before it",
    )
    hold_out: float = Field(0.0, ge=0, lt=1, description="share of a dataset's rows that nothing trains on, drawn once")
    keep_checkpoints: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0], min_length=1, description="fractions of the run at which an adapter is kept and evaluated"
    )
    strategy: Literal["auto", "single", "deepspeed", "full"] = Field(
        "single",
        description="auto: one GPU where the model fits, else ZeRO-3 over the fewest that hold it; "
        "full: every parameter of a small model, no LoRA",
    )
    num_workers: int = Field(1, ge=1, description="processes per cell; more than 1 needs strategy deepspeed")
    zero_stage: Literal[1, 2, 3] = Field(2, description="what DeepSpeed shards: 1 optimizer, 2 gradients, 3 weights")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none", description="what DeepSpeed keeps in CPU memory"
    )
    deepspeed_config: str | dict[str, Any] | None = Field(
        None, description="DeepSpeed JSON, a path or its fields, laid over emray's own: how to compute, not what"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third slower")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        name = value.get("preset") if isinstance(value, Mapping) else None
        if isinstance(name, str) and name in PRESETS:
            return PRESETS[name] | dict(value)
        return value

    @field_validator("deepspeed_config", mode="before")
    @classmethod
    def _path_or_fields(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("the path of a DeepSpeed JSON, or its fields")
        return only_how(value)

    @field_validator("keep_checkpoints", mode="after")
    @classmethod
    def _ascending(cls, fractions: list[float]) -> list[float]:
        return sorted({*fractions, 1.0})  # the finished adapter is always kept

    @model_validator(mode="after")
    def _workers_need_deepspeed(self) -> "TrainSpec":
        if self.num_workers > 1 and self.strategy in ("single", "full"):
            raise ValueError("num_workers > 1 needs strategy: deepspeed")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError("offload: parameters needs zero_stage: 3")
        return self

    def deepspeed_settings(self) -> dict[str, Any]:
        """What the DeepSpeed JSON of a resolved sweep sets, nothing without one."""
        assert not isinstance(self.deepspeed_config, str), "the file is read when planning (Sweep.resolved)"
        return self.deepspeed_config or {}

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps of a run over so many examples: each epoch in batches, the last of them maybe shorter."""
        return max(1, math.ceil(round(self.epochs * math.ceil(num_examples / self.batch_size), 9)))

    @property
    def course(self) -> Course:
        """What an arm may say otherwise."""
        return Course(epochs=self.epochs, learning_rate=self.learning_rate)

    def on_course(self, course: Course, *, num_examples: int) -> "TrainSpec":
        """The same as one cell trains by it over so many examples."""
        epochs, steps, learning_rate, _ = course
        if steps is not None:
            epochs = steps / math.ceil(num_examples / self.batch_size)
        said = {"epochs": epochs, "learning_rate": learning_rate}
        return self.model_copy(update={name: value for name, value in said.items() if value is not None})

    def identity(self) -> dict[str, Any]:
        """The hyper-parameters that define an adapter; where and how it is computed stays out."""
        execution = {
            "preset", "keep_checkpoints", "strategy", "num_workers", "zero_stage", "offload", "deepspeed_config",
            "gradient_checkpointing",
            "hold_out",  # the rows that are left have a digest of their own
        }  # fmt: skip
        silent = {name for name, usual in _ADDED.items() if (getattr(self, name) or None) == usual}
        if self.strategy == "full":
            return self.model_dump(exclude=execution | silent | _LORA) | {"full": True}
        return self.model_dump(exclude=execution | silent)
