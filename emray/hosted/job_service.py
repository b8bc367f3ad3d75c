"""The service's side of finetunes: its files and jobs.

Not for what is created when (finetuning.py). The invariant: whatever is made here carries its cell's key, in a name and
in metadata, and a job is created at most once for one try of a cell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import openai
from openai.types.fine_tuning import FineTuningJob

from emray.endpoint.asking import Endpoint
from emray.endpoint.refusals import CallFailed, Failure
from emray.endpoint.remote import AGAIN, Remote
from emray.errors import SpecError, StageError
from emray.progress import Advance, silent
from emray.spec import HostedSpec

LABEL = "emray"  # the metadata under which a job carries its cell's key
PURPOSE: Literal["fine-tune"] = "fine-tune"
ENDED = ("succeeded", "failed", "cancelled")
_JOBS, _FILES = "/fine_tuning/jobs", "/files"
_ADVICE = "look after it there"
_NO_API = (404, 405, 501)

T = TypeVar("T")


class JobRequest(NamedTuple):
    """A job that is to be made."""

    key: str  # the cell's
    model: str  # as the service calls it
    seed: int
    file_id: str

    @property
    def suffix(self) -> str:
        return suffix_of(self.key)


class JobService:
    """Files and jobs of one account. Methods raise what Remote.call raises; `upload` and `create` CallFailed."""

    def __init__(self, endpoint: Endpoint, *, advance: Advance = silent) -> None:
        self._remote = Remote(endpoint, advance=advance, advice=_ADVICE)
        self._client = self._remote.client
        self.base_url = self._remote.base_url

    def files(self) -> dict[str, list[str]]:
        """Ids of the files of examples by their names."""

        def look() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for row in self._remote.rows(_FILES, purpose=PURPOSE):
                found.setdefault(str(row.get("filename")), []).append(str(row.get("id")))
            return found

        return self._call(look)

    def jobs(self, of_files: Mapping[str, Sequence[str]]) -> dict[str, list[FineTuningJob]]:
        """The account's jobs of these cells, newest first; of each cell the ids of its files are given."""

        def look() -> dict[str, list[FineTuningJob]]:
            found: dict[str, list[FineTuningJob]] = {}
            for row in self._remote.rows(_JOBS):
                key = _key_of(row, of_files)
                if key is not None:
                    found.setdefault(key, []).append(self._usual(FineTuningJob.construct(None, **row)))
            return found

        return self._call(look)

    def upload(self, content: bytes, *, key: str) -> str:
        return self._remote.upload(content, name=file_name(key), purpose=PURPOSE)

    def create(self, wanted: JobRequest, spec: HostedSpec, *, spent: Sequence[str]) -> FineTuningJob:
        """Create a job once: after a call whose end is not known it is looked for, those `spent` apart.

        A service that has no room says so at once, by Failure.RATE_LIMITED.
        """

        def create() -> FineTuningJob:
            job = self._client.fine_tuning.jobs.create(
                model=wanted.model,
                training_file=wanted.file_id,
                seed=wanted.seed,
                suffix=wanted.suffix,
                metadata={LABEL: wanted.key},
                extra_body={"method": {"type": "supervised", "supervised": {"hyperparameters": spec.hyperparameters}}},
            )
            return self._usual(job)

        def find() -> FineTuningJob | None:
            found = self.jobs({wanted.key: [wanted.file_id]}).get(wanted.key, [])
            return next((job for job in found if job.id not in spent), None)

        again = [kind for kind in AGAIN if kind != Failure.RATE_LIMITED]
        return self._remote.attempt(create, before_again=find, again=again)

    def retrieve(self, job_id: str) -> FineTuningJob | None:
        """None for a job that is not known there."""

        def look() -> FineTuningJob | None:
            try:
                return self._usual(self._client.fine_tuning.jobs.retrieve(job_id))
            except openai.NotFoundError:
                return None

        return self._remote.call(look)

    def cancel(self, job_id: str) -> None:
        """One that has ended, or is not there, stays as it is."""

        def cancel() -> None:
            try:
                self._client.fine_tuning.jobs.cancel(job_id)
            except (openai.NotFoundError, openai.ConflictError, openai.BadRequestError):
                return

        self._remote.call(cancel)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """What the service tells of a job, oldest first; nothing of a service that tells nothing."""

        def look() -> list[dict[str, Any]]:
            try:
                return list(self._remote.rows(f"{_JOBS}/{job_id}/events"))[::-1]
            except openai.NotFoundError:
                return []

        return self._remote.call(look)

    def latest_event(self, job_id: str) -> str:
        """What the service said last of a job; empty where it says nothing."""

        def look() -> str:
            try:
                rows, _ = self._remote.page(f"{_JOBS}/{job_id}/events", limit=1)
            except openai.NotFoundError:
                return ""
            return str(rows[0].get("message") or "") if rows else ""

        return self._remote.call(look)

    def delete_files(self, file_ids: Sequence[str]) -> bool:
        """Whether all of them are gone."""
        try:
            for file_id in file_ids:
                self._remote.delete_file(file_id)
        except CallFailed:
            return False
        return True

    def plain(self, failure: CallFailed) -> StageError:
        """What a failure means to the stage."""
        return self._remote.plain(failure)

    def close(self) -> None:
        self._remote.close()

    def _call(self, look: Callable[[], T]) -> T:
        """Raises SpecError for an endpoint without such an API."""

        def known() -> T:
            try:
                return look()
            except openai.APIStatusError as error:
                if error.status_code in _NO_API:
                    raise SpecError(
                        f"no finetuning API at {self.base_url} (it answers {error.status_code}); "
                        "set generate.endpoint.base_url, or arms: [base]"
                    ) from None
                raise

        return self._remote.call(known)

    def _usual(self, job: FineTuningJob) -> FineTuningJob:
        """The job. Raises StageError, with the service's words, where its shape is not OpenAI's."""
        if isinstance(job, FineTuningJob) and isinstance(job.id, str) and isinstance(job.status, str):
            return job
        raise self._remote.other_shape("a finetuning job", job)


def suffix_of(key: str) -> str:
    """What a tuned model's name ends with, or nearly."""
    return f"emray-{key}"


def file_name(key: str) -> str:
    return f"emray-{key}.jsonl"


def _key_of(row: Mapping[str, Any], of_files: Mapping[str, Sequence[str]]) -> str | None:
    """The cell that a job is of: by its metadata, or where a service keeps none by its suffix or its file."""
    metadata = row.get("metadata")
    told = metadata.get(LABEL) if isinstance(metadata, Mapping) else None
    if told is not None:
        return str(told) if told in of_files else None
    named = [str(row.get(name) or "") for name in ("suffix", "user_provided_suffix", "fine_tuned_model")]
    file_id = row.get("training_file")
    return next(
        (key for key, files in of_files.items() if file_id in files or any(suffix_of(key) in name for name in named)),
        None,
    )
