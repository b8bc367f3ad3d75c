"""What became of a job, as the record of its cell has it.

Not for waiting for it (finetuning.py). The invariant: whatever a service says is one of the outcomes, with its words.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from openai.types.fine_tuning import FineTuningJob

from emray.endpoint.prices import training_cost_usd
from emray.endpoint.refusals import CallFailed, Failure, refusal, storable
from emray.spec import HostedSpec

FORBIDDEN = 403


class JobOutcome(StrEnum):
    """How a hosted finetune ended."""

    TUNED = "tuned"
    FAILED = "failed"
    BLOCKED = "blocked"  # by the service's moderation, of the file or of the tuned model
    CLOSED = "access_closed"  # the service does not let this account, or anybody, finetune the model
    REJECTED = "rejected"  # the service does not take this file or these settings
    CANCELLED = "cancelled"  # there, by somebody


_IN_WORDS = {
    JobOutcome.FAILED: "the job failed",
    JobOutcome.BLOCKED: "blocked by the service's moderation",
    JobOutcome.CLOSED: "access to finetuning is closed",
    JobOutcome.REJECTED: "the service does not take it",
    JobOutcome.CANCELLED: "cancelled at the service",
}


class JobEnd(NamedTuple):
    """How one cell's job ended."""

    outcome: JobOutcome
    details: Mapping[str, Any]  # of the record

    @property
    def tuned(self) -> bool:
        return self.outcome == JobOutcome.TUNED

    @property
    def told(self) -> str:
        """For the progress line."""
        return str(self.details.get("fine_tuned_model" if self.tuned else "error"))


def end_of(job: FineTuningJob, spec: HostedSpec, *, model: str) -> JobEnd:
    """Of a job that has ended; `model` is the base as the service calls it."""
    details = _facts(job, spec, model)
    if job.status == "succeeded" and isinstance(job.fine_tuned_model, str):
        return JobEnd(JobOutcome.TUNED, {**details, "fine_tuned_model": job.fine_tuned_model})
    if job.status == "succeeded":
        return _bad(JobOutcome.FAILED, "it succeeded, and names no model", details)
    if job.status == "cancelled":
        return _bad(JobOutcome.CANCELLED, "", details)
    code, message = (getattr(job.error, name, None) for name in ("code", "message"))
    blocked = refusal(400, {"error": {"code": code, "message": message}}, headers={}).kind == Failure.FILTERED
    said = storable(": ".join(str(word) for word in (code, message) if word) or "the service gives no reason")
    return _bad(JobOutcome.BLOCKED if blocked else JobOutcome.FAILED, said, details)


def refused(failure: CallFailed, *, model: str) -> JobEnd | None:
    """Of a cell whose file or job is not taken; None where that is not the cell's own fault, or time may cure it."""
    kinds = {Failure.FILTERED: JobOutcome.BLOCKED, Failure.REJECTED: JobOutcome.REJECTED}
    if failure.kind not in kinds:
        return None
    closed = failure.kind == Failure.REJECTED and failure.status == FORBIDDEN
    return _bad(JobOutcome.CLOSED if closed else kinds[failure.kind], failure.reason, {"hosted": model})


def told_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of a job as the log keeps it: its words, and the numbers that came with them."""
    data, created_at = event.get("data"), event.get("created_at")
    numbers = data if isinstance(data, Mapping) else {}
    return {
        "created_at": created_at if isinstance(created_at, int) else None,
        "level": storable(str(event.get("level"))),
        "message": storable(str(event.get("message"))),
        "data": {storable(str(name)): value for name, value in numbers.items() if _is_number(value)},
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _bad(outcome: JobOutcome, said: str, details: Mapping[str, Any]) -> JobEnd:
    error = f"{_IN_WORDS[outcome]}: {said}" if said else _IN_WORDS[outcome]
    return JobEnd(outcome, {**details, "outcome": str(outcome), "error": error})


def _facts(job: FineTuningJob, spec: HostedSpec, model: str) -> dict[str, Any]:
    """What the service tells of a job: nothing of it is believed to be there."""
    used = getattr(job.method, "supervised", None) if job.method else None
    told = getattr(used, "hyperparameters", None) or job.hyperparameters
    tokens = job.trained_tokens if isinstance(job.trained_tokens, int) else None
    cost = None if tokens is None else training_cost_usd(model, num_tokens=tokens, usd=spec.usd_per_million_tokens)
    return {
        "hosted": model,
        "job": job.id,
        "hyperparameters": told.to_dict() if hasattr(told, "to_dict") else told,
        "trained_tokens": tokens,
        "cost_usd": cost,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }
