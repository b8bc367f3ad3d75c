"""Batches of chat completions: `/v1/batches`, from the JSONL that was uploaded to the files of results and errors.

Not for files (uploads.py) or for completing (completions.py). The invariant: every line of a batch that was accepted
ends as one line of the output or the error file, unless the batch was cancelled first; and it is served at most once.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from aiohttp import web

from emray.localapi.chance import Chances, draws
from emray.localapi.completions import (
    BadRequest,
    ChatCall,
    check_chat_body,
    completion_json,
    count_prompt_tokens,
    error_json,
    parse_json,
)
from emray.localapi.config import BatchRules, ServerConfig
from emray.localapi.reset import reset_connection
from emray.localapi.served_models import ServedModels
from emray.localapi.stats import Stats
from emray.localapi.uploads import PURPOSE, FileShelf, page

_ENDPOINT = "/v1/chat/completions"
_COMPLETION_WINDOW = "24h"
_USUAL_PAGE = 20
_MOST_ERRORS = 100  # of one batch's validation
MOST_METADATA, LONGEST_NAME, LONGEST_VALUE = 16, 64, 512
_AT_ONCE = 100  # lines served before other requests get a turn


class Status(StrEnum):
    """OpenAI's words for how far a batch has come."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_ENDS = (Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED)


class BatchLine(NamedTuple):
    """One request of a batch."""

    custom_id: str
    body: Any


@dataclass
class Batch:
    """One batch: what was asked, how far it is, what came of it."""

    id: str
    api_key: str
    input_file_id: str
    metadata: dict[str, str] | None
    created_at: int  # Unix seconds, as all times of the API
    expires_at: int
    status: Status = Status.VALIDATING
    reached_at: dict[str, int] = field(default_factory=dict)
    model: str | None = None
    enqueued_tokens: int = 0  # prompt tokens that count against the cap until the batch ends
    errors: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    calls: list[tuple[str, ChatCall]] = field(default_factory=list)  # served, by custom_id
    failures: list[dict[str, Any]] = field(default_factory=list)  # lines of the error file
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def reach(self, status: Status) -> None:
        self.status = status
        self.reached_at[f"{status}_at"] = int(time.time())

    async def wait(self, seconds: float) -> None:
        """Let time pass, less when the batch is cancelled."""
        try:
            await asyncio.wait_for(self.cancelled.wait(), seconds)
        except TimeoutError:
            return

    def json(self) -> dict[str, Any]:
        """The `batch` object."""
        prompt = sum(call.prompt_tokens for _, call in self.calls)
        completion = sum(call.completion_tokens for _, call in self.calls)
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": _ENDPOINT,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": _COMPLETION_WINDOW,
            "status": str(self.status),
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **self.reached_at,
            "request_counts": {
                "total": self.total, "completed": len(self.calls), "failed": len(self.failures),
            },
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + completion,
            },
            "metadata": self.metadata,
        }  # fmt: skip


class BatchDesk:
    """All batches of one server, the handlers that take them, and the work on them."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        files: FileShelf,
        models: ServedModels,
        stats: Callable[[], Stats],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._rules = config, config.batch
        self._files, self._models = files, models
        self._stats, self._clock = stats, clock
        self._line_chances = Chances({"error": self._rules.line_error, "expired": self._rules.line_expired})
        self._batches: dict[str, Batch] = {}
        self._work: set[asyncio.Task[None]] = set()

    # The handlers --------------------------------------------------------------------------------------------

    async def create(self, request: web.Request, api_key: str) -> web.Response:
        order = _order(parse_json(await request.read()))
        file = self._files.get(order["input_file_id"], api_key=api_key)
        if file.purpose != PURPOSE:
            raise BadRequest(f"the input file's purpose must be {PURPOSE!r}", param="input_file_id")
        now = int(time.time())
        batch = Batch(
            f"batch_{secrets.token_hex(12)}",
            api_key,
            file.id,
            order.get("metadata"),
            created_at=now,
            expires_at=now + round(self._rules.window_s),
        )
        self._batches[batch.id] = batch
        self._stats().batches["created"] += 1
        task = asyncio.create_task(self._work_off(batch, file.content, number=len(self._batches)))
        self._work.add(task)
        task.add_done_callback(lambda done: self._ended(batch, done))
        if draws(self._config.seed, "create", len(self._batches))[0] < self._rules.create_lost:
            reset_connection(request)
        return web.json_response(batch.json())

    async def listing(self, request: web.Request, api_key: str) -> web.Response:
        mine = (batch for batch in self._batches.values() if batch.api_key == api_key)
        return web.json_response(page(mine, request.query, usual=_USUAL_PAGE))

    async def retrieve(self, request: web.Request, api_key: str) -> web.Response:
        return web.json_response(self._batch(request, api_key).json())

    async def cancel(self, request: web.Request, api_key: str) -> web.Response:
        batch = self._batch(request, api_key)
        if batch.status in _ENDS:
            raise BadRequest(f"Cannot cancel a batch with status '{batch.status}'.", status=409)
        if not batch.cancelled.is_set():
            batch.reach(Status.CANCELLING)
            batch.cancelled.set()
        return web.json_response(batch.json())

    async def close(self, app: web.Application) -> None:
        """Drop the work under way."""
        for task in list(self._work):
            task.cancel()

    def _batch(self, request: web.Request, api_key: str) -> Batch:
        batch = self._batches.get(request.match_info["id"])
        if batch is None or batch.api_key != api_key:
            raise BadRequest(f"No batch found with id '{request.match_info['id']}'.", status=404)
        return batch

    # The work ------------------------------------------------------------------------------------------------

    async def _work_off(self, batch: Batch, content: bytes, *, number: int) -> None:
        """Validate, serve, write the files."""
        started_s = self._clock()
        await batch.wait(self._rules.delay_s)
        if not batch.cancelled.is_set():
            lines = self._validate(batch, content, number)
            if batch.errors:
                return batch.reach(Status.FAILED)
            batch.reach(Status.IN_PROGRESS)
            end = await self._serve_all(batch, lines, started_s=started_s)
            if not batch.cancelled.is_set():
                batch.reach(Status.FINALIZING)
                await batch.wait(self._rules.delay_s)
        self._write_files(batch)
        batch.reach(Status.CANCELLED if batch.cancelled.is_set() else end)
        return None

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        """Count how a batch ended; a responder that raised has failed it."""
        self._work.discard(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            batch.errors.append(_complaint("server_error", f"{type(error).__name__}: {error}"))
            batch.reach(Status.FAILED)
        self._stats().batches[str(batch.status)] += 1

    def _validate(self, batch: Batch, content: bytes, number: int) -> list[BatchLine]:
        """The lines of the input, or `batch.errors`."""
        lines, batch.errors = _read_lines(content, rules=self._rules)
        if batch.errors:
            return []
        batch.model, need = lines[0].body["model"], sum(_enqueued(line.body) for line in lines)
        cap = self._rules.enqueued_tokens
        held = sum(
            other.enqueued_tokens
            for other in self._batches.values()
            if (other.api_key, other.model) == (batch.api_key, batch.model) and other.status not in _ENDS
        )
        if not self._models.serves(lines[0].body["model"], api_key=batch.api_key):
            batch.errors.append(_complaint("model_not_found", f"The model '{batch.model}' does not exist."))
        elif cap is not None and held + need > cap:
            batch.errors.append(
                _complaint(
                    "token_limit_exceeded",
                    f"Enqueued token limit reached for {batch.model}: {cap:,.0f} allowed, {held:,} enqueued, "
                    f"{need:,} asked for. Try again once some batches in progress have been completed.",
                )
            )
        elif draws(self._config.seed, "batch", number)[0] < self._rules.batch_failed:
            batch.errors.append(_complaint("server_error", "The server had an error while it validated this batch."))
        batch.total, batch.enqueued_tokens = len(lines), 0 if batch.errors else need
        return lines

    async def _serve_all(self, batch: Batch, lines: Sequence[BatchLine], *, started_s: float) -> Status:
        """Serve line after line at the batch's pace until the end, the window's end or a cancellation."""
        first_s, pace, end = self._clock(), self._rules.lines_per_s, Status.COMPLETED
        for number, line in enumerate(lines):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if pace is not None and (ahead_s := first_s + (number + 1) / pace - self._clock()) > 0:
                await batch.wait(ahead_s)
            if batch.cancelled.is_set():
                break
            late = self._clock() - started_s > self._rules.window_s
            if late or not await self._serve(batch, line):
                end = Status.EXPIRED
                message = "This request could not be executed before the completion window expired."
                batch.failures.append(_result(line, error={"code": "batch_expired", "message": message}))
        return end

    async def _serve(self, batch: Batch, line: BatchLine) -> bool:
        """Serve one line, well or badly; False when it is left to expire."""
        stats = self._stats()
        try:
            call = await self._models.understand(line.body, api_key=batch.api_key)
        except BadRequest as error:
            stats.line_left(str(error.status))
            batch.failures.append(_result(line, response=_response(error.status, error.json())))
            return True
        fault = self._line_chances.pick(draws(self._config.seed, call.digest, stats.line_arrived(call.digest))[0])
        if fault == "expired":
            stats.line_left(fault)
            return False
        if fault == "error":
            stats.line_left("500")
            body = error_json("The server had an error.", "server_error", None)
            batch.failures.append(_result(line, response=_response(500, body)))
            return True
        stats.line_answered(call.digest, prompt_tokens=call.prompt_tokens, completion_tokens=call.completion_tokens)
        batch.calls.append((line.custom_id, call))
        return True

    def _write_files(self, batch: Batch) -> None:
        """The output and the error file, in an order of their own."""
        done = [
            _result(BatchLine(name, None), response=_response(200, completion_json(call, digits=self._config.digits)))
            for name, call in batch.calls
        ]
        batch.output_file_id = self._write(batch, done, "output")
        batch.error_file_id = self._write(batch, batch.failures, "error")

    def _write(self, batch: Batch, results: Sequence[Mapping[str, Any]], kind: str) -> str | None:
        """The id of the new file; None of nothing."""
        if not results:
            return None
        shuffled = sorted(results, key=lambda result: _place(self._config.seed, result["custom_id"]))
        content = "".join(json.dumps(result) + "\n" for result in shuffled).encode()
        name = f"{batch.id}_{kind}.jsonl"
        return self._files.add(content, api_key=batch.api_key, filename=name, purpose="batch_output").id


def _read_lines(content: bytes, *, rules: BatchRules) -> tuple[list[BatchLine], list[dict[str, Any]]]:
    """The lines of an input file, or what is wrong with them (OpenAI's codes; lines count from 1)."""
    raw = content.removesuffix(b"\n").split(b"\n")
    if not content.strip():
        return [], [_complaint("empty_file", "The file holds no request.")]
    if len(raw) > rules.max_requests:
        message = f"The file holds {len(raw):,} requests; {rules.max_requests:,} are allowed."
        return [], [_complaint("too_many_tasks", message)]
    lines: list[BatchLine] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, text in enumerate(raw, start=1):
        try:
            line = _line(text, seen, model=lines[0].body["model"] if lines else None)
        except BadRequest as error:
            errors.append(_complaint(error.code, str(error), line=number, param=error.param))
            if len(errors) == _MOST_ERRORS:
                break
            continue
        seen.add(line.custom_id)
        lines.append(line)
    return lines, errors


def _line(text: bytes, seen: set[str], *, model: str | None) -> BatchLine:
    """One request of the input. Raises BadRequest; what is wrong with its messages shows when it is served."""
    try:
        row = json.loads(text)
    except ValueError:
        raise BadRequest("This line is not parseable as valid JSON.", code="invalid_json_line") from None
    if not isinstance(row, dict):
        raise BadRequest("This line is not a JSON object.", code="invalid_json_line")
    for name, kind in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
        if not isinstance(row.get(name), kind):
            raise BadRequest(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
    if row["method"] != "POST":
        raise BadRequest(f"Method {row['method']!r} is not POST.", code="invalid_method", param="method")
    if row["url"] != _ENDPOINT:
        raise BadRequest(f"The url {row['url']!r} is not the batch's endpoint.", code="url_mismatch", param="url")
    if row["custom_id"] in seen:
        raise BadRequest("The custom_id stands twice.", code="duplicate_custom_id", param="custom_id")
    if not isinstance(row["body"].get("model"), str):
        raise BadRequest("Missing required parameter: 'model'.", code="missing_required_parameter", param="body.model")
    if model not in (None, row["body"]["model"]):
        raise BadRequest("A batch is for one model.", code="model_mismatch", param="body.model")
    return BatchLine(row["custom_id"], row["body"])


def _order(body: Any) -> dict[str, Any]:
    """What a batch is created from. Raises BadRequest."""
    if not isinstance(body, dict) or not isinstance(body.get("input_file_id"), str):
        raise BadRequest("Missing required parameter: 'input_file_id'.", param="input_file_id")
    if body.get("endpoint") != _ENDPOINT:
        raise BadRequest(f"endpoint must be {_ENDPOINT!r} here", param="endpoint")
    if body.get("completion_window") != _COMPLETION_WINDOW:
        raise BadRequest(f"completion_window must be {_COMPLETION_WINDOW!r}", param="completion_window")
    checked_metadata(body.get("metadata"))
    return body


def checked_metadata(metadata: Any) -> dict[str, str] | None:
    """What may be attached to a batch or a job. Raises BadRequest."""
    if metadata is not None and not _is_metadata(metadata):
        limits = f"{MOST_METADATA} pairs of texts, names up to {LONGEST_NAME} and values up to {LONGEST_VALUE} long"
        raise BadRequest(f"metadata must be at most {limits}", param="metadata")
    checked: dict[str, str] | None = metadata
    return checked


def _is_metadata(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= MOST_METADATA
        and all(isinstance(value, str) and len(value) <= LONGEST_VALUE for value in metadata.values())
        and all(len(name) <= LONGEST_NAME for name in metadata)
    )


def _enqueued(body: Any) -> int:
    """Prompt tokens of a line; none of one that will be refused."""
    try:
        return count_prompt_tokens(check_chat_body(body))
    except BadRequest:
        return 0


def _place(seed: int, custom_id: str) -> bytes:
    """Where a result stands in its file: anywhere but where it was asked."""
    return hashlib.blake2b(f"{seed}/{custom_id}".encode(), digest_size=8).digest()


def _result(line: BatchLine, *, response: Any = None, error: Any = None) -> dict[str, Any]:
    """A line of an output or error file."""
    name = f"batch_req_{secrets.token_hex(12)}"
    return {"id": name, "custom_id": line.custom_id, "response": response, "error": error}


def _response(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": secrets.token_hex(16), "body": body}


def _complaint(code: str | None, message: str, *, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """An entry of a batch's `errors`."""
    return {"code": code, "message": message, "param": param, "line": line}
