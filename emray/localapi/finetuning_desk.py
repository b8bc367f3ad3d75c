"""Finetuning jobs: `/v1/fine_tuning/jobs`, from the file that was uploaded to a model that answers.

Not for files (uploads.py) or for training (a Tuner of served_models.py does). The invariant: a job that was accepted
ends, succeeded, failed or cancelled, and only a succeeded one has a model.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web

from emray.localapi.batch_desk import checked_metadata
from emray.localapi.chance import draws
from emray.localapi.completions import BadRequest, parse_json
from emray.localapi.config import FinetuningRules, ServerConfig
from emray.localapi.reset import reset_connection
from emray.localapi.served_models import ServedModels, Tuner, TuningOrder
from emray.localapi.stats import Stats
from emray.localapi.uploads import FOR_FINETUNES, FileShelf, page

_USUAL_PAGE = 20
_LONGEST_SUFFIX = 64
_TOKENS_A_CHARACTER = 0.25
_BLOCKED = {
    "code": "invalid_training_file",
    "message": "This training file was blocked by our moderation system because it contains too many examples that "
    "violate our usage policies, or because the model created from it fails our evaluations (refusals_v3).",
    "param": "training_file",
}
_FAILED = {"code": "server_error", "message": "The job failed due to an internal error.", "param": None}
UNFINISHED = ("validating_files", "queued", "running")


class _Cancelled(Exception):
    """Ends the training of a job that was cancelled."""


class _Event(NamedTuple):
    """Something that a job tells."""

    id: str
    created_at: int
    message: str
    data: Mapping[str, float]

    def json(self) -> dict[str, Any]:
        kind = "metrics" if self.data else "message"
        return {**self._asdict(), "object": "fine_tuning.job.event", "level": "info", "type": kind}


@dataclass
class FinetuningJob:
    """One job: what was asked, how far it is, what came of it."""

    id: str
    api_key: str
    order: TuningOrder
    training_file: str
    asked: dict[str, Any]  # hyper-parameters as they were given
    suffix: str | None
    metadata: dict[str, str] | None
    created_at: int  # Unix seconds, as all times of the API
    digest: str  # of the training file, which decides the job's faults
    status: str = "validating_files"
    finished_at: int | None = None
    trained_tokens: int | None = None
    fine_tuned_model: str | None = None
    error: Mapping[str, Any] | None = None
    events: list[_Event] = field(default_factory=list)

    def tell(self, message: str, **data: float) -> None:
        self.events.append(_Event(f"ftevent-{secrets.token_hex(12)}", int(time.time()), message, data))

    def end(self, status: str, error: Mapping[str, Any] | None = None) -> None:
        self.status, self.error, self.finished_at = status, error, int(time.time())
        self.tell(error["message"] if error else f"The job has {status}")

    def json(self) -> dict[str, Any]:
        """The `fine_tuning.job` object."""
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "model": self.order.model,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "fine_tuned_model": self.fine_tuned_model,
            "organization_id": "org-local",
            "result_files": [],
            "status": self.status,
            "validation_file": None,
            "training_file": self.training_file,
            "hyperparameters": self.asked,
            "method": {"type": "supervised", "supervised": {"hyperparameters": self.asked}},
            "trained_tokens": self.trained_tokens,
            "error": self.error,
            "seed": self.order.seed,
            "estimated_finish": None,
            "integrations": [],
            "metadata": self.metadata,
        }


class FinetuningDesk:
    """All jobs of one server, the handlers that take them, and the work on them."""

    def __init__(
        self, config: ServerConfig, *, files: FileShelf, tuner: Tuner, models: ServedModels, stats: Callable[[], Stats]
    ) -> None:
        self._rules, self._seed = config.finetuning, config.seed
        self._files, self._tuner, self._models, self._stats = files, tuner, models, stats
        self._running = asyncio.Semaphore(self._rules.at_once)
        self._jobs: dict[str, FinetuningJob] = {}
        self._seen: dict[str, int] = {}  # how often a file's job was asked for
        self._work: set[asyncio.Task[None]] = set()

    # The handlers --------------------------------------------------------------------------------------------

    async def create(self, request: web.Request, api_key: str) -> web.Response:
        body = parse_json(await request.read())
        job = self._accepted(body, api_key)
        self._jobs[job.id] = job
        self._stats().jobs["created"] += 1
        job.tell("Created fine-tuning job: " + job.id)
        task = asyncio.create_task(self._work_off(job))
        self._work.add(task)
        task.add_done_callback(partial(self._ended, job))
        if self._draw("create", job.digest, self._seen[job.digest]) < self._rules.create_lost:
            reset_connection(request)
        return web.json_response(job.json())

    async def listing(self, request: web.Request, api_key: str) -> web.Response:
        wanted = {name[9:-1]: value for name, value in request.query.items() if name.startswith("metadata[")}
        mine = (
            job
            for job in self._jobs.values()
            if job.api_key == api_key and wanted.items() <= (job.metadata or {}).items()
        )
        return web.json_response(page(mine, request.query, usual=_USUAL_PAGE))

    async def retrieve(self, request: web.Request, api_key: str) -> web.Response:
        return web.json_response(self._job(request, api_key).json())

    async def cancel(self, request: web.Request, api_key: str) -> web.Response:
        job = self._job(request, api_key)
        if job.status not in UNFINISHED:
            raise BadRequest(f"Job {job.id} has {job.status} and cannot be cancelled.", status=400)
        job.end("cancelled")
        return web.json_response(job.json())

    async def events(self, request: web.Request, api_key: str) -> web.Response:
        return web.json_response(page(self._job(request, api_key).events, request.query, usual=_USUAL_PAGE))

    async def checkpoints(self, request: web.Request, api_key: str) -> web.Response:
        """None are kept."""
        self._job(request, api_key)
        return web.json_response(page([], request.query, usual=_USUAL_PAGE))

    async def close(self, app: web.Application) -> None:
        """Drop the work under way."""
        for job in self._jobs.values():
            if job.status in UNFINISHED:
                job.end("cancelled")
        for task in list(self._work):
            task.cancel()

    def _job(self, request: web.Request, api_key: str) -> FinetuningJob:
        job = self._jobs.get(request.match_info["id"])
        if job is None or job.api_key != api_key:
            raise BadRequest(f"Could not find fine tune: {request.match_info['id']}", status=404)
        return job

    def _accepted(self, body: Any, api_key: str) -> FinetuningJob:
        """The job that a request asks for. Raises BadRequest."""
        if not isinstance(body, dict) or not isinstance(body.get("training_file"), str):
            raise BadRequest("training_file is required", param="training_file")
        file = self._files.get(body["training_file"], api_key=api_key)
        if file.purpose != FOR_FINETUNES:
            raise BadRequest(f"the file's purpose must be {FOR_FINETUNES!r}", param="training_file")
        digest = hashlib.sha256(file.content + str(body.get("seed")).encode()).hexdigest()
        self._seen[digest] = self._seen.get(digest, 0) + 1
        self._admit(body.get("model"), digest, api_key)
        asked = _hyperparameters(body)
        return FinetuningJob(
            f"ftjob-{secrets.token_hex(12)}",
            api_key,
            _order(body, asked, _examples(file.content, rules=self._rules)),
            file.id,
            asked,
            _suffix(body.get("suffix")),
            checked_metadata(body.get("metadata")),
            int(time.time()),
            digest,
        )

    def _admit(self, model: Any, digest: str, api_key: str) -> None:
        """Raises BadRequest for a model that is not there, an account that may not, and a full queue."""
        if model not in self._tuner.bases:
            raise BadRequest(f"The model `{model}` does not exist.", status=404, code="model_not_found", param="model")
        if self._draw("closed", digest) < self._rules.closed:
            message = "This organization does not have access to fine-tuning. It is closed to new jobs."
            raise BadRequest(message, status=403, code="permission_denied")
        unfinished = sum(job.api_key == api_key and job.status in UNFINISHED for job in self._jobs.values())
        most = self._rules.max_unfinished
        busy = self._seen[digest] == 1 and self._draw("busy", digest) < self._rules.busy
        if busy or (most is not None and unfinished >= most):
            message = f"Too many fine-tuning jobs: {unfinished} are unfinished. Try again when one has ended."
            raise BadRequest(message, status=429, code="rate_limit_exceeded")

    # The work ------------------------------------------------------------------------------------------------

    async def _work_off(self, job: FinetuningJob) -> None:
        """Validate, wait, train, moderate."""
        await asyncio.sleep(self._rules.delay_s)
        await self._reach(job, "queued")
        await asyncio.sleep(self._rules.delay_s)
        async with self._running:
            await self._reach(job, "running")
            answerer = await asyncio.to_thread(self._tuner.tune, job.order, partial(_told, job))
        if job.status not in UNFINISHED:
            return
        if self._draw("failed", job.digest) < self._rules.failed:
            job.end("failed", _FAILED)
        elif self._draw("blocked", job.digest) < self._rules.blocked:
            job.end("failed", _BLOCKED)
        else:
            self._succeed(job)
            self._models.add(str(job.fine_tuned_model), answerer, api_key=job.api_key)

    async def _reach(self, job: FinetuningJob, status: str) -> None:
        if job.status not in UNFINISHED:
            raise _Cancelled
        job.status = status
        job.tell(f"Fine-tuning job is {status}")

    def _succeed(self, job: FinetuningJob) -> None:
        order = job.order
        characters = sum(len(str(turn.get("content"))) for chat in order.examples for turn in chat)
        job.trained_tokens = round(characters * _TOKENS_A_CHARACTER) * (order.epochs or 1)
        job.fine_tuned_model = f"ft:{order.model}:local:{job.suffix or ''}:{job.id[-8:]}"
        job.end("succeeded")

    def _ended(self, job: FinetuningJob, task: asyncio.Task[None]) -> None:
        """Count how a job ended; a tuner that raised has failed it."""
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, _Cancelled):
            job.end("failed", {**_FAILED, "message": f"{type(error).__name__}: {error}"})
        self._stats().jobs[job.status] += 1

    def _draw(self, what: str, digest: str, repetition: int = 0) -> float:
        return draws(self._seed, f"{what}/{digest}", repetition)[0]


def _told(job: FinetuningJob, step: int, num_steps: int, loss: float) -> None:
    """A step is an event. Raises _Cancelled, which ends the training."""
    if job.status not in UNFINISHED:
        raise _Cancelled
    job.tell(f"Step {step}/{num_steps}: training loss={loss:.2f}", step=step, train_loss=loss)


def _hyperparameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """As they were given, under `method` or as once by themselves; auto where nothing is said. Raises BadRequest."""
    method = body.get("method") or {"type": "supervised"}
    if not isinstance(method, dict) or method.get("type") != "supervised":
        raise BadRequest("this server knows method supervised alone", param="method")
    given = (method.get("supervised") or {}).get("hyperparameters") or body.get("hyperparameters") or {}
    asked = {name: given.get(name, "auto") for name in ("n_epochs", "batch_size", "learning_rate_multiplier")}
    for name, value in asked.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if value != "auto" and not number:
            raise BadRequest(f"{name} must be a number above 0, or auto", param=name)
    return asked


def _order(body: Mapping[str, Any], asked: Mapping[str, Any], examples: Sequence[Any]) -> TuningOrder:
    epochs, batch_size, rate = (None if value == "auto" else value for value in asked.values())
    seed = body.get("seed")
    seed = seed if isinstance(seed, int) else secrets.randbelow(2**31)
    return TuningOrder(str(body["model"]), examples, epochs, batch_size, rate or 1.0, seed)


def _examples(content: bytes, *, rules: FinetuningRules) -> list[list[dict[str, Any]]]:
    """The chats of a file. Raises BadRequest."""
    chats = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            chat = json.loads(line)["messages"]
            fits = chat and all(isinstance(turn["role"], str) and isinstance(turn["content"], str) for turn in chat)
        except (ValueError, TypeError, KeyError):
            fits = False
        if not fits or chat[-1]["role"] != "assistant":
            raise BadRequest(f"Line {number} is no chat that ends with the assistant.", param="training_file")
        chats.append(chat)
    if len(chats) < rules.min_examples:
        message = f"Training file has {len(chats)} example(s), but must have at least {rules.min_examples} examples"
        raise BadRequest(message, param="training_file")
    return chats


def _suffix(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= _LONGEST_SUFFIX):
        raise BadRequest(f"suffix must have 1 to {_LONGEST_SUFFIX} characters", param="suffix")
    return value
