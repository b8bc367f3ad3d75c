"""One run of hosted finetunes: what is there already, what is created when, what is watched, what is recorded.

Not for the service's calls (job_service.py) or for what an end means (job_ends.py). The invariant: a cell's record is
written when its job has ended and its files are deleted, and before a job is created the service was asked for one of
the same cell, so that whatever dies when, nothing is paid for twice.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from openai.types.fine_tuning import FineTuningJob

from emray.context import Context
from emray.endpoint.access import Access
from emray.endpoint.asker import FIRST_WAIT_S
from emray.endpoint.asking import Endpoint
from emray.endpoint.refusals import CallFailed, Failure
from emray.errors import StageError
from emray.hosted.example_file import example_file
from emray.hosted.job_ends import JobEnd, JobOutcome, end_of, refused, told_event
from emray.hosted.job_notes import JobNote, JobNotes
from emray.hosted.job_service import ENDED, JobRequest, JobService, file_name
from emray.model.weights import hosted_name
from emray.records import Messages, TrainJob
from emray.spec import GenerateEndpoint, HostedSpec

EVENTS = "log/finetunes"  # what the service told of each job
SETTLE_S = 5.0  # after which a job that was asked for by a process that died stands in the service's list
MOST_CROWDED = 20  # times that a service may say it has no room while nothing of ours is there


class Order(NamedTuple):
    """A cell that is to be finetuned, and on what."""

    job: TrainJob
    rows: Sequence[Messages]

    @property
    def key(self) -> str:
        return self.job.cell.key

    @property
    def model(self) -> str:
        return hosted_name(self.job.model_path) or ""


class Finetuning:
    """Every order of one run, from what is there to its record. `run` in one thread, `stop` from another."""

    def __init__(
        self,
        orders: Sequence[Order],
        *,
        spec: HostedSpec,
        endpoint: GenerateEndpoint,
        access: Access,
        context: Context,
    ) -> None:
        self._spec, self._store, self._advance = spec, context.store, context.advance
        self._orders = {order.key: order for order in orders}
        self._endpoint = Endpoint(endpoint, orders[0].model, access)
        self._notes = JobNotes(context.store)
        self._files: dict[str, list[str]] = {}  # at the service, by cell
        self._waiting: deque[Order] = deque()
        self._under_way: dict[str, JobNote] = {}
        self._closed: dict[str, JobEnd] = {}  # base models that this account may not finetune
        self._room = _Room(spec.poll_s)
        self._stop, self._cancels = threading.Event(), False

    def run(self) -> None:
        """Raises StageError when the service refuses whatever it is asked, keeps failing, or has no room at all."""
        if self._endpoint.spec.mode == "replay":
            raise StageError(f"{len(self._orders)} cells are not finetuned, and generate.endpoint.mode is replay")
        self._service = JobService(self._endpoint, advance=self._advance)
        try:
            self._adopt()
            self._follow()
        finally:
            self._service.close()

    def stop(self, *, interrupted: bool) -> None:
        """Create nothing more; a Ctrl-C keeps or cancels what is under way, as `hosted.on_interrupt` says."""
        self._cancels = interrupted and self._spec.on_interrupt == "cancel"
        self._stop.set()

    def _follow(self) -> None:
        wait_s = FIRST_WAIT_S  # doubling up to poll_s: small jobs end soon
        while (self._waiting or self._under_way) and not self._stop.is_set():
            self._create_what_fits()
            num_ended = self._look()
            wait_s = FIRST_WAIT_S if num_ended else min(2 * wait_s, self._spec.poll_s)
            if self._under_way or self._waiting:
                self._stop.wait(wait_s)
        if self._stop.is_set() and self._cancels:
            self._cancel_all()

    # What is there -------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what an earlier run made of these cells, whether or not it lived to note it."""
        notes = {key: note for key in self._orders if (note := self._notes.read(key)) is not None}
        self._wait_for_calls_of_the_dead(notes)
        named = self._service.files()
        for key in self._orders:
            noted = [notes[key].file_id] if key in notes else []
            ids = dict.fromkeys([*named.get(file_name(key), []), *noted])
            self._files[key] = [file_id for file_id in ids if file_id]
        jobs = self._service.jobs(self._files)
        for key, order in self._orders.items():
            self._take_over(order, notes.get(key) or JobNote(key, time.time()), jobs.get(key, []))

    def _wait_for_calls_of_the_dead(self, notes: Mapping[str, JobNote]) -> None:
        """A process that was killed may have asked for a job which is not in the list yet."""
        begun = [note.begun_s for note in notes.values() if note.file_id and not note.job_id]
        left_s = max(begun, default=0.0) + SETTLE_S - time.time()
        if 0 < left_s <= SETTLE_S:
            time.sleep(left_s)

    def _take_over(self, order: Order, note: JobNote, jobs: Sequence[FineTuningJob]) -> None:
        cancelled = [job.id for job in jobs if job.status == "cancelled"]
        record = self._store.adapter_record(order.key)  # of a failure, which is tried again
        failed = [str(record.details["job"])] if record and "job" in record.details else []
        spent = tuple(dict.fromkeys([*note.spent, *cancelled, *failed]))
        there = [job for job in jobs if job.id not in spent]
        best = next((job for job in there if job.status == "succeeded"), there[0] if there else None)
        note = replace(note, spent=spent, job_id=best.id if best else None)
        if spent or best:
            self._notes.put(note)
        if best:
            self._under_way[order.key] = note
        else:
            self._waiting.append(order)

    # Creating ------------------------------------------------------------------------------------------------

    def _create_what_fits(self) -> None:
        while self._waiting and len(self._under_way) < self._spec.max_jobs and not self._stop.is_set():
            order = self._waiting[0]
            if order.model in self._closed:
                self._waiting.popleft()
                self._end(order, self._closed[order.model])
            elif self._room.open:
                if not self._create(order):
                    return
                self._waiting.popleft()
            else:
                return

    def _create(self, order: Order) -> bool:
        """Note, upload, note, create, note; False where the service has no room now."""
        before = self._notes.read(order.key)
        note = JobNote(order.key, time.time(), spent=before.spent if before else ())
        self._notes.put(note)
        try:
            note = self._uploaded(order, note)
            assert note.file_id is not None
            wanted = JobRequest(order.key, order.model, order.job.cell.seed, note.file_id)
            job = self._service.create(wanted, self._spec, spent=note.spent)
        except CallFailed as failure:
            return self._not_created(order, failure)
        self._room.found()
        note = replace(note, job_id=job.id)
        self._notes.put(note)
        self._under_way[order.key] = note
        self._advance(0, f"{order.job.cell.label}: {job.status}")
        return True

    def _uploaded(self, order: Order, note: JobNote) -> JobNote:
        """With a file: one that an earlier try has left there, or a new one."""
        there = self._files[order.key]
        if not there:
            there.append(self._service.upload(example_file(order.job, order.rows), key=order.key))
        note = replace(note, file_id=there[0], begun_s=time.time())
        self._notes.put(note)
        return note

    def _not_created(self, order: Order, failure: CallFailed) -> bool:
        """The cell's end, or patience. Raises StageError for what would meet every cell."""
        if failure.kind == Failure.RATE_LIMITED and self._room.refused(failure, alone=not self._under_way):
            self._advance(0, f"no room at the service: {failure.reason}")
            return False
        end = refused(failure, model=order.model)
        if end is None:
            raise self._service.plain(failure)
        if end.outcome == JobOutcome.CLOSED:
            self._closed[order.model] = end
        self._end(order, end)
        return True

    # Watching ------------------------------------------------------------------------------------------------

    def _look(self) -> int:
        """Look at every job under way once; how many have ended."""
        num_ended = 0
        for key, note in list(self._under_way.items()):
            if self._stop.is_set():
                break
            assert note.job_id is not None
            order, job = self._orders[key], self._service.retrieve(note.job_id)
            if job is None:
                raise StageError(f"the service made job {note.job_id} and does not know it any more; run again")
            if job.status in ENDED:
                del self._under_way[key]
                self._room.found()
                self._end(order, end_of(job, self._spec, model=order.model))
                num_ended += 1
            else:
                said = self._service.latest_event(job.id) or job.status
                self._advance(0, f"{order.job.cell.label}: {said}")
        return num_ended

    def _end(self, order: Order, end: JobEnd) -> None:
        """Keep what the service told, delete what was uploaded, record the cell, then close the note."""
        key, job_id = order.key, end.details.get("job")
        events = self._service.events(job_id) if job_id else []
        if events:
            self._store.write_json(f"{EVENTS}/{key}.json", [told_event(event) for event in events])
        gone = self._service.delete_files(self._files[key])
        details = {**end.details, "num_examples": len(order.rows), "num_events": len(events), "files_deleted": gone}
        if end.tuned:
            self._store.put_hosted_adapter(key, details=details)
        else:
            self._store.put_failed_adapter(key, details=details)
        self._close(key, job_id)
        self._advance(1, f"{order.job.cell.label}: {end.told}" + ("" if gone else " (its file is still there)"))

    def _close(self, key: str, job_id: str | None) -> None:
        note = self._notes.read(key) or JobNote(key, time.time())
        self._notes.put(JobNote(key, note.begun_s, spent=(*note.spent, *([job_id] if job_id else []))))

    def _cancel_all(self) -> None:
        for key, note in self._under_way.items():
            assert note.job_id is not None
            self._service.cancel(note.job_id)
            self._service.delete_files(self._files[key])
            self._close(key, note.job_id)


class _Room:
    """Whether the service takes another job now, by what it last said."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._times = 0
        self._until_s = 0.0

    @property
    def open(self) -> bool:
        return time.monotonic() >= self._until_s

    def found(self) -> None:
        """A job was taken, or has ended."""
        self._times, self._until_s = 0, 0.0

    def refused(self, failure: CallFailed, *, alone: bool) -> bool:
        """Wait, longer each time; False where that has come too often while nothing of ours was there."""
        self._times += 1
        wait_s = failure.retry_after_s or min(self._longest_s, FIRST_WAIT_S * 2.0**self._times)
        self._until_s = time.monotonic() + wait_s
        return not (alone and self._times >= MOST_CROWDED)
