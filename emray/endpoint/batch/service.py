"""The endpoint's side of batches: its files and batches, each call tried several times.

Not for what is submitted when (sending.py). The invariant: a batch is created at most once for one submission.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import httpx2
import openai
from openai.types import Batch

from emray.endpoint.asker import FIRST_WAIT_S, LONGEST_WAIT_S
from emray.endpoint.asking import Endpoint
from emray.endpoint.batch.submission import Submission
from emray.endpoint.client import (
    CONNECT_TIMEOUT_S,
    Address,
    api_key,
    connection_failure,
    status_failure,
)
from emray.endpoint.refusals import HOPELESS, LONGEST_REASON, CallFailed, Failure
from emray.errors import EndpointUnreachable, SpecError, StageError

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

    def __init__(self, endpoint: Endpoint) -> None:
        spec, base_url = endpoint.spec, endpoint.base_url
        self._max_attempts = spec.max_attempts
        self._longest_s = spec.max_wait_s
        key = api_key(spec, base_url=base_url)
        address = Address.of(base_url, key=key)
        self._client = openai.OpenAI(
            api_key=key,
            base_url=address.base_url,
            default_query=address.query,
            default_headers=address.headers,
            http_client=openai.DefaultHttpxClient(trust_env=not address.direct),
            max_retries=0,  # a repeated create would be a second batch
            timeout=httpx2.Timeout(spec.timeout_s, connect=CONNECT_TIMEOUT_S),
        )

    def check(self) -> None:
        """Raises SpecError for an endpoint without a batch API."""

        def look() -> bool:
            try:
                self._client.batches.list(limit=1)
            except openai.APIStatusError as error:
                if error.status_code in (404, 405, 501):
                    answer = f"GET batches answers {error.status_code}"
                    raise SpecError(f"no batch API at {self._client.base_url} ({answer}); use mode: online") from None
                raise
            return True

        self._call(look)

    def upload(self, content: bytes, *, name: str) -> str:
        """The id of the new file. A file uploaded twice costs nothing."""
        return self._call(lambda: self._client.files.create(file=(name, content), purpose="batch").id)

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
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(LABEL) == submission.token:
                    return batch
                if batch.created_at < submission.created_s - CLOCK_SLACK_S:
                    return None  # the list is newest first
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
        """The JSON lines of a result file, without those that are none; nothing of a file that is gone."""

        def download() -> bytes:
            try:
                return self._client.files.content(file_id or "").read()
            except openai.NotFoundError:
                return b""

        content = self._call(download) if file_id else b""
        return [row for row in map(_json, content.splitlines()) if row is not None]

    def close(self) -> None:
        self._client.close()

    def _usual(self, batch: Batch) -> Batch:
        """The batch. Raises StageError, with the endpoint's words, where its shape is not OpenAI's."""
        if isinstance(batch, Batch) and isinstance(batch.id, str) and batch.status in STATUSES:
            return batch
        said = batch.to_json(indent=None) if isinstance(batch, Batch) else str(batch)
        raise StageError(
            f"{self._client.base_url} answers with a batch of another shape than OpenAI's: {said[:LONGEST_REASON]}; "
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
                time.sleep(failure.retry_after_s or min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))
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
