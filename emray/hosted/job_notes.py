"""A job as the run folder knows it while it is under way.

Not for the service (job_service.py) or for how a cell ended (its record). The invariant: a note is written before the
upload and after each step that follows, so that a crash in between leaves a trace to find file and job by.

    journal/finetunes/<cell key>.json    one cell
"""

from dataclasses import asdict, dataclass

from emray.endpoint.journal import FOLDER as JOURNAL
from emray.store import Store

FOLDER = f"{JOURNAL}/finetunes"


@dataclass(frozen=True)
class JobNote:
    """What is known of one cell's job."""

    key: str
    begun_s: float  # Unix time, of our clock: when it was last set out for
    file_id: str | None = None  # None: the file may or may not have been uploaded
    job_id: str | None = None  # None: the job may or may not have been created
    spent: tuple[str, ...] = ()  # ids of jobs of this cell that have ended: none of them is waited for again


class JobNotes:
    """Those of one run folder."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, key: str) -> JobNote | None:
        try:
            row = self._store.read_json(self._name(key))
        except FileNotFoundError:
            return None
        return JobNote(**{**row, "spent": tuple(row["spent"])})

    def put(self, note: JobNote) -> None:
        self._store.write_json(self._name(note.key), asdict(note))

    def _name(self, key: str) -> str:
        return f"{FOLDER}/{key}.json"
