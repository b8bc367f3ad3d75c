"""Requests on their way through batches: what is submitted when, and what each batch brought.

Not for asking again or for follow-ups (rounds.py). The invariant: what is submitted is recorded before and after, and
looked for at the endpoint in between, so that a crash at any place makes no request be served twice; a batch counts as
collected when its replies are in the journal.
"""

import time
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

from openai.types import Batch, BatchError

from emray.endpoint.asker import FIRST_WAIT_S, Budget
from emray.endpoint.asking import Endpoint
from emray.endpoint.batch.lines import Unanswered, prompt_tokens, request_line, results_of
from emray.endpoint.batch.room import Room
from emray.endpoint.batch.service import LABEL, BatchService
from emray.endpoint.batch.submission import Submission, Submissions
from emray.endpoint.journal import Journal, journaled_keys
from emray.endpoint.prices import cost_usd
from emray.endpoint.refusals import HOPELESS, Failure, refusal
from emray.endpoint.reply import Reply, Request, longest_reply
from emray.errors import StageError
from emray.progress import Advance
from emray.store import Store

ENDED = ("failed", "completed", "expired", "cancelled")
NO_ROOM = "token_limit_exceeded"  # the one error of a failed batch that time cures


class Collected(NamedTuple):
    """What one batch brought, its replies already in the journal."""

    replies: Mapping[str, Reply]
    unanswered: Mapping[str, Unanswered]
    skipped: Sequence[Request] = ()  # not submitted, because the cost limit is reached


class BatchQueue:
    """Requests on their way through the batch API of one endpoint, in one process."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        store: Store,
        advance: Advance,
        budget_usd: float | None = None,
    ) -> None:
        self._limits, self._advance = endpoint.spec.batch, advance
        self._store, self._submissions, self._journal = store, Submissions(store), Journal(store)
        self._service = BatchService(endpoint, advance=advance)
        self._room = Room(self._limits.enqueued_tokens)
        self.budget = Budget(budget_usd)
        self._wanted: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._under_way: list[Submission] = []
        self._own: set[str] = set()  # tokens of what this process submitted
        self._checked = False

    def collect(self, requests: Sequence[Request]) -> Iterator[Collected]:
        """Put every request into a batch, once, and yield what each batch brought as it ends.

        What an earlier run submitted is waited for and not submitted again. Raises what BatchService raises, SpecError
        for an endpoint without batches, StageError for a batch that fails for good.
        """
        if not self._checked:
            self._service.check()
            self._checked = True
        self._wanted = {request.key: request for request in requests}
        self._under_way = self._adopt()
        taken = {key for submission in self._under_way for key in submission.keys}
        waiting = [request for request in requests if request.key not in taken]
        self._waiting = deque(sorted(waiting, key=lambda request: request.body["model"]))
        wait_s = FIRST_WAIT_S  # doubling up to poll_s: small batches end soon
        while self._waiting or self._under_way:
            self._submit_what_fits()
            if not self._under_way:
                yield Collected({}, {}, skipped=tuple(self._waiting))
                return
            num_collected = yield from self._look()
            if num_collected:
                wait_s = FIRST_WAIT_S
            else:
                time.sleep(min(wait_s, self._limits.poll_s))
                wait_s *= 2

    def close(self) -> None:
        self._journal.close()
        self._service.close()

    # Submitting ----------------------------------------------------------------------------------------------

    def _adopt(self) -> list[Submission]:
        """What an earlier run submitted of these requests, whether or not it lived to record the batch's id."""
        adopted = []
        for submission in self._submissions.open():
            mine = [self._wanted[key] for key in submission.keys if key in self._wanted]
            if not mine:
                if journaled_keys(self._store).has(submission.keys).all():  # all but its last step was done
                    self._submissions.close(submission, ended="journaled")
                continue
            if submission.batch_id is None:
                batch = self._service.find(submission)
                if batch is None:
                    self._submissions.close(submission, ended="never created")
                    continue
                submission = replace(submission, batch_id=batch.id)
                self._submissions.put(submission)
            self.budget.commit(len(mine))
            adopted.append(submission)
        return adopted

    def _submit_what_fits(self) -> None:
        """Submit batch after batch while there are requests, room and money."""
        while self._waiting:
            chunk = self._next_chunk()
            need = sum(prompt_tokens(request) for request in chunk)
            if not self._room.fits(need, under_way=self._under_way):
                return
            affordable = list(takewhile(lambda request: self.budget.take(_guess_usd(request)), chunk))
            if not affordable:
                return
            for _ in affordable:
                self._waiting.popleft()
            self._under_way.append(self._submit(affordable))

    def _next_chunk(self) -> list[Request]:
        """The requests at the head of the queue that make one batch, which is for one model; at least one."""
        chunk: list[Request] = []
        num_bytes, tokens = 0, 0.0
        for request in self._waiting:
            num_bytes += len(request_line(request))
            tokens += prompt_tokens(request)
            full = len(chunk) >= self._limits.max_requests or num_bytes > self._limits.max_bytes
            other = chunk and request.body["model"] != chunk[0].body["model"]
            if chunk and (full or other or tokens > self._room.largest):
                break
            chunk.append(request)
        return chunk

    def _submit(self, requests: Sequence[Request]) -> Submission:
        """Record, upload, create, record: a crash in between leaves a trace to find the batch by."""
        submission = Submission(
            uuid.uuid4().hex,
            tuple(request.key for request in requests),
            round(sum(prompt_tokens(request) for request in requests)),
            time.time(),
        )
        self._own.add(submission.token)
        self._submissions.put(submission)
        content = b"".join(map(request_line, requests))
        file_id = self._service.upload(content, name=f"{LABEL}-{submission.token}.jsonl")
        submission = replace(submission, batch_id=self._service.create(file_id, submission).id)
        self._submissions.put(submission)
        return submission

    # Collecting ----------------------------------------------------------------------------------------------

    def _look(self) -> Generator[Collected, None, int]:
        """Look at every batch under way once; yields what those that ended brought, returns how many did."""
        done = total = num_collected = 0
        for submission in list(self._under_way):
            assert submission.batch_id is not None
            batch = self._service.retrieve(submission.batch_id)
            if batch is None:
                self._forget(submission)
            elif batch.status not in ENDED:
                done += batch.request_counts.completed if batch.request_counts else 0
                total += len(submission.keys)
            elif batch.status == "failed" and _codes(batch) == {NO_ROOM}:
                self._give_back(submission, ended=NO_ROOM)
                self._room.refuse(submission, alone=not self._under_way, said=_complaints(batch))
            else:
                num_collected += 1
                yield self._end(submission, batch)
        if total:
            count = len(self._under_way)
            self._advance(0, f"{count} batch{'es' * (count > 1)}, {done:,}/{total:,} answered")
        return num_collected

    def _forget(self, submission: Submission) -> None:
        """The endpoint does not know it: an earlier run's is sent again, our own is no such case."""
        if submission.token in self._own:
            raise StageError(f"the endpoint made {submission.batch_id} and does not know it; run again to try anew")
        self._give_back(submission, ended="not known to the endpoint")

    def _give_back(self, submission: Submission, *, ended: str) -> None:
        """Its requests wait again: nothing of them was served."""
        self._under_way.remove(submission)
        self._submissions.close(submission, ended=ended)
        mine = [self._wanted[key] for key in submission.keys if key in self._wanted]
        for _ in mine:
            self.budget.settle(None)
        self._waiting.extendleft(reversed(mine))

    def _end(self, submission: Submission, batch: Batch) -> Collected:
        """Journal the replies of a batch that ended, then close its record. Raises StageError; see `collect`."""
        files = (batch.output_file_id, batch.error_file_id)
        replies, failures = results_of(*map(self._service.lines, files), asked=submission.keys)
        for key in replies.keys() & set(submission.keys):
            self._journal.add(key, replies[key])
        self._journal.flush()
        self._under_way.remove(submission)
        self._room.freed()
        self._submissions.close(submission, ended=batch.status)
        _raise_if_hopeless(batch, failures.values(), served=bool(replies))
        mine = [key for key in submission.keys if key in self._wanted]
        for key in mine:
            self.budget.settle(replies.get(key))
        missing = Unanswered(Failure.SERVER, f"batch {batch.status} without a result {_complaints(batch)}".rstrip())
        return Collected(
            {key: replies[key] for key in mine if key in replies},
            {key: failures.get(key, missing) for key in mine if key not in replies},
        )


def _raise_if_hopeless(batch: Batch, failures: Iterable[Unanswered], *, served: bool) -> None:
    """Raises StageError where another batch would fare no better: our file, key, model, settings or quota."""
    errors = (batch.errors.data if batch.errors else None) or []
    if any(error.line or _kind(error) in HOPELESS for error in errors):
        raise StageError(f"{batch.id} failed: {_complaints(batch)}; everything that had arrived is kept")
    hopeless = (Failure.DENIED,) if served else HOPELESS
    denied = next((failure for failure in failures if failure.kind in hopeless), None)
    if denied is not None:
        raise StageError(f"{batch.id}: the endpoint refuses us: {denied.reason}; everything that arrived is kept")


def _kind(error: BatchError) -> Failure:
    return refusal(400, {"message": error.message, "code": error.code}, headers={}).kind


def _codes(batch: Batch) -> set[str | None]:
    return {error.code for error in (batch.errors.data if batch.errors else None) or []}


def _complaints(batch: Batch) -> str:
    """The first of a batch's errors, for people."""
    errors = (batch.errors.data if batch.errors else None) or []
    return f"({errors[0].code}: {errors[0].message})"[:300] if errors else ""


def _guess_usd(request: Request) -> float:
    """The most a request can cost by batch, until the mean of those paid for is known; 0 without a price."""
    body = request.body
    cost = cost_usd(
        body["model"], num_prompt_tokens=prompt_tokens(request), num_tokens=longest_reply(body), by_batch=True
    )
    return cost or 0.0
