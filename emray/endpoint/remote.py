"""The endpoint's files, batches and jobs: one client, each call tried several times, pages and shapes checked.

Not for chat completions (client.py, asker.py), nor for what a file, batch or job is about. The invariant: a call whose
end is not known is not made again before it was looked whether it had come through.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, TypeVar

import httpx2
import openai

from emray.endpoint.asker import FIRST_WAIT_S, LONGEST_WAIT_S, span
from emray.endpoint.asking import Endpoint
from emray.endpoint.bodies import MOST_OUTPUT_BYTES, limiting
from emray.endpoint.client import CONNECT_TIMEOUT_S, Address, connection_failure, sdk_arguments, status_failure
from emray.endpoint.refusals import HOPELESS, LONGEST_REASON, CallFailed, Failure, body_of
from emray.errors import EndpointUnreachable, StageError
from emray.progress import Advance, silent

AGAIN = (Failure.RATE_LIMITED, Failure.SERVER, Failure.CONNECTION, Failure.TIMEOUT)  # failures worth another call
PAGE = 100  # rows

T = TypeVar("T")


def _nothing_found() -> None:
    """What to look for before a call is repeated that may be."""


class Remote:
    """An endpoint, each call tried up to `max_attempts` times."""

    def __init__(self, endpoint: Endpoint, *, advance: Advance = silent, advice: str = "") -> None:
        """`advice` is what to do about an endpoint that answers otherwise than OpenAI does."""
        spec, access = endpoint.spec, endpoint.access
        self._advance, self._advice = advance, advice
        self._max_attempts = spec.max_attempts
        self._longest_s = spec.max_wait_s
        address = Address.of(access)
        self.client = openai.OpenAI(
            **sdk_arguments(access),  # without retries: a repeated create would be a second batch or job
            http_client=openai.DefaultHttpxClient(
                trust_env=not address.direct, event_hooks=limiting(MOST_OUTPUT_BYTES)
            ),
            timeout=httpx2.Timeout(spec.timeout_s, connect=CONNECT_TIMEOUT_S),
        )

    @property
    def base_url(self) -> str:
        return str(self.client.base_url)

    def call(self, call: Callable[[], T], *, before_again: Callable[[], T | None] = _nothing_found) -> T:
        """Try, and try again after `before_again` found nothing.

        Raises EndpointUnreachable when nothing answers, StageError when the endpoint refuses or keeps failing.
        """
        try:
            return self.attempt(call, before_again=before_again)
        except CallFailed as failure:
            raise self.plain(failure) from None

    def attempt(
        self,
        call: Callable[[], T],
        *,
        before_again: Callable[[], T | None] = _nothing_found,
        again: Collection[Failure] = AGAIN,
    ) -> T:
        """The same for who can do something about a failure: raises CallFailed."""
        for attempt in range(self._max_attempts):
            if attempt and (found := before_again()) is not None:
                return found
            try:
                return call()
            except openai.APIStatusError as error:
                failure = status_failure(error)
            except (openai.APIConnectionError, httpx2.HTTPError) as error:
                failure = connection_failure(error)
            if failure.kind not in again or (failure.retry_after_s or 0) > self._longest_s:
                break
            if attempt + 1 < self._max_attempts:
                wait_s = failure.retry_after_s or min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
                self._advance(0, f"wait {span(wait_s)}, {failure.kind}: {failure.reason}")
                time.sleep(wait_s)
        raise failure

    def plain(self, failure: CallFailed) -> StageError:
        """What a failure means to a stage that cannot do without the call."""
        where, said = self.base_url, failure.reason
        if failure.kind == Failure.CONNECTION:
            tries = self._max_attempts
            return EndpointUnreachable(f"nothing answers at {where} ({tries} attempts; {said}); check its base_url")
        if failure.kind in (*HOPELESS, Failure.REJECTED, Failure.FILTERED):
            return StageError(f"{where} refuses us: {said}")
        return StageError(f"{where} keeps failing: {said}; run again to go on, what is submitted is recorded")

    def upload(self, content: bytes, *, name: str, purpose: Literal["batch", "fine-tune"]) -> str:
        """The id of the new file. A file uploaded twice costs nothing. Raises CallFailed."""

        def upload() -> str:
            file = self.client.files.create(file=(name, content), purpose=purpose)
            file_id = getattr(file, "id", None)
            if not isinstance(file_id, str):
                raise self.other_shape("a file", file)
            return file_id

        return self.attempt(upload)

    def delete_file(self, file_id: str) -> None:
        """One that is not there is gone. Raises CallFailed."""

        def delete() -> None:
            try:
                self.client.files.delete(file_id)
            except openai.NotFoundError:
                return

        self.attempt(delete)

    def rows(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """What stands in a list, as the endpoint orders it (newest first), page by page; a page is one request."""
        after: dict[str, str] = {}
        while True:
            rows, more = self.page(path, limit=PAGE, **query, **after)
            yield from rows
            if not more or not rows or after == {"after": rows[-1].get("id")}:
                return
            after = {"after": str(rows[-1].get("id"))}

    def page(self, path: str, **query: Any) -> tuple[list[dict[str, Any]], bool]:
        """Some rows, and whether there are more. Raises StageError for what is no list of them."""
        response = self.client.get(path, cast_to=httpx2.Response, options={"params": query})
        body = body_of(response.content)
        rows = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.other_shape(f"a list of {path.rpartition('/')[2]}", body)
        return rows, body.get("has_more") is True

    def other_shape(self, what: str, body: Any) -> StageError:
        """What to say, with the endpoint's words, of a body that is not as OpenAI's."""
        said = body.to_json(indent=None) if isinstance(body, openai.BaseModel) else body
        text = " ".join(said.split()) if isinstance(said, str) else json.dumps(said, default=str)
        return StageError(
            f"{self.base_url} answers with {what} of another shape than OpenAI's: {text[:LONGEST_REASON]}; "
            f"{self._advice}"
        )

    def close(self) -> None:
        self.client.close()
