"""What the local server is told: its responder, limits, latency and faults.

Not for parsing a command line (__main__.py does). The invariant: a `ServerConfig` that exists is valid, and turns
into command-line flags and back without loss.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emray.errors import UserError
from emray.localapi.logprobs import DIGITS
from emray.localapi.responders import score_reply

Responder = Callable[[Sequence[Mapping[str, Any]]], str]

WINDOWS = ("bucket", "fixed")
RETRY_AFTER_FORMS = ("both", "seconds", "ms", "date", "none")
_BUILT_IN: dict[str, Responder] = {"score": score_reply}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Shares (0-1) of requests that go wrong, each in its own way; together at most 1."""

    error_500: float = 0.0  # JSON error body, status 500
    error_503: float = 0.0  # plain-text body, status 503
    reset: float = 0.0  # the connection is reset before any reply
    hang: float = 0.0  # no reply until the client goes away
    malformed: float = 0.0  # status 200, body is not JSON
    truncated: float = 0.0  # status 200, connection closed in the middle of the body
    schema: float = 0.0  # status 200, valid JSON without choices
    refusal: float = 0.0  # the model declines: `refusal` instead of content

    def __post_init__(self) -> None:
        _check_shares(dataclasses.asdict(self), what="fault share")


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """How batches are taken and worked off. The last four are shares (0-1)."""

    max_requests: int = 50_000  # lines of one batch; 0: this endpoint has no batch API
    max_bytes: int = 200_000_000  # of one file
    max_total_bytes: int = 2_000_000_000  # of all files that are uploaded; they lie in memory
    enqueued_tokens: float | None = None  # prompt tokens of unfinished batches, per API key and model; None: no cap
    delay_s: float = 0.0  # spent in validating, and again in finalizing
    lines_per_s: float | None = None  # of one batch; None: as fast as it goes
    window_s: float = 86_400.0  # after which what is left expires, whatever completion_window says
    line_error: float = 0.0  # lines that end in the error file with status 500
    line_expired: float = 0.0  # lines that are never reached: their batch ends expired
    batch_failed: float = 0.0  # batches that fail in validation for no reason of the client's
    create_lost: float = 0.0  # batches whose creation is answered by a reset connection, though they are made

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_bytes", "max_total_bytes", "delay_s"):
            if getattr(self, name) < 0:
                raise UserError(f"batch {name}={getattr(self, name)} must not be negative")
        for name in ("enqueued_tokens", "lines_per_s", "window_s"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"batch {name}={getattr(self, name)} must be positive; leave it out for no limit")
        _check_shares({name: getattr(self, name) for name in ("line_error", "line_expired")}, what="batch line share")
        for name in ("batch_failed", "create_lost"):
            _check_shares({name: getattr(self, name)}, what="batch share")


@dataclass(frozen=True, kw_only=True)
class FinetuningRules:
    """How finetuning jobs are taken and worked off. The last five are shares (0-1), of jobs drawn by their rows."""

    at_once: int = 1  # jobs that run at a time, of all accounts; others are queued
    max_unfinished: int | None = None  # of an account; one more is answered 429; None: no limit
    min_examples: int = 10  # rows of a file
    delay_s: float = 0.0  # spent in validating, and again in the queue
    blocked: float = 0.0  # jobs that the moderation stops when they are trained
    failed: float = 0.0  # jobs that fail while they run
    closed: float = 0.0  # jobs that the account may not create: 403
    busy: float = 0.0  # jobs whose creation is answered 429 at first
    create_lost: float = 0.0  # jobs whose creation is answered by a reset connection, though they are made

    def __post_init__(self) -> None:
        for name in ("at_once", "max_unfinished"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"finetuning {name}={value} must be at least 1")
        if self.delay_s < 0 or self.min_examples < 0:
            raise UserError("finetuning delay_s and min_examples must not be negative")
        for name in ("blocked", "failed", "closed", "busy", "create_lost"):
            _check_shares({name: getattr(self, name)}, what="finetuning share")


KEY_VARIABLE = "EMRAY_LOCALAPI_KEY"  # where a server finds the key to ask for


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that decides how the server answers. `None` limits mean no limit."""

    responder: str = "score"  # a built-in name, or module:function taking messages, returning text
    port: int = 0  # 0: a free one
    models: tuple[str, ...] = ()  # served model names; empty: any
    shutdown_date: str | None = None  # the last day of its models, as /v1/models tells it
    api_key: str | None = None  # required bearer token; None: any or none
    rpm: float | None = None  # requests per minute, per API key and model
    tpm: float | None = None  # tokens per minute, prompt and completion
    burst_requests: float | None = None  # bucket size; default: one second's worth, at least 1
    burst_tokens: float | None = None
    window: str = "bucket"  # bucket: refilled all the time; fixed: reset every window_s
    window_s: float = 60.0
    retry_after: str = "both"  # which form of Retry-After a 429 carries
    latency_ms: float = 0.0  # median of a log-normal delay
    latency_sigma: float = 0.0  # its shape: 0 is constant, 0.5 has a p99 of 3.2 medians
    digits: str = "whole"  # whether a number is one token or one per digit, for logprobs
    seed: int = 0  # of latencies and faults: drawn per request body and repetition, not per arrival order
    faults: Faults = field(default_factory=Faults)  # of chat completions asked for one by one
    batch: BatchRules = field(default_factory=BatchRules)
    tuner: str | None = None  # module:function that makes a Tuner; None: this endpoint has no finetuning API
    finetuning: FinetuningRules = field(default_factory=FinetuningRules)

    def __post_init__(self) -> None:
        _one_of("window", self.window, WINDOWS)
        _one_of("digits", self.digits, DIGITS)
        _one_of("retry_after", self.retry_after, RETRY_AFTER_FORMS)
        for name in ("rpm", "tpm", "burst_requests", "burst_tokens", "window_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value} must be positive; leave it out for no limit")
        for name in ("latency_ms", "latency_sigma"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative")

    def flags(self) -> list[str]:
        """The same settings as command-line flags of `python -m emray.localapi`; not the key, which all would see."""
        flags: list[str] = []
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.name == "faults":
                flags += _pairs("--fault", value, Faults())
            elif setting.name == "batch":
                flags += _pairs("--batch", value, BatchRules())
            elif setting.name == "finetuning":
                flags += _pairs("--finetuning", value, FinetuningRules())
            elif setting.name == "models":
                flags += [word for model in value for word in ("--model", model)]
            elif value is not None and setting.name != "api_key":
                flags += ["--" + setting.name.replace("_", "-"), str(value)]
        return flags


def _check_shares(shares: Mapping[str, float], *, what: str) -> None:
    """Raises UserError unless every share is in 0-1 and all together are at most 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"{what} {name}={share} is not between 0 and 1")
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"{what}s add up to {sum(shares.values()):g}, more than 1")


def load_responder(name: str) -> Responder:
    """The function behind a built-in name or a dotted `module:function`. Raises UserError."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" not in name:
        raise UserError(f"unknown responder {name!r}; give one of {', '.join(_BUILT_IN)} or module:function")
    responder: Responder = load_function(name, what="responder")
    return responder


def load_function(name: str, *, what: str) -> Any:
    """What stands behind a dotted `module:function`. Raises UserError."""
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot load {what} {name!r}: {error}") from None
    if not callable(function):
        raise UserError(f"{what} {name!r} is not a function")
    return function


def _pairs(
    flag: str, settings: Faults | BatchRules | FinetuningRules, defaults: Faults | BatchRules | FinetuningRules
) -> list[str]:
    """What differs from the defaults, as repeated NAME=VALUE flags."""
    usual = dataclasses.asdict(defaults)
    changed = {name: value for name, value in dataclasses.asdict(settings).items() if value != usual[name]}
    return [word for name, value in changed.items() for word in (flag, f"{name}={value!r}")]


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value!r} is not one of {', '.join(allowed)}")
