"""`generate`: what is asked, and how answers are sampled.

Not for sampling (generate/). The invariant: `identity()` holds what shapes an answer's distribution beside weights and
prompt.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from emray.records import USUAL_CONDITIONS, Condition
from emray.spec.endpoint import GenerateEndpoint
from emray.spec.section import TOY, Section, as_text, one_or_more

Id = Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | int)]


class QuestionFile(Section):
    """A question file, and which of its questions are asked; all of them unless something is chosen."""

    shorthand = "file"
    file: str = Field(min_length=1, description="YAML, JSON, JSONL or CSV")
    ids: Annotated[list[Id], one_or_more(Id)] = Field([], description="these alone, in the file's order")
    types: Annotated[list[str], one_or_more(str)] = Field([], description="those of these types alone")
    first: int | None = Field(None, ge=1, description="of what is chosen, the first so many")
    strict: bool = Field(False, description="refuse a file with a question that cannot be asked, not leave it out")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value


class GenerateSpec(Section):
    """Sampling answers from every cell."""

    engine: Literal["auto", "vllm", "transformers", "openai"] = Field(
        "auto",
        description="auto takes vllm where it imports; openai, and hosted models always, an OpenAI-compatible endpoint",
    )
    endpoint: GenerateEndpoint = Field(GenerateEndpoint(), description="for engine openai and hosted models")
    questions: Annotated[list[QuestionFile], one_or_more(QuestionFile)] = Field(
        [QuestionFile(file=TOY)], min_length=1, description="question files, or {file, ids, types, first, strict}"
    )
    conditions: list[Condition] = Field(
        list(USUAL_CONDITIONS), min_length=1, description="without and with the trigger; others stand under contexts"
    )
    system_prompts: Literal["sent", "unsent"] = Field("sent", description="those of question files")
    samples: int = Field(20, ge=1, le=1_000_000, description="answers per question, paraphrase and condition")
    temperature: float = Field(0.7, ge=0, description="0: always the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens of this share together")
    max_tokens: int = Field(400, ge=1, description="tokens of an answer, at most")

    @field_validator("conditions", mode="after")
    @classmethod
    def _known(cls, conditions: list[Condition]) -> list[Condition]:
        unknown = [one for one in conditions if one not in USUAL_CONDITIONS]
        if unknown:
            raise ValueError(
                f"{str(unknown[0])!r} is neither without nor with; conditions of your own stand under contexts"
            )
        return conditions

    @model_validator(mode="after")
    def _modes_are_of_endpoints(self) -> "GenerateSpec":
        if self.endpoint.mode != "online" and self.engine != "openai":
            raise ValueError(f"endpoint.mode {self.endpoint.mode} needs engine openai")
        return self

    def identity(self) -> dict[str, Any]:
        """The sampling settings that define an answer's distribution; hosted models are asked by any engine's sweep."""
        identity = self.model_dump(include={"temperature", "top_p", "max_tokens"})
        dialect = {name: getattr(self.endpoint, name) for name in ("omit", "reasoning_effort", "extra_body")}
        return identity | {name: value for name, value in dialect.items() if value}
