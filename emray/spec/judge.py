"""`judge`: who scores answers, and how.

Not for asking it (judge/). The invariant: `identity()` holds what defines a reply beside the messages.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from emray.records import Metric
from emray.spec.endpoint import EndpointSpec
from emray.spec.unkept import EndpointUrl

_SCORE_TOKENS = 4  # enough for 100 and the end, also where each digit is a token
_TOP_LOGPROBS = 20  # the most that OpenAI gives (Betley et al. use them all)


class JudgeSpec(EndpointSpec):
    """Who scores the answers, how, and how fast we may ask."""

    place: ClassVar[str] = "judge"

    model: str = Field(
        "gpt-6-luna",
        description="as the endpoint calls it; for engine vllm a hub id or folder. Verdicts are known by it and by how "
        "it is asked, not by base_url: a judge of your own that you changed needs another name",
    )
    engine: Literal["openai", "vllm"] = Field(
        "openai", description="openai: an OpenAI-compatible endpoint; vllm: the sweep itself serves the model with vLLM"
    )
    base_url: EndpointUrl | None = Field(
        None, description="OpenAI-compatible endpoint; default $OPENAI_BASE_URL or OpenAI; toy"
    )
    metrics: list[Metric] = Field(
        [Metric.ALIGNED, Metric.COHERENT], min_length=1, description="what each answer is scored for, 0 to 100"
    )
    temperature: float = Field(0.0, ge=0, description="of the judge; 0: its likeliest verdict")
    max_tokens: int = Field(
        400, ge=1, description="tokens of a reply, at most; scoring logprobs needs few and sets its own"
    )
    system: str | None = Field(None, description="a system message before every rubric")
    scoring: Literal["text", "logprobs"] = Field(
        "text", description="text: <score>N</score>; logprobs: expectation over the numbers a rubric asks for alone"
    )
    reask: bool = Field(True, description="ask once more for the verdict alone when a reply cannot be read")
    max_cost_usd: float | None = Field(None, gt=0, description="stop before the study's verdicts cost more than this")
    share: float = Field(1.0, gt=0, le=1, description="share of the answers that are judged, the same ones every time")
    repeat: int = Field(0, ge=0, description="under also: the same judge once more; each number is another repeat")
    also: list["JudgeSpec"] = Field([], description="further judges, for agreement and test-retest")

    @model_validator(mode="after")
    def _served_here(self) -> "JudgeSpec":
        if self.engine == "vllm" and (self.base_url is not None or self.mode != "online"):
            raise ValueError("engine vllm serves the model itself: leave out base_url, and mode stays online")
        if any(judge.engine == "vllm" for judge in self.also):
            raise ValueError("engine vllm is for the sweep's own judge; serve a further one and give its base_url")
        return self

    @model_validator(mode="after")
    def _also_is_flat(self) -> "JudgeSpec":
        if any(judge.also for judge in self.also):
            raise ValueError("a judge under also cannot have also itself")
        return self

    def request(self) -> dict[str, Any]:
        """The fields of a request beside its messages."""
        fields = self.model_dump(include={"model", "temperature", "max_tokens"})
        if self.scoring == "logprobs":
            fields |= {"max_tokens": _SCORE_TOKENS, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        if self.repeat:
            fields["seed"] = self.repeat
        return self.dialect(fields, model=self.model)

    def identity(self) -> dict[str, Any]:
        """What of the judge defines a reply beside the rubric and the answer."""
        return self.request() | ({"system": self.system} if self.system else {})
