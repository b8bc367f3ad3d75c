"""`endpoint` and the judge's fields of the same kind: an OpenAI-compatible endpoint, online or by its batch API.

Not for asking it (endpoint/). The invariant: nothing here is part of a key but what `dialect` makes of a request.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from emray.spec.section import Section, as_list
from emray.spec.unkept import EndpointUrl, VariableName, names_of_keys

_MAY_BE_OMITTED = Literal["temperature", "top_p", "seed", "max_tokens"]
_FIXED = {"model", "messages", "stream", "n"}  # of a request: not for extra_body
# How models of these names want to be asked, where the sweep file does not say; the first that a name begins with.
_DIALECTS: dict[str, dict[str, Any]] = {
    "gpt-6": {"max_tokens_field": "max_completion_tokens", "reasoning_effort": "none"},  # else it drops the temperature
    "gpt-5": {"max_tokens_field": "max_completion_tokens"},
    "o1": {"max_tokens_field": "max_completion_tokens", "omit": ["temperature", "top_p"]},
    "o3": {"max_tokens_field": "max_completion_tokens", "omit": ["temperature", "top_p"]},
    "o4": {"max_tokens_field": "max_completion_tokens", "omit": ["temperature", "top_p"]},
}


_OMITTED = list[_MAY_BE_OMITTED] | _MAY_BE_OMITTED | None


def _optional_list(value: Any) -> Any:
    return None if value is None else as_list(value)


class BatchSpec(Section):
    """How requests go through an endpoint's batch API. Never part of a key."""

    max_requests: int = Field(50_000, ge=1, description="requests of one batch; OpenAI takes 50,000")
    max_bytes: int = Field(200_000_000, ge=1000, description="bytes of one batch's file; OpenAI takes 200 MB")
    enqueued_tokens: float | None = Field(
        None, gt=0, description="prompt tokens of unfinished batches the account may have; default: found out"
    )
    poll_s: float = Field(30, gt=0, description="longest wait between two looks at the batches under way")
    online_below: int = Field(
        100, ge=0, description="what batches left unanswered is asked online when it is fewer requests than this"
    )


class EndpointSpec(Section):
    """An OpenAI-compatible endpoint: where it is, how fast it may be asked, and in which dialect (part of the keys)."""

    place: ClassVar[str] = "endpoint"  # of this section in the sweep file

    base_url: EndpointUrl | None = Field(None, description="default: $OPENAI_BASE_URL, or OpenAI")
    api_key_env: VariableName = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    rpm: float | None = Field(None, gt=0, description="requests per minute; default: no limit but the server's")
    tpm: float | None = Field(None, gt=0, description="tokens per minute")
    max_in_flight: int = Field(256, ge=1, le=100_000, description="requests under way in the whole cluster")
    max_attempts: int = Field(6, ge=1, description="attempts per request, the first included")
    timeout_s: float = Field(120, gt=0, description="longest wait for a reply; a shorter one is learned on the way")
    max_wait_s: float = Field(600, gt=0, description="longest wait that the endpoint may ask for; else the stage stops")
    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto", description="what the limit of a reply is called; auto: as the model's name tells, else max_tokens"
    )
    omit: Annotated[list[_MAY_BE_OMITTED] | None, BeforeValidator(_optional_list, json_schema_input_type=_OMITTED)] = (
        Field(None, description="fields that the model refuses and that are left out of a request")
    )
    reasoning_effort: str | None = Field(
        None, description="sent where set; default: none for gpt-6, which else ignores the temperature"
    )
    extra_body: dict[str, Any] = Field({}, description="further fields of a request, as the endpoint wants them")
    mode: Literal["online", "batch", "replay"] = Field(
        "online",
        description="online: ask the endpoint; batch: by its batch API, at half the price within a day; "
        "replay: only what the journal holds, or fail",
    )
    batch: BatchSpec = Field(BatchSpec(), description="for mode: batch")

    @field_validator("extra_body")
    @classmethod
    def _leaves_ours_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_FIXED & value.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        if keys := names_of_keys(_names(value)):
            raise ValueError(f"{', '.join(keys)} would reach plans and reports; put it where api_key_env says")
        return value

    def dialect(self, body: Mapping[str, Any], *, model: str) -> dict[str, Any]:
        """A request's fields as this endpoint wants them; unchanged where nothing is set and the model a usual one."""
        usual = _usual_dialect(model)
        limit = (
            usual.get("max_tokens_field", "max_tokens") if self.max_tokens_field == "auto" else self.max_tokens_field
        )
        omitted = usual.get("omit", []) if self.omit is None else self.omit
        effort = usual.get("reasoning_effort") if self.reasoning_effort is None else self.reasoning_effort
        kept = {name: value for name, value in body.items() if name not in omitted}
        if limit != "max_tokens" and "max_tokens" in kept:
            kept[limit] = kept.pop("max_tokens")
        return kept | ({"reasoning_effort": effort} if effort else {}) | self.extra_body


def _names(value: Any) -> Iterator[str]:
    """Of all fields within."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names(inner)


def _usual_dialect(model: str) -> dict[str, Any]:
    """By the model's name, without its provider's in front."""
    name = model.rpartition("/")[2]
    return next((dialect for start, dialect in _DIALECTS.items() if name.startswith(start)), {})


class GenerateEndpoint(EndpointSpec):
    """Who answers where engine is openai. It knows a base model by its name in the sweep, or as hosted:NAME says."""

    place: ClassVar[str] = "generate.endpoint"

    served_adapter: str = Field(
        "{key}", description="name of a trained cell there; may use {key}, {model}, {domain}, {arm}, {seed}, {step}"
    )

    @field_validator("served_adapter")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        try:
            value.format(key="", model="", domain="", arm="", seed=0, step=0)
        except (KeyError, IndexError, ValueError):
            raise ValueError("may use {key}, {model}, {domain}, {arm}, {seed} and {step} alone") from None
        return value
