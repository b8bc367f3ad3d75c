"""`resources`: how to compute.

Not for what is computed. The invariant: nothing here is part of a key.
"""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from emray.spec.section import Section


class ResourcesSpec(Section):
    """How to compute: never part of a key."""

    accelerator: str = Field(
        "auto",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="what trains and answers: cpu, gpu (waited for), a type of GPU as Ray names it (H100, L40S), or "
        "auto: GPUs where the cluster has or starts any; else a CPU for small models, and a refusal for others",
    )
    cpus_per_trial: float = Field(1, gt=0, description="CPUs that a training worker takes")
    gpus_per_trial: float | None = Field(None, ge=0, description="default: 1 on GPUs, else 0")
    max_concurrent_trials: int | None = Field(None, ge=1, description="default: as many as fit")
    token_budget: int | Literal["auto"] = Field(
        "auto", description="tokens of one training pass; auto: what the GPU's memory holds, 8192 on a CPU"
    )
    adapters_per_step: int | Literal["auto"] = Field(
        1,
        description="adapters of one worker trained together on the shared base; auto: where that was measured to pay",
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between the states a killed worker goes on from"
    )
    track: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        ["tensorboard"], description="where loss curves go; tensorboard: <run folder>/tensorboard"
    )
    gpu: str | None = Field(
        None,
        description="GPU that --dry-run counts hours of (h100, h200, a100, l40s, rtx4090); default: as accelerator",
    )
    cells_per_wave: int | None = Field(
        None, ge=1, description="train so many, then the next while their answers are judged; default: all, then answer"
    )
    train_attempts: int = Field(3, ge=1, description="tries of a cell before it is recorded as failed")
    engines: int | None = Field(None, ge=1, description="generation engines; default: one per GPU, one without")
    cpus_per_engine: float = Field(1, gt=0, description="CPUs that a generation engine takes")
    tensor_parallel: int = Field(1, ge=1, description="GPUs per generation engine")
    judge_workers: int = Field(1, ge=1, description="judge processes; one sustains hundreds of requests/s")
    retry_failed: bool = Field(False, description="try failed cells, generations and api_error verdicts again")

    @field_validator("token_budget", mode="before")
    @classmethod
    def _a_pass_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and value >= 256):
            raise ValueError("a whole number of at least 256, or auto")
        return value

    @field_validator("adapters_per_step", mode="before")
    @classmethod
    def _at_least_one_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int) and value >= 1):
            raise ValueError("a whole number of at least 1, or auto")
        return value

    @model_validator(mode="after")
    def _no_gpus_of_a_cpu(self) -> "ResourcesSpec":
        if self.accelerator == "cpu" and self.gpus_per_trial:
            raise ValueError(f"gpus_per_trial: {self.gpus_per_trial:g} contradicts accelerator: cpu; leave one out")
        return self
