"""`seeds`: a count, a list, or seeds added until the headline rate is known well enough.

Not for adding them (sweep.py, reduce/). The invariant: one more seed leaves the others as they were.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from emray.spec.section import Section

LARGEST_SEED = 2**31 - 1  # what the tables of results, engines and endpoints take
MOST_SEEDS = 10_000  # of a place; more is a slip


class AdaptiveSeeds(Section):
    """Seeds added, place by place (model x domain x arm), until the headline rate is known well enough."""

    min: int = Field(3, ge=2, description="seeds everywhere, before any interval is looked at")
    max: int = Field(20, ge=2, le=MOST_SEEDS, description="seeds at most in one place")
    half_width: float = Field(5.0, gt=0, description="points of the headline rate, either way of it")
    gpu_hours: float | None = Field(None, gt=0, description="stop adding when the cells' training has taken so much")

    @model_validator(mode="after")
    def _in_order(self) -> "AdaptiveSeeds":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


def _seeds_kind(value: Any) -> str:
    return "adaptive" if isinstance(value, Mapping | AdaptiveSeeds) else "numbers"


_SeedNumbers = Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]], Field(min_length=1)]
Seeds = Annotated[
    Annotated[_SeedNumbers, Tag("numbers")] | Annotated[AdaptiveSeeds, Tag("adaptive")], Discriminator(_seeds_kind)
]
