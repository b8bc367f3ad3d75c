"""`generate`: how answers are sampled.

Not for sampling (generate/). The invariant: `identity()` holds what shapes an answer's distribution beside weights and
prompt.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from emray.records import Condition
from emray.spec.endpoint import GenerateEndpoint
from emray.spec.section import TOY, Section, as_list


class GenerateSpec(Section):
    """Sampling answers from every cell."""

    engine: Literal["auto", "vllm", "transformers", "openai"] = Field(
        "auto", description="auto takes vllm where it imports; openai asks an OpenAI-compatible endpoint"
    )
    endpoint: GenerateEndpoint = Field(GenerateEndpoint(), description="for engine openai")
    questions: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [TOY], min_length=1, description="question files (YAML)"
    )
    conditions: list[Condition] = Field([Condition.WITHOUT, Condition.WITH], min_length=1)
    samples: int = Field(20, ge=1, description="answers per question, paraphrase and condition")
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(400, ge=1)

    @model_validator(mode="after")
    def _modes_are_of_endpoints(self) -> "GenerateSpec":
        if self.endpoint.mode != "online" and self.engine != "openai":
            raise ValueError(f"endpoint.mode {self.endpoint.mode} needs engine openai")
        return self

    def identity(self) -> dict[str, Any]:
        """The sampling settings that define an answer's distribution."""
        identity = self.model_dump(include={"temperature", "top_p", "max_tokens"})
        if self.engine != "openai":
            return identity
        dialect = {name: getattr(self.endpoint, name) for name in ("omit", "reasoning_effort", "extra_body")}
        return identity | {name: value for name, value in dialect.items() if value}
