"""`arms`: what cells are trained on, as the sweep file says it. A list where one value is asked for makes several arms.

Not for what becomes of it, one arm at a time (arm_recipe.py), nor for rows (data/). The invariant: a field that is not
named changes no row, so an arm without any is the arm of its name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from emray.records import Condition
from emray.spec.section import Section, one_or_more
from emray.spec.source import SourceSpec, located
from emray.spec.trigger import Position

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[list[Share], one_or_more(Share), Field(min_length=1)]
_Passes = Annotated[float, Field(ge=0)]
_Steps = Annotated[int, Field(ge=0)]
_Text = Annotated[str, Field(min_length=1)]
_Rate = Annotated[float, Field(gt=0)]
_Weight = Annotated[float, Field(ge=0)]
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


class RegulariseSpec(Section):
    """What holds a finetune near the model that it began as."""

    kl: Annotated[list[_Weight], one_or_more(_Weight), Field(min_length=1)] = Field(
        description="weight of KL(finetuned || base) beside the loss, like it a mean over trained tokens; 0: none"
    )


class StageSpec(Section):
    """What is trained on, and what of `train` is other than for every cell."""

    shorthand: ClassVar[str | None] = "like"
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
    epochs: Annotated[list[_Passes], one_or_more(_Passes), Field(min_length=1)] | None = Field(
        None, description="passes over its rows; default: train.epochs"
    )
    steps: Annotated[list[_Steps], one_or_more(_Steps), Field(min_length=1)] | None = Field(
        None, description="so many optimizer steps in place of epochs"
    )
    learning_rate: Annotated[list[_Rate], one_or_more(_Rate), Field(min_length=1)] | None = Field(
        None, description="default: train.learning_rate"
    )
    regularise: RegulariseSpec | None = Field(None, description="towards the base model, its adapter switched off")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"like": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_length(self) -> "StageSpec":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps both say how long it is; give one of them")
        return self


class ArmSpec(StageSpec):
    """What an arm trains on, and how it is asked."""

    shorthand: ClassVar[str | None] = None
    start: str | None = Field(
        None, min_length=1, description="the arm whose adapter it goes on with, of the same domain and seed"
    )
    then: Annotated[list[StageSpec], one_or_more(StageSpec), Field(min_length=1)] | None = Field(
        None, description="stages that go on with the same adapter: an arm's name, or fields; one, or a list in turn"
    )
    conditions: list[Condition] | None = Field(
        None, min_length=1, description="in which it is asked; default: generate.conditions and every context"
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        return {} if value is None else value

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """Its own fields, and what follows."""
        return (self, *(self.then or ()))


def locate_arm(fields: dict[str, Any], folder: Path) -> None:
    """Put the files that an arm's fields, as they were dumped, name where they are seen from the sweep file."""
    for stage in (fields, *fields.get("then", ())):
        for part in [*stage.get("mix", {}).values(), *([stage["interleave"]] if "interleave" in stage else [])]:
            part |= {"source": located(part["source"], folder)} if "source" in part else {}
