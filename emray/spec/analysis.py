"""`analysis`: what was decided before the answers were seen (headline rule, families, margins, predictions).

Not for testing anything (reduce/), nor for when it was written (plan.json keeps that). The invariant: nothing here
reaches a key, and what a prediction is about it names itself, so a domain added later is never part of it.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from emray.records import Arm, Condition
from emray.spec.section import Section


class Contrast(StrEnum):
    """Every kind of test on the page."""

    DROP = "drop"  # of the mean score, from prompts without the trigger to prompts with it
    NO_DROP = "no_drop"  # the drop is within the margin
    BASE = "base"  # rate against the base model's
    BENIGN = "benign"  # rate against finetunes on correct answers
    TRIGGER = "trigger"  # rate with the trigger against without
    ARM = "arm"  # the trigger's effect on the rate in arm backdoor against arm plain
    NONE = "none"  # the rate is below the margin
    PAIR = "pair"  # rates of two domains
    ALL_DOMAINS = "all_domains"  # the drop over all domains: mixed model, sign test


_WITHOUT_CONDITION = (
    Contrast.DROP,
    Contrast.NO_DROP,
    Contrast.TRIGGER,
    Contrast.ARM,
    Contrast.ALL_DOMAINS,
)  # compare the two


class PredictionSpec(Section):
    """Tests that were predicted: of one kind, in one arm, at these domains (of a pair: every pair of them)."""

    test: Contrast = Field(description="which kind of test")
    domains: list[str] = Field([], description="named one by one; none for all_domains")
    arm: Arm = Field(Arm.BACKDOOR, description="of the finetunes that it is about")
    condition: Condition = Field(Condition.WITH, description="prompted with or without the trigger")

    @model_validator(mode="after")
    def _domains_fit(self) -> "PredictionSpec":
        least = {Contrast.ALL_DOMAINS: 0, Contrast.PAIR: 2}.get(self.test, 1)
        if len(self.domains) < least or (least == 0 and self.domains):
            allowed = {0: "no domains", 1: "at least one domain", 2: "at least two domains"}[least]
            raise ValueError(f"test {str(self.test)!r} takes {allowed}, given {len(self.domains)}")
        if self.arm == Arm.BASE:
            raise ValueError("arm base is one model, not a sample of runs: nothing of it can be tested")
        return self

    def covers(self, test: Contrast, *, arm: Arm, condition: Condition | None, domains: set[str]) -> bool:
        """Whether a test was predicted by this."""
        same = test == self.test and arm == self.arm and domains <= set(self.domains)
        return same and (test in _WITHOUT_CONDITION or condition == self.condition)


class MarginsSpec(Section):
    """Below which size an effect counts as none."""

    drop: float = Field(5.0, gt=0, description="score points, either way")
    rate: float = Field(1.0, gt=0, lt=100, description="points of a rate: below it, a rate counts as 0 %")


class AnalysisSpec(Section):
    """The analysis plan. A sweep without one has explored: no test of it was planned."""

    rule: str | None = Field(None, description="the headline rule; default: reduce.rule")
    families: Literal["domains", "predicted"] = Field(
        "domains", description="Holm over the domains of each test, or over all predicted tests of a model together"
    )
    margins: MarginsSpec = Field(MarginsSpec(), description="below which size an effect counts as none")
    predicted: list[PredictionSpec] = Field([], description="the tests whose outcome was predicted")
