"""`probes.directions`: whose directions in the residual stream are measured, and what is steered along them.

Not for measuring or steering (probes/). The invariant: what a sweep cannot do of it is told before anything runs.
"""

from collections.abc import Iterator

from pydantic import Field

from emray.records import Arm, Condition, Difference, Metric
from emray.spec.section import Section


class SteeringSpec(Section):
    """Answers that models give while a direction is added to the base or projected out of finetunes."""

    domains: list[str] = Field([], description="whose directions steer; all that have one unless some are named")
    differences: list[Difference] = Field(
        [Difference.MODEL], min_length=1, description="which difference of means is the direction"
    )
    layers: list[int] | None = Field(
        None,
        min_length=1,
        description="after which it is done, 0 the first, -1 the last; null: the middle and the last",
    )
    scales: list[float] = Field([2.0, 4.0], description="in lengths of the direction, added to the base model")
    project_out: bool = Field(True, description="of the finetune that the direction comes from")
    transfer: bool = Field(False, description="and of every other finetune of its arm and seed")
    samples: int | None = Field(None, ge=1, description="answers per question and paraphrase; null: as in generate")


class DirectionsSpec(Section):
    """Mean-difference directions in the residual stream, from the answers that a sweep has."""

    domains: list[str] = Field([], description="all unless some are named")
    arms: list[Arm] = Field([Arm.BACKDOOR], min_length=1, description="finetuned arms of the sweep")
    condition: Condition | None = Field(
        None, description="whose answers are read; null: with the trigger where the arm was trained with it"
    )
    first_tokens: int | None = Field(None, ge=1, description="of an answer, that are read; null: all")
    steering: SteeringSpec | None = Field(None, description="{} steers as it does by default")

    @property
    def named_domains(self) -> dict[str, list[str]]:
        """By field, the domains that it names."""
        steering = self.steering.domains if self.steering else []
        return {"probes.directions.domains": self.domains, "probes.directions.steering.domains": steering}

    def unfit(
        self, *, arms: list[Arm], metrics: list[Metric], conditions: list[Condition], own_weights: bool
    ) -> Iterator[str]:
        """What a sweep with these arms, metrics and conditions cannot do of it, one sentence each."""
        place = "probes.directions"
        if not own_weights:
            yield f"{place} looks into models: leave generate.engine openai to sweeps without it"
        for arm in self.arms:
            if arm == Arm.BASE or arm not in arms:
                yield f"{place}.arms names {str(arm)!r}; allowed: the finetuned arms of the sweep"
        if self.condition and self.condition not in conditions:
            yield f"{place}.condition is {str(self.condition)!r}, which is not in generate.conditions"
        if Metric.COHERENT not in metrics or Metric.ALIGNED not in metrics:
            yield f"{place} needs judge.metrics aligned and coherent: a broken answer is not a misaligned one"
        if self.steering and self.steering.scales and Arm.BASE not in arms:
            yield f"{place}.steering.scales are for the base model: put base into arms, or set scales: []"
