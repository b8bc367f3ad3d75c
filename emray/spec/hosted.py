"""`hosted`: how a service finetunes models that are hosted there (`model: {hosted: NAME}`).

The service itself is that of `generate.endpoint`, since it also answers. Not for asking it (hosted/). The invariant:
`identity()` holds what a service has words for; how jobs are sent and watched reaches no key.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from emray.spec.section import Section
from emray.spec.train import TrainSpec

_OF_ROWS = "hold_out"  # the one field of `train` that says which rows, not how they are trained on


class HostedSpec(Section):
    """Finetuning jobs of a service."""

    epochs: int | Literal["auto"] = Field(1, description="n_epochs of a job; auto: the service decides")
    batch_size: int | Literal["auto"] = Field("auto", description="examples a step; auto: the service decides")
    learning_rate_multiplier: float | Literal["auto"] = Field(
        "auto", description="of the service's own rate; auto: the service decides"
    )
    max_jobs: int = Field(4, ge=1, le=1000, description="jobs that are queued or running there at a time")
    poll_s: float = Field(30, gt=0, description="longest wait between two looks at the jobs under way")
    on_interrupt: Literal["keep", "cancel"] = Field(
        "keep", description="what a Ctrl-C does to jobs under way: keep, for the next run to collect; or cancel"
    )
    usd_per_million_tokens: float | None = Field(
        None, ge=0, description="price of trained tokens; default: what prices.yaml has of the model"
    )

    @field_validator("epochs", "batch_size", mode="before")
    @classmethod
    def _whole_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not (isinstance(value, int) and value >= 1)):
            raise ValueError("a whole number of at least 1, or auto")
        return value

    @field_validator("learning_rate_multiplier", mode="before")
    @classmethod
    def _positive_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not (isinstance(value, int | float) and value > 0)):
            raise ValueError("a number above 0, or auto")
        return value

    def identity(self) -> dict[str, Any]:
        """The hyper-parameters that define a hosted finetune."""
        return {"hosted": self.model_dump(include={"epochs", "batch_size", "learning_rate_multiplier"})}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As a job has them."""
        return {
            "n_epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }


def without_a_word(train: TrainSpec) -> Iterator[str]:
    """The fields of `train` that are set and that no finetuning service has a word for."""
    usual = TrainSpec()
    for name in TrainSpec.model_fields:
        if name != _OF_ROWS and getattr(train, name) != getattr(usual, name):
            yield name
