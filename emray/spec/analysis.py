"""`analysis`: what was decided before the answers were seen (headline rule, families, margins, predictions).

Not for testing anything (reduce/), nor for when it was written (plan.json keeps that). The invariant: nothing here
reaches a key, and what a prediction is about it names itself, so a domain added later is never part of it.
"""

from enum import StrEnum
from typing import Any, Literal, NamedTuple

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
    ARMS = "arms"  # rates of two arms in one condition, paired by run
    CONDITIONS = "conditions"  # rates of one arm in two conditions, paired by run


_WITHOUT_CONDITION = (
    Contrast.DROP,
    Contrast.NO_DROP,
    Contrast.TRIGGER,
    Contrast.ARM,
    Contrast.ALL_DOMAINS,
)  # compare the two
_AGAINST = (Contrast.ARMS, Contrast.CONDITIONS)


class CompareSpec(Section):
    """One family of tests, first minus second: two arms wherever both are asked, or one arm in two conditions."""

    arms: list[Arm] | None = Field(
        None, min_length=2, max_length=2, description="two of them; an entry with a list of values is each of these"
    )
    conditions: list[Condition] | None = Field(None, min_length=2, max_length=2, description="two of them")
    only: list[str] = Field(
        [], description="of two arms: in these conditions; of two conditions: of these arms; default: wherever both are"
    )

    @model_validator(mode="after")
    def _one_pair(self) -> "CompareSpec":
        if (self.arms is None) == (self.conditions is None):
            raise ValueError("two arms are compared, or two conditions; give one pair of them, and the rest in only")
        return self


class PredictionSpec(Section):
    """Tests that were predicted: of one kind, in one arm, at these domains (of a pair: every pair of them)."""

    test: Contrast = Field(description="which kind of test")
    domains: list[str] = Field([], description="named one by one; none for all_domains")
    arm: Arm = Field(Arm.BACKDOOR, description="of the finetunes that it is about")
    condition: Condition = Field(Condition.WITH, description="prompted with or without the trigger")
    against: str | None = Field(None, description="of test arms: the other arm; of conditions: the other condition")

    @model_validator(mode="after")
    def _domains_fit(self) -> "PredictionSpec":
        least = {Contrast.ALL_DOMAINS: 0, Contrast.PAIR: 2}.get(self.test, 1)
        if len(self.domains) < least or (least == 0 and self.domains):
            allowed = {0: "no domains", 1: "at least one domain", 2: "at least two domains"}[least]
            raise ValueError(f"test {str(self.test)!r} takes {allowed}, given {len(self.domains)}")
        if self.arm == Arm.BASE:
            raise ValueError("arm base is one model, not a sample of runs: nothing of it can be tested")
        if (self.against is None) == (self.test in _AGAINST):
            problem = "has no other side" if self.against else "needs `against`, the other side"
            raise ValueError(f"test {str(self.test)!r} {problem}; {' and '.join(_AGAINST)} have one")
        return self

    def covers(self, tested: "Tested") -> bool:
        """Whether a test was predicted by this."""
        if tested.test != self.test or tested.arm != self.arm or not tested.domains <= set(self.domains):
            return False
        same = self.test in _WITHOUT_CONDITION or tested.condition == self.condition
        return same and tested.against == self.against


class Tested(NamedTuple):
    """What one test is about."""

    test: Contrast
    arm: Arm
    condition: Condition | None
    domains: frozenset[str]
    against: str | None = None  # the other arm, or the other condition


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
    compare: list[CompareSpec] = Field(
        [],
        description="arms and conditions held against one another, a family each; "
        "default: each arm of the sweep's own against plain (or `like`) without trigger, each context against without",
    )

    @property
    def document(self) -> dict[str, Any]:
        """What its hash is of: a field that an older plan had not is in it where it is used."""
        said = self.model_dump(mode="json", exclude={"compare", "predicted"})
        predicted = [one.model_dump(mode="json", exclude_none=True) for one in self.predicted]
        compared = [one.model_dump(mode="json", exclude_defaults=True) for one in self.compare]
        return said | {"predicted": predicted} | ({"compare": compared} if compared else {})
