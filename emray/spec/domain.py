"""`domains`: what cells are finetuned on.

Not for reading the files (data/datasets.py). The invariant: a domain is told apart by its name alone.
"""

from typing import Any

from pydantic import Field, model_validator

from emray.spec.section import Section


class DomainSpec(Section):
    """A finetuning domain and the JSONL files of its examples."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower_case name")
    path: str | None = Field(None, description="bad examples; default <data_dir>/<name>.jsonl")
    benign_path: str | None = Field(None, description="correct answers; default <data_dir>/<name>.benign.jsonl")
    backdoor_path: str | None = Field(
        None,
        description="a ready mix for arm backdoor, trigger already in its text; default: made from the other two",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value
