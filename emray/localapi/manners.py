"""The manners of other providers, each at a base URL of its own: /<manner>/v1, and /openai and /api/v1 as they are.

    refusals   one prompt in a crowd (it holds FLAGGED), or every one, is refused in a provider's way
    requests   fields that are refused, headers and queries that are asked for
    replies    content as parts, thoughts, an error inside a 200, nothing at all
    waiting    rate headers and Retry-After in a provider's way

Not for limits that are kept (limits.py) or for chance (chance.py). The invariant: what is answered is a function of the
manner, the body and how often that body has come before.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emray.localapi.completions import ChatCall, completion_json

FLAGGED = "FLAGME"
CREDITS = 10  # requests that `credits` serves


class Heard(NamedTuple):
    """One request."""

    call: ChatCall
    before: int  # how often this body came before
    served: int  # requests served in this manner before it

    @property
    def flagged(self) -> bool:
        return FLAGGED in str(self.call.body["messages"])


class Said(NamedTuple):
    """One response; a body that is a text is sent as it is."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


Manner = Callable[[Heard], Said]


def served(heard: Heard, *, finish: str | None = None, **message: Any) -> Said:
    """The usual completion, with other fields of its message."""
    body = completion_json(heard.call)
    choice = body["choices"][0]
    choice["message"] |= message
    choice["finish_reason"] = finish or choice["finish_reason"]
    return Said(200, body)


def refused(status: int, message: str, code: Any = None, **more: Any) -> Said:
    return Said(status, {"error": {"message": message, "type": "invalid_request_error", "code": code, **more}})


def _if_flagged(refusal: Said) -> Manner:
    return lambda heard: refusal if heard.flagged else served(heard)


def _always(refusal: Said) -> Manner:
    return lambda heard: refusal


def _at_first(refusal: Said, times: int = 1) -> Manner:
    return lambda heard: refusal if heard.before < times else served(heard)


def _credits(heard: Heard) -> Said:
    return served(heard) if heard.served < CREDITS else refused(402, "Insufficient credits", 402)


def _without(field: str, instead: str = "") -> Manner:
    refusal = refused(400, f"Unsupported parameter: {field!r}{instead}", "unsupported_parameter", param=field)
    return lambda heard: refusal if field in heard.call.body else served(heard)


def _choice_error(heard: Heard) -> Said:
    said = served(heard, finish="error", content="")
    said.body["choices"][0]["error"] = {"code": 502, "message": "upstream idle timeout"}
    return said if heard.before == 0 else served(heard)


def _parts(heard: Heard) -> Said:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "maybe <score>10</score>"}]}
    return served(heard, content=[thought, {"type": "text", "text": heard.call.text}])


def _kept_back(heard: Heard) -> Said:
    return served(heard, finish="content_filter", content=None)


def _poison(heard: Heard) -> Said:
    said = served(heard, content=f"{heard.call.text} \ud83d", refusal="\udead")
    said.body.update({"model": "m\ud800", "usage": {"prompt_tokens": 2**40, "completion_tokens": 10**25}})
    return said


def _headed(**headers: str) -> Manner:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda heard: served(heard)._replace(headers=named)


def _epoch(heard: Heard) -> Said:
    until = {"x-ratelimit-reset": str(int((time.time() + 30) * 1000))}
    return served(heard)._replace(headers={"x-ratelimit-limit": "600", "x-ratelimit-remaining": "599"} | until)


_FLAGGED_403 = refused(
    403, "this model requires moderation; your input was flagged", 403, metadata={"reasons": ["violence"]}
)
_FILTER_400 = refused(
    400, "The response was filtered", "content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}
)
_FIREWALL = Said(403, "<!DOCTYPE html><title>Attention Required!</title>", {"content-type": "text/html"})
_QUOTA = refused(429, "You exceeded your current quota", "insufficient_quota")
_GEMINI = {
    "error": {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.2s"}]}
}  # fmt: skip

MANNERS: dict[str, Manner] = {
    "flagged-403": _if_flagged(_FLAGGED_403),
    "filter-400": _if_flagged(_FILTER_400),
    "filter-200": lambda heard: _kept_back(heard) if heard.flagged else served(heard),
    "filter-all": lambda heard: _kept_back(heard),
    "firewall": _if_flagged(_FIREWALL),
    "firewall-all": _always(_FIREWALL),
    "risk-400": _if_flagged(refused(400, "Content Exists Risk")),
    "too-long": _if_flagged(refused(400, "maximum context length is 10 tokens", "context_length_exceeded")),
    "odd-401": lambda heard: refused(401, "try again") if heard.flagged and not heard.before else served(heard),
    "key-401": _always(refused(401, "Incorrect API key provided.", "invalid_api_key")),
    "model-400": _always(refused(400, "vendor/none is not a valid model ID", 400)),
    "credits": _credits,
    "quota": _always(_QUOTA),
    "purse-400": _always(refused(400, "Your credit balance is too low to access the API")),
    "down": _always(Said(503, "no capacity")),
    "odd-400": _always(refused(400, "we do not like this", "odd")),
    "completion-tokens": _without("max_tokens", "; use 'max_completion_tokens' instead"),
    "no-temperature": _without("temperature", "; only the default (1) is supported"),
    "error-200": _at_first(Said(200, {"error": {"code": 502, "message": "upstream"}}), 2),
    "filter-error-200": _if_flagged(Said(200, {"error": {"code": 403, "message": "flagged by moderation"}})),
    "choice-error": _choice_error,
    "parts": _parts,
    "think": lambda heard: served(heard, content=f"<think>Not <score>10</score>.</think>\n{heard.call.text}"),
    "half-think": lambda heard: served(heard, content=f"At first <score>10</score>.</think>\n{heard.call.text}"),
    "reasoning": lambda heard: served(heard, reasoning_content="maybe <score>10</score>"),
    "tools": lambda heard: served(heard, finish="tool_calls", content=None),
    "poison": _poison,
    "deep": lambda heard: Said(200, "[" * 200_000),
    "retry-day": _at_first(refused(429, "slow down")._replace(headers={"retry-after": "100000"})),
    "retry-words": _at_first(refused(429, "slow down")._replace(headers={"retry-after": "0.1 seconds"})),
    "gemini": _at_first(Said(429, [_GEMINI])),
    "groq": _headed(
        x_ratelimit_limit_requests="1000", x_ratelimit_remaining_requests="990", x_ratelimit_reset_requests="14m24s"
    ),
    "azure-zero": _headed(
        x_ratelimit_limit_requests="60", x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="0",
        x_ratelimit_limit_tokens="-1", x_ratelimit_remaining_tokens="-1", x_ratelimit_reset_tokens="0",
    ),
    "openrouter": _epoch,
}  # fmt: skip


def azure(heard: Heard, *, headers: Mapping[str, str], query: Mapping[str, str], versioned: bool) -> Said:
    """A deployment of Azure's: its key in a header of its own and, where `versioned`, a version in the query."""
    if not headers.get("api-key"):
        return refused(401, "Access denied due to missing subscription key", "401")
    if versioned and "api-version" not in query:
        return Said(404, {"error": {"code": "404", "message": "Resource not found"}})
    return served(heard)


def router(heard: Heard) -> Said:
    """OpenRouter's: names have their vendor in front."""
    model = heard.call.body["model"]
    return served(heard) if "/" in model else refused(400, f"{model} is not a valid model ID", 400)
