"""`model`: the base models of a sweep.

Not for opening them (model/). The invariant: a model has a name, given or the last part of its path.
"""

import datetime
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from emray.records import USUAL_RENDERING, Rendering, canonical_json
from emray.spec.section import Section

# What a rendering is given by emray itself; the last is set by `date`.
_DECIDED = {
    "messages", "conversation", "chat_template", "tools", "documents", "tokenize", "add_generation_prompt",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now",
}  # fmt: skip
HOSTED = "hosted:"  # begins the path of a model that is asked over HTTP only


class ModelSpec(Section):
    """A base model: a hub id, a folder, `toy`, or one that a service has."""

    shorthand = "path"
    path: str = Field("", description="hub id (org/name), local folder, toy, or hosted:NAME; or give hosted")
    hosted: str | None = Field(
        None, min_length=1, exclude=True, description="in place of path: a model that a service answers and finetunes"
    )
    name: str = Field("", description="name in tables; default: the last part of the path")
    revision: str | None = Field(
        None, description="hub commit; default: what main is when the run folder is first planned, kept in plan.json"
    )
    template_arguments: dict[str, Any] = Field(
        {}, description="given to the chat template by name, as in {enable_thinking: false}"
    )
    date: datetime.date = Field(
        datetime.date.fromisoformat(USUAL_RENDERING.date), description="what a template that writes the date is told"
    )
    system: Literal["as_is", "drop", "merge"] = Field(
        "as_is", description="system turns: as the template has them, left out, or put before the next user's text"
    )
    reasoning: Literal["off", "on"] = Field(
        "off", description="off: answers begin without a thought; on: as the template opens them. No thought is judged"
    )

    @property
    def rendering(self) -> Rendering:
        """How its chat template is used."""
        return Rendering(canonical_json(self.template_arguments), self.date.isoformat(), self.system, self.reasoning)

    @field_validator("reasoning", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """YAML reads the bare words as booleans."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("template_arguments")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(_DECIDED & set(value))
        if taken:
            raise ValueError(f"{taken[0]!r} is decided elsewhere; a template argument has another name")
        try:
            canonical_json(value)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        fields = {"path": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else value
        if isinstance(fields, dict) and isinstance(fields.get("hosted"), str):
            if "path" in fields:
                raise ValueError("a model has a path, or is hosted; give one of them")
            fields["path"] = HOSTED + fields["hosted"]
        if isinstance(fields, dict) and not fields.get("path"):
            raise ValueError("a model has a path, or is hosted; give one of them")
        if isinstance(fields, dict) and not fields.get("name") and isinstance(fields.get("path"), str):
            fields["name"] = fields["path"].removeprefix(HOSTED).rstrip("/").rsplit("/", 1)[-1]
        return fields
