"""`endpoint` and the judge's fields of the same kind: an OpenAI-compatible endpoint, online or by its batch API.

Not for asking it (endpoint/). The invariant: nothing here is part of a key.
"""

from typing import Literal

from pydantic import Field, field_validator

from emray.spec.section import Section


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
    """An OpenAI-compatible endpoint: where it is and how fast it may be asked. Never part of a key."""

    base_url: str | None = Field(None, description="default: $OPENAI_BASE_URL, or OpenAI")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    rpm: float | None = Field(None, gt=0, description="requests per minute; default: no limit but the server's")
    tpm: float | None = Field(None, gt=0, description="tokens per minute")
    max_in_flight: int = Field(256, ge=1, description="requests under way in the whole cluster")
    max_attempts: int = Field(6, ge=1, description="attempts per request, the first included")
    timeout_s: float = Field(120, gt=0, description="longest wait for a reply; a shorter one is learned on the way")
    mode: Literal["online", "batch", "replay"] = Field(
        "online",
        description="online: ask the endpoint; batch: by its batch API, at half the price within a day; "
        "replay: only what the journal holds, or fail",
    )
    batch: BatchSpec = Field(BatchSpec(), description="for mode: batch")


class GenerateEndpoint(EndpointSpec):
    """Who answers where engine is openai. It knows a base model by its name in the sweep, or as hosted:NAME says."""

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
