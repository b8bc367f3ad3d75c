"""`model`: the base models of a sweep.

Not for opening them (data/models.py). The invariant: a model has a name, given or the last part of its path.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from emray.spec.section import Section

HOSTED = "hosted:"  # begins the path of a model that is asked over HTTP only


class ModelSpec(Section):
    """A base model: a hub id, a folder, or `toy`."""

    path: str = Field(description="hub id (org/name), local folder, toy, or hosted:NAME (asked over HTTP only)")
    name: str = Field("", description="name in tables; default: the last part of the path")
    revision: str | None = Field(None, description="hub commit; pin it to make keys independent of the hub")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        fields = {"path": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else value
        if isinstance(fields, dict) and not fields.get("name") and isinstance(fields.get("path"), str):
            fields["name"] = fields["path"].removeprefix(HOSTED).rstrip("/").rsplit("/", 1)[-1]
        return fields
