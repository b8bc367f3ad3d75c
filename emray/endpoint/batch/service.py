"""The endpoint's side of batches: its files and batches, each call tried several times.

Not for what is submitted when (sending.py). The invariant: a batch is created at most once for one submission.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args

import httpx2
import openai
from openai.types import Batch

from emray.endpoint.asker import FIRST_WAIT_S, LONGEST_WAIT_S, span
from emray.endpoint.asking import Endpoint
from emray.endpoint.batch.submission import Submission
from emray.endpoint.bodies import MOST_OUTPUT_BYTES, limiting
from emray.endpoint.client import (
    CONNECT_TIMEOUT_S,
    Address,
    connection_failure,
    sdk_arguments,
    status_failure,
)
from emray.endpoint.refusals import HOPELESS, LONGEST_REASON, CallFailed, Failure, body_of
from emray.errors import EndpointUnreachable, SpecError, StageError
from emray.progress import Advance, silent

LABEL = "emray"  # the metadata under which a batch carries its token
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
CLOCK_SLACK_S = 86_400  # between our clock and the endpoint's, when a batch is looked for by its age
STATUSES = get_args(Batch.model_fields["status"].annotation)
AGAIN = (Failure.RATE_LIMITED, Failure.SERVER, Failure.CONNECTION, Failure.TIMEOUT)  # failures worth another call

T = TypeVar("T")


class BatchService:
    """The endpoint's files and batches, each call tried up to `max_attempts` times.

    Raises EndpointUnreachable when nothing answers, StageError when the endpoint refuses or keeps failing.
    """

    def __init__(self, endpoint: Endpoint, *, advance: Advance = silent) -> None:
        spec, access = endpoint.spec, endpoint.access
        self._advance = advance
        self._max_attempts = spec.max_attempts
        self._longest_s = spec.max_wait_s
        address = Address.of(access)
        self._client = openai.OpenAI(
            **sdk_arguments(access),  # without retries: a repeated create would be a second batch
            http_client=openai.DefaultHttpxClient(
                trust_env=not address.direct, event_hooks=limiting(MOST_OUTPUT_BYTES)
            ),
            timeout=httpx2.Timeout(spec.timeout_s, connect=CONNECT_TIMEOUT_S),
        )

    def check(self) -> None:
        """Raises SpecError for an endpoint without a batch API."""

        def look() -> bool:
            try:
                self._page(limit=1)
            except openai.APIStatusError as error:
                if error.status_code in (404, 405, 501):
                    answer = f"GET batches answers {error.status_code}"
                    raise SpecError(f"no batch API at {self._client.base_url} ({answer}); use mode: online") from None
                raise
            return True

        self._call(look)

    def upload(self, content: bytes, *, name: str) -> str:
        """The id of the new file. A file uploaded twice costs nothing."""

        def upload() -> str:
            file = self._client.files.create(file=(name, content), purpose="batch")
            file_id = getattr(file, "id", None)
            if not isinstance(file_id, str):
                raise self._other_shape("a file", file)
            return file_id

        return self._call(upload)

    def create(self, file_id: str, submission: Submission) -> Batch:
        """Create a batch once: after a call whose end is not known it is looked for first."""
        metadata = {LABEL: submission.token}

        def create() -> Batch:
            batch = self._client.batches.create(
                input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
            )
            return self._usual(batch)

        return self._call(create, before_again=lambda: self.find(submission))

    def find(self, submission: Submission) -> Batch | None:
        """The batch that carries the token, if there is one."""

        def look() -> Batch | None:
            for row in self._newest_first():
                batch = Batch.construct(None, **row)
                if isinstance(batch.metadata, Mapping) and batch.metadata.get(LABEL) == submission.token:
                    return self._usual(batch)
                if (_number(row.get("created_at")) or math.inf) < submission.created_s - CLOCK_SLACK_S:
                    return None
            return None

        return self._call(look)

    def retrieve(self, batch_id: str) -> Batch | None:
        """None for a batch that is not known here."""

        def look() -> Batch | None:
            try:
                return self._usual(self._client.batches.retrieve(batch_id))
            except openai.NotFoundError:
                return None

        return self._call(look)

    def lines(self, file_id: str | None) -> list[Any]:
        """The JSON lines of a result file, without those that are none; nothing of a file that is gone.

        Raises StageError for a file of which no line is a request's.
        """

        def download() -> bytes:
            try:
                return self._client.files.content(file_id or "").read()
            except openai.NotFoundError:
                return b""

        content = self._call(download) if file_id else b""
        rows = [row for row in map(_json, content.splitlines()) if row is not None]
        if content.strip() and not any(isinstance(row, Mapping) and "custom_id" in row for row in rows):
            raise self._other_shape("result lines, none with a custom_id,", content.decode("utf-8", "replace"))
        return rows

    def close(self) -> None:
        self._client.close()

    def _newest_first(self) -> Iterator[dict[str, Any]]:
        """The endpoint's batches, page by page."""
        after: dict[str, str] = {}
        while True:
            rows, more = self._page(limit=100, **after)
            yield from rows
            if not more or not rows or after == {"after": rows[-1].get("id")}:
                return
            after = {"after": str(rows[-1].get("id"))}

    def _page(self, **query: Any) -> tuple[list[dict[str, Any]], bool]:
        """Some batches, and whether there are more. Raises StageError for what is no list of them."""
        response = self._client.get("/batches", cast_to=httpx2.Response, options={"params": query})
        body = body_of(response.content)
        rows = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._other_shape("a list of batches", body)
        return rows, body.get("has_more") is True

    def _usual(self, batch: Batch) -> Batch:
        """The batch. Raises StageError, with the endpoint's words, where its shape is not OpenAI's."""
        if isinstance(batch, Batch) and isinstance(batch.id, str) and batch.status in STATUSES:
            return batch
        raise self._other_shape("a batch", batch)

    def _other_shape(self, what: str, body: Any) -> StageError:
        said = body.to_json(indent=None) if isinstance(body, openai.BaseModel) else body
        text = " ".join(said.split()) if isinstance(said, str) else json.dumps(said, default=str)
        return StageError(
            f"{self._client.base_url} answers with {what} of another shape than OpenAI's: {text[:LONGEST_REASON]}; "
            "look after it there, and use mode: online"
        )

    def _call(self, call: Callable[[], T], *, before_again: Callable[[], T | None] = lambda: None) -> T:
        """Try, and try again after `before_again` found nothing."""
        for attempt in range(self._max_attempts):
            if attempt and (found := before_again()) is not None:
                return found
            try:
                return call()
            except openai.APIStatusError as error:
                failure = status_failure(error)
            except (openai.APIConnectionError, httpx2.HTTPError) as error:
                failure = connection_failure(error)
            if failure.kind not in AGAIN or (failure.retry_after_s or 0) > self._longest_s:
                break
            if attempt + 1 < self._max_attempts:
                wait_s = failure.retry_after_s or min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
                self._advance(0, f"wait {span(wait_s)}, {failure.kind}: {failure.reason}")
                time.sleep(wait_s)
        raise self._plain(failure)

    def _plain(self, failure: CallFailed) -> StageError:
        where, said = self._client.base_url, failure.reason
        if failure.kind == Failure.CONNECTION:
            tries = self._max_attempts
            return EndpointUnreachable(f"nothing answers at {where} ({tries} attempts; {said}); check its base_url")
        if failure.kind in (*HOPELESS, Failure.REJECTED, Failure.FILTERED):
            return StageError(f"{where} refuses us: {said}")
        return StageError(f"{where} keeps failing: {said}; run again to go on, what is submitted is recorded")


def _json(line: bytes) -> Any:
    """The value of a line, None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
