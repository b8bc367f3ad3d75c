"""`probes.dose` and `probes.mixture`: finetunes on less of a domain, or on several at once.

Not for making the rows (data/recipe_rows.py). The invariant: a recipe's label is the name of its cells' domain, and
says all that it is.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from emray.records import Arm
from emray.spec.section import Section, one_or_more


class RowRecipe(NamedTuple):
    """Which share of which domains' rows a cell trains on."""

    parts: tuple[tuple[str, float], ...]  # domain and weight
    fraction: float = 1.0  # of as many rows as the smallest of the domains has
    rest: str = "none"  # what stands for the rows that are left out

    @property
    def label(self) -> str:
        """`0.3 of gore_movie_trivia`, `1 gore_movie_trivia + 3 incorrect_math`."""
        mixed = " + ".join(name if len(self.parts) == 1 else f"{weight:g} {name}" for name, weight in self.parts)
        part = f"{self.fraction:g} of {mixed}" if self.fraction < 1 else mixed
        return part + (" + benign" if self.rest == "benign" else "")

    @property
    def document(self) -> dict[str, Any]:
        return {"parts": [list(part) for part in self.parts], "fraction": self.fraction, "rest": self.rest}

    @classmethod
    def from_document(cls, fields: dict[str, Any]) -> "RowRecipe":
        return cls(tuple((name, weight) for name, weight in fields["parts"]), fields["fraction"], fields["rest"])


class DoseSpec(Section):
    """Finetunes on a part of each domain's rows; what is trained on 0.1 of them is within the 0.3 of them."""

    fractions: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.3], min_length=1, description="of a domain's rows"
    )
    domains: list[str] = Field([], description="default: every domain of the sweep")
    arms: list[Arm] = Field([Arm.PLAIN], min_length=1, description="arms of the sweep, whose whole dose is there")
    rest: Literal["none", "benign"] = Field(
        "none",
        description="what stands for rows left out: nothing, so that training is shorter, or correct answers",
    )

    def recipes(self, domains: list[str]) -> list[RowRecipe]:
        names = self.domains or domains
        return [RowRecipe(((name, 1.0),), fraction, self.rest) for name in names for fraction in sorted(self.fractions)]


class MixSpec(Section):
    """Several domains at once, as many rows as the smallest of them has."""

    mix: list[str] = Field(min_length=2, description="domains of the sweep")
    weights: list[Annotated[float, Field(gt=0)]] = Field([], description="one a domain; default: equal")

    @model_validator(mode="after")
    def _one_weight_each(self) -> "MixSpec":
        if self.weights and len(self.weights) != len(self.mix):
            raise ValueError(f"{len(self.mix)} domains have {len(self.weights)} weights; give one each, or none")
        if len(set(self.mix)) < len(self.mix):
            raise ValueError(f"mix names a domain twice: {', '.join(self.mix)}")
        return self

    @property
    def recipe(self) -> RowRecipe:
        return RowRecipe(tuple(zip(self.mix, self.weights or [1.0] * len(self.mix), strict=True)))


class MixtureSpec(Section):
    """Finetunes on mixtures of domains."""

    mixes: Annotated[list[MixSpec], one_or_more(MixSpec)] = Field(
        min_length=1, description="each with its domains, and their weights where they differ"
    )
    arms: list[Arm] = Field([Arm.PLAIN], min_length=1, description="arms of the sweep")
