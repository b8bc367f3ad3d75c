"""`domains`: what cells are finetuned on.

Not for reading the files (data/datasets.py). The invariant: a domain is told apart by its name alone.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from emray.spec.section import Section
from emray.spec.source import SourceSpec


def _word(value: Any) -> Any:
    """What is said of a domain as a text: yes and no for truth values, numbers as they are written."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, int | float) and math.isfinite(value) else value


Word = Annotated[
    str, BeforeValidator(_word, json_schema_input_type=str | bool | float), Field(pattern=r"^[^\s=;][^\n=;]{0,39}$")
]


class DomainSpec(Section):
    """A finetuning domain and the files of its examples."""

    shorthand = "name"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower_case name")
    path: SourceSpec | None = Field(None, description="bad examples; default <data_dir>/<name>.jsonl")
    benign_path: SourceSpec | None = Field(None, description="correct answers; default <data_dir>/<name>.benign.jsonl")
    backdoor_path: SourceSpec | None = Field(
        None,
        description="a ready mix for arm backdoor, trigger already in its text; default: made from the other two",
    )

    attributes: dict[Word, Word] = Field(
        {}, description="what is known of the domain, to compare groups by: {critical: yes, stealth: high}"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def sources(self) -> Mapping[str, SourceSpec]:
        """The files that are named, by field."""
        named = {"path": self.path, "benign_path": self.benign_path, "backdoor_path": self.backdoor_path}
        return {field: source for field, source in named.items() if source}

    @property
    def encrypted(self) -> bool:
        """Whether any of its texts must not be written anywhere."""
        return any(source.encrypted for source in self.sources.values())
