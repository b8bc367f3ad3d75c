"""Whose fault it is that a call brought no reply, and so what is done about it: the one policy.

    what the endpoint says                                kind          at fault      again   the stage
    ----------------------------------------------------  ------------  ------------  ------  --------------------------
    429, 529                                              rate_limited  nobody        yes     waits as it is told
    402; an empty purse by its code (insufficient_quota)  denied        the account   no      stops at once
      or, other than in a 429, by its words
    401, 404, 407, model_not_found, unknown model         refused       the account   yes*    stops, unless others are
                                                                                              served meanwhile
    400, 422 that call a field of ours unsupported        setting       our settings  no      stops, unless others were
                                                                                              served before
    400, 403, 422, 451 that tell of a filter              filtered      the request   no      goes on: a filtered row
    403, 400, 413, 422 and other 4xx                      rejected      the request   no      goes on: an api_error row
    5xx, 408, 409, 425, 499                               server        the endpoint  yes     goes on: an api_error row
    no reply in time; none that can be read               timeout,      the endpoint  yes     goes on: an api_error row
                                                          broken
    nothing listens, no such host, reset                  connection    the endpoint  yes     stops if nothing was heard

    * where something was served before: a gateway may be wrong once

An error inside a 200, of the whole or of its one choice, is read by the code it carries as if that were the status; 500
where it carries none. When `MOST_ALIKE` different prompts in a row come to the same kind of failure and nothing was
served (since; for what may be the prompt's own fault, ever), the stage stops with the endpoint's own words (asker.py).
Filtered prompts and those that are too long are never counted. A stage that stops writes no row for what it did not
get, so that the same command goes on later.

Not for waiting or asking again (asker.py). The invariant: any status and any body is exactly one kind, and nothing
raises.
"""

import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from emray.endpoint.headers import duration_s, retry_after_s

MOST_ALIKE = 24  # a few dozen: chance is out of the question, and little is wasted
LONGEST_REASON = 300  # characters of the endpoint's words that are kept


class Failure(StrEnum):
    """Why a call gave no reply; the table above."""

    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    REJECTED = "rejected"
    FILTERED = "filtered"
    SETTING = "setting"
    REFUSED = "refused"
    DENIED = "denied"


HOPELESS = (Failure.DENIED, Failure.REFUSED, Failure.SETTING)  # another try of another request would fare no better

_EMPTY_PURSE = {
    "insufficient_quota", "insufficient_credits", "insufficient_balance", "insufficient_funds", "payment_required",
    "billing_hard_limit_reached", "billing_not_active", "exceeded_current_quota_error", "account_deactivated",
}  # fmt: skip
_EMPTY_PURSE_WORDS = re.compile(
    r"credit balance is too low|(insufficient|not enough|out of|no) (account )?(credit|balance|fund|quota)",
    re.IGNORECASE,
)
_FILTERS = {
    "content_filter", "content_filtered", "content_policy_violation", "responsibleaipolicyviolation", "moderation",
    "moderation_blocked", "data_inspection_failed", "datainspectionfailed", "prohibited_content", "safety",
    "invalid_prompt", "sensitive_content", "content_blocked",
}  # fmt: skip
_FILTER_WORDS = re.compile(
    r"\bflagged\b|moderation|content[ _](filter|policy|management|exists risk)|safety (system|filter|setting)|"
    r"usage polic|response was filtered|inappropriate content",
    re.IGNORECASE,
)
_MODEL_WORDS = re.compile(
    r"not a valid model|invalid model|unknown model|no such model|model .{0,80}not (found|exist)", re.IGNORECASE
)
_TOO_LONG = re.compile(r"(maximum context|context (length|window)|too long)", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported|not support|n't support|unrecognized|unknown|unexpected|extra|not permitted|deprecated|not allowed",
    re.IGNORECASE,
)
SETTINGS = (
    "max_completion_tokens", "max_tokens", "temperature", "top_p", "top_logprobs", "logprobs", "seed",
    "reasoning_effort", "chat_template_kwargs",
)  # fmt: skip


class Complaint(NamedTuple):
    """What an endpoint says beside a status."""

    message: str
    codes: frozenset[str] = frozenset()  # lower case: code, type and status, of inner errors too
    status: int | None = None  # where the body carries one
    param: str | None = None
    headers: Mapping[str, str] = {}  # inside the body, as OpenRouter has them
    retry_s: float | None = None  # inside the body, as Gemini has it


class CallFailed(Exception):
    """A call without a reply. Stays within a worker, so it need not pickle."""

    def __init__(
        self,
        kind: Failure,
        reason: str,
        *,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        setting: str | None = None,
    ) -> None:
        self.reason = storable(reason)[:LONGEST_REASON]
        super().__init__(self.reason)
        self.kind, self.setting = kind, setting
        self.oversized = False  # whether the request was too long for the model
        self.status: int | None = None  # what the endpoint answered with, where it did
        self.headers: Mapping[str, str] = headers or {}
        self.retry_after_s = retry_after_s


def refusal(status: int, body: Any, *, headers: Mapping[str, str]) -> CallFailed:
    """What a status and its body (JSON, or text where it is none) mean."""
    said = complaint(body)
    headers = {**{name.lower(): value for name, value in headers.items()}, **said.headers}
    wait_s = retry_after_s(headers)
    kind = failure_kind(status, said)
    setting = setting_of(said) if kind == Failure.SETTING else None
    retry_s = said.retry_s if wait_s is None else wait_s
    failed = CallFailed(kind, f"{status} {said.message}", headers=headers, retry_after_s=retry_s, setting=setting)
    failed.status = status
    failed.oversized = "context_length_exceeded" in said.codes or bool(_TOO_LONG.search(said.message))
    return failed


def error_within(error: Any, *, headers: Mapping[str, str]) -> CallFailed:
    """An error that came with status 200: by the status that its code is."""
    said = complaint({"error": error})
    status = 500 if said.status is None or not 400 <= said.status < 600 else said.status
    return refusal(status, {"error": error}, headers=headers)


def failure_kind(status: int, said: Complaint) -> Failure:
    """The table's second column."""
    if status == 402 or said.codes & _EMPTY_PURSE or (status != 429 and _EMPTY_PURSE_WORDS.search(said.message)):
        return Failure.DENIED
    if status in (429, 529):
        return Failure.RATE_LIMITED
    if status >= 500 and said.codes & _FILTERS:
        return Failure.FILTERED
    if status >= 500 or status in (408, 409, 425, 499) or status < 400:
        return Failure.SERVER
    if "model_not_found" in said.codes or status in (401, 404, 407):
        return Failure.REFUSED
    if said.codes & _FILTERS or _FILTER_WORDS.search(said.message):
        return Failure.FILTERED
    if status in (400, 422) and setting_of(said) is not None:
        return Failure.SETTING
    return Failure.REFUSED if _MODEL_WORDS.search(said.message) else Failure.REJECTED


def setting_of(said: Complaint) -> str | None:
    """The field of our request that the endpoint does not support, if that is its complaint."""
    if said.param in SETTINGS and (_UNSUPPORTED.search(said.message) or any("unsupported" in c for c in said.codes)):
        return said.param
    if not _UNSUPPORTED.search(said.message) or "context_length_exceeded" in said.codes:
        return None
    named = [(said.message.find(name), -len(name), name) for name in SETTINGS if name in said.message]
    return min(named)[2] if named else None


def complaint(body: Any) -> Complaint:
    """The endpoint's own words, out of any body: OpenAI's, a list of them, FastAPI's detail, plain text, HTML."""
    if isinstance(body, list):
        body = body[0] if body else {}
    if not isinstance(body, Mapping):
        return Complaint(_plain(body))
    error = body.get("error", body)
    if not isinstance(error, Mapping):
        return Complaint(_plain(error), codes=_codes(body))
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    inner = metadata.get("raw")
    message = error.get("message") or error.get("detail") or error.get("msg") or error
    reasons = metadata.get("reasons")
    return Complaint(
        " ".join(_plain(part) for part in (message, inner, reasons) if part),
        codes=_codes(error) | _codes(error.get("innererror")) | _codes(error.get("inner_error")),
        status=_status(error.get("code")),
        param=error["param"] if isinstance(error.get("param"), str) else None,
        headers=_inner_headers(metadata.get("headers")),
        retry_s=next(_retry_delays(error.get("details")), None),
    )


def storable(text: str) -> str:
    """A text that files and tables take: JSON may carry half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def body_of(content: bytes | str) -> Any:
    """The JSON of a body, or its text; a number of any length and any depth of nesting is no reason to fail."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace") if isinstance(content, bytes) else content


def _status(code: Any) -> int | None:
    if isinstance(code, str) and re.fullmatch(r"[0-9]{3}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _codes(error: Any) -> frozenset[str]:
    if not isinstance(error, Mapping):
        return frozenset()
    return frozenset(error[name].lower() for name in ("code", "type", "status") if isinstance(error.get(name), str))


def _plain(value: Any) -> str:
    """One line of it; of an HTML page its title."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that cannot be shown"
    title = re.search(r"<title>(.*?)</title>", text[:5000], re.IGNORECASE | re.DOTALL)
    return " ".join((title.group(1) if title else text[:5000]).split()) or "(no body)"


def _inner_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): value for name, value in headers.items() if isinstance(value, str)}


def _retry_delays(details: Any) -> Iterator[float]:
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        seconds = duration_s(delay) if isinstance(delay, str) else None
        if seconds is not None:
            yield seconds
