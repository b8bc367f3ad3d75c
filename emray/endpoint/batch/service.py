"""The endpoint's side of batches: its files and batches.

Not for what is submitted when (sending.py) or for trying again (remote.py). The invariant: a batch is created at most
once for one submission.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import openai
from openai.types import Batch

from emray.endpoint.asking import Endpoint
from emray.endpoint.batch.submission import Submission
from emray.endpoint.refusals import CallFailed
from emray.endpoint.remote import Remote
from emray.errors import SpecError
from emray.progress import Advance, silent

LABEL = "emray"  # the metadata under which a batch carries its token
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
CLOCK_SLACK_S = 86_400  # between our clock and the endpoint's, when a batch is looked for by its age
STATUSES = get_args(Batch.model_fields["status"].annotation)
_BATCHES = "/batches"
_ADVICE = "look after it there, and use mode: online"


class BatchService:
    """The endpoint's files and batches; methods raise what Remote.call raises."""

    def __init__(self, endpoint: Endpoint, *, advance: Advance = silent) -> None:
        self._remote = Remote(endpoint, advance=advance, advice=_ADVICE)
        self._client = self._remote.client

    def check(self) -> None:
        """Raises SpecError for an endpoint without a batch API."""

        def look() -> bool:
            try:
                self._remote.page(_BATCHES, limit=1)
            except openai.APIStatusError as error:
                if error.status_code in (404, 405, 501):
                    answer = f"GET batches answers {error.status_code}"
                    raise SpecError(f"no batch API at {self._client.base_url} ({answer}); use mode: online") from None
                raise
            return True

        self._remote.call(look)

    def upload(self, content: bytes, *, name: str) -> str:
        """The id of the new file."""
        try:
            return self._remote.upload(content, name=name, purpose="batch")
        except CallFailed as failure:
            raise self._remote.plain(failure) from None

    def create(self, file_id: str, submission: Submission) -> Batch:
        """Create a batch once: after a call whose end is not known it is looked for first."""
        metadata = {LABEL: submission.token}

        def create() -> Batch:
            batch = self._client.batches.create(
                input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
            )
            return self._usual(batch)

        return self._remote.call(create, before_again=lambda: self.find(submission))

    def find(self, submission: Submission) -> Batch | None:
        """The batch that carries the token, if there is one."""

        def look() -> Batch | None:
            for row in self._remote.rows(_BATCHES):
                batch = Batch.construct(None, **row)
                if isinstance(batch.metadata, Mapping) and batch.metadata.get(LABEL) == submission.token:
                    return self._usual(batch)
                if (_number(row.get("created_at")) or math.inf) < submission.created_s - CLOCK_SLACK_S:
                    return None
            return None

        return self._remote.call(look)

    def retrieve(self, batch_id: str) -> Batch | None:
        """None for a batch that is not known here."""

        def look() -> Batch | None:
            try:
                return self._usual(self._client.batches.retrieve(batch_id))
            except openai.NotFoundError:
                return None

        return self._remote.call(look)

    def lines(self, file_id: str | None) -> list[Any]:
        """The JSON lines of a result file, without those that are none; nothing of a file that is gone.

        Raises StageError for a file of which no line is a request's.
        """

        def download() -> bytes:
            try:
                return self._client.files.content(file_id or "").read()
            except openai.NotFoundError:
                return b""

        content = self._remote.call(download) if file_id else b""
        rows = [row for row in map(_json, content.splitlines()) if row is not None]
        if content.strip() and not any(isinstance(row, Mapping) and "custom_id" in row for row in rows):
            raise self._remote.other_shape("result lines, none with a custom_id,", content.decode("utf-8", "replace"))
        return rows

    def close(self) -> None:
        self._remote.close()

    def _usual(self, batch: Batch) -> Batch:
        """The batch. Raises StageError, with the endpoint's words, where its shape is not OpenAI's."""
        if isinstance(batch, Batch) and isinstance(batch.id, str) and batch.status in STATUSES:
            return batch
        raise self._remote.other_shape("a batch", batch)


def _json(line: bytes) -> Any:
    """The value of a line, None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
