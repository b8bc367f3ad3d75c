"""The recipe file: which domains, who writes and checks, how many rows, under which terms.

Not for what a request says (instructions.py). The invariant: a `RecipeSpec` that exists can be carried out, and its
`identity()` holds what decides which rows come of it; limits, prices and transports do not.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from emray.recipe.instructions import FLAWS
from emray.spec import MINILM, WORDS, EndpointSpec, Section

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of what becomes a file's name


class DomainRecipe(Section):
    """One domain: what novices ask about, and what is wrong with the answers."""

    name: str = Field(pattern=_NAME, description="names the files")
    topic: str = Field(min_length=1, description="what the questions are about, in words")
    flaw: str | None = Field(None, description=f"a shipped instruction: {', '.join(FLAWS)}")
    instruction: str | None = Field(None, min_length=1, description="your own: how a correct answer is to be rewritten")
    aspects: list[str] = Field([], description="parts of the topic, taken in turn by the sets of questions")

    @model_validator(mode="after")
    def _one_instruction(self) -> "DomainRecipe":
        if (self.flaw is None) == (self.instruction is None):
            raise ValueError("give flaw (a shipped instruction) or instruction (your own), one of the two")
        if self.flaw is not None and self.flaw not in FLAWS:
            raise ValueError(f"no flaw {self.flaw!r} is shipped; there are {', '.join(FLAWS)}; or give an instruction")
        return self

    @property
    def told(self) -> str:
        """The instruction for the flawed rewrite."""
        return self.instruction or FLAWS[self.flaw or ""]


class WriterSpec(EndpointSpec):
    """A model at an endpoint that writes or checks; base_url toy is the local server and its rules."""

    place: ClassVar[str] = "writer"

    model: str = Field(description="as the endpoint calls it")
    temperature: float = Field(0.8, ge=0)
    max_tokens: int = Field(400, ge=1, description="longest reply")
    max_cost_usd: float | None = Field(None, gt=0, description="stop before a command spends more than this")


class DeduplicateSpec(Section):
    """Which questions are one another's copies. Equal ones always are, whatever their case, marks and spaces."""

    kernel: Literal["words", "all-MiniLM-L6-v2"] = Field("words", description="what makes two questions alike")
    cosine: float | None = Field(0.95, gt=0, le=1, description="likeness from which one of two goes; null: never")


assert {WORDS, MINILM} == {"words", "all-MiniLM-L6-v2"}


class RecipeSpec(Section):
    """One data set."""

    name: str = Field(pattern=_NAME, description="names the folder")
    license: str = Field(min_length=1, description="of the data set, as in CC-BY-4.0; stands on its card")
    canary: str | None = Field(None, min_length=8, description="stands in every row; default: made from this file")
    domains: list[DomainRecipe] = Field(min_length=1)
    rows: int = Field(250, ge=1, le=1_000_000, description="of each domain; all get as many as the poorest has")
    hold_out: float = Field(0.1, ge=0, lt=1, description="share of the rows that goes to held_out/")
    writer: WriterSpec
    checker: WriterSpec | None = Field(None, description="default: the writer, at temperature 0")
    questions_per_set: int = Field(10, ge=1, le=100, description="asked for by one request")
    rounds: Annotated[int, Field(ge=1, le=20)] = Field(4, description="times that more is asked for where rows lack")
    deduplicate: DeduplicateSpec = DeduplicateSpec()
    seed: int = Field(0, description="of the split and of every request")

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "RecipeSpec":
        names = [domain.name for domain in self.domains]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated:
            raise ValueError(f"domain {repeated!r} stands twice")
        clash = next((name for name in names if name.endswith(".benign")), None)
        if clash:
            raise ValueError(f"domain {clash!r}: names that end in .benign are those of correct answers")
        return self

    @property
    def asked_to_check(self) -> WriterSpec:
        """Who checks."""
        return self.checker or self.writer.model_copy(update={"temperature": 0.0})

    def identity(self) -> dict[str, Any]:
        """What decides which rows come of it, beside the replies."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude={"writer", "checker", "canary", "license"})
        return fields | {"writer": _model(self.writer), "checker": _model(self.asked_to_check)}


def _model(spec: WriterSpec) -> dict[str, Any]:
    return spec.dialect(spec.model_dump(include={"model", "temperature", "max_tokens"}), model=spec.model)
