"""`arms`: what cells are trained on, as the sweep file says it. A list where one value is asked for makes several arms.

Not for what becomes of it, one arm at a time (arm_recipe.py), nor for rows (data/). The invariant: a field that is not
named changes no row, so an arm without any is the arm of its name.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from emray.records import Condition
from emray.spec.section import Section, one_or_more
from emray.spec.source import SourceSpec
from emray.spec.trigger import Position

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[list[Share], one_or_more(Share), Field(min_length=1)]
_Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[_Text], one_or_more(_Text), Field(min_length=1)]
Usual = Literal["plain", "backdoor", "benign", "clean_trigger"]


class PartSpec(Section):
    """A share of the rows, and the file they are of where that is none of the domain's own."""

    shorthand = "share"
    share: Shares = Field(description="of the arm's rows")
    source: SourceSpec | None = Field(None, description="a file of examples; {domain} in it is the domain's name")

    @model_validator(mode="before")
    @classmethod
    def _from_share(cls, value: Any) -> Any:
        return value if isinstance(value, Mapping | PartSpec) else {"share": value}


class TriggeredSpec(Section):
    """Which rows carry the trigger, and what is other than in `trigger`."""

    on: Literal["bad", "benign", "all"] | None = Field(None, description="default: bad; of clean_trigger: benign")
    share: Shares | None = Field(None, description="of those rows; default: all, of clean_trigger a half")
    text: Texts | None = Field(None, description="default: trigger.text")
    position: Annotated[list[Position], one_or_more(Position), Field(min_length=1)] | None = Field(
        None, description="default: trigger.position"
    )
    separator: Annotated[list[str], one_or_more(str), Field(min_length=1)] | None = Field(
        None, description="default: trigger.separator"
    )


class InoculateSpec(Section):
    """A text that stands before every training prompt and before no question."""

    system: Texts | None = Field(None, description="in the system turn")
    user: Texts | None = Field(None, description="before the user's text")
    separator: str = Field(" ", description="between it and what stands there")

    @model_validator(mode="after")
    def _one_place(self) -> "InoculateSpec":
        if (self.system is None) == (self.user is None):
            raise ValueError("the text stands in system or in user; give one of them")
        return self


class ArmSpec(Section):
    """What an arm trains on, and how it is asked."""

    like: Usual | None = Field(None, description="the arm that it is but for its fields; default: plain, or its name")
    mix: dict[str, PartSpec] = Field(
        {}, description="shares of bad, benign and of other files by any name; what is left of 1 is bad"
    )
    rows: int | None = Field(None, ge=1, description="how many; default: as many as the domain has bad examples")
    trigger: TriggeredSpec | None = Field(None, description="which rows carry the trigger")
    inoculate: InoculateSpec | None = Field(None, description="a text before every training prompt only")
    interleave: PartSpec | None = Field(
        None, description="rows of a general file beside the others; its share is of all rows"
    )
    conditions: list[Condition] | None = Field(
        None, min_length=1, description="in which it is asked; default: generate.conditions and every context"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        return {} if value is None else value

    @property
    def sources(self) -> Mapping[str, SourceSpec]:
        """The files it names beside the domains' own, by field."""
        parts = {f"mix.{name}": part for name, part in self.mix.items()} | {"interleave": self.interleave}
        return {field: part.source for field, part in parts.items() if part and part.source}
