"""A batch as the run folder knows it: its keys until it is collected, its id, how it ended.

Not for talking to the endpoint (service.py). The invariant: a submission is recorded before its upload and after its
creation, so that a crash in between leaves a trace to find the batch by.

    journal/batches/<token>.json    one submission
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from emray.endpoint.journal import FOLDER as JOURNAL
from emray.errors import StageError
from emray.store import Store

FOLDER = f"{JOURNAL}/batches"


@dataclass(frozen=True)
class Submission:
    """One batch as the run folder knows it."""

    token: str
    keys: tuple[str, ...]
    prompt_tokens: int  # our estimate of what it holds of the account's cap
    created_s: float  # Unix time, of our clock
    batch_id: str | None = None  # None: it may or may not have been created


class Submissions:
    """Those of one run folder."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def open(self) -> Sequence[Submission]:
        """Those that were not collected yet."""
        rows = [self._store.read_json(name) for name in self._store.names(FOLDER, suffix=".json")]
        fields = ("token", "prompt_tokens", "created_s", "batch_id")
        return [
            Submission(keys=tuple(row["keys"]), **{name: row[name] for name in fields}) for row in rows if "keys" in row
        ]

    def put(self, submission: Submission) -> None:
        self._store.write_json(self._name(submission), asdict(submission))

    def close(self, submission: Submission, *, ended: str) -> None:
        """It is collected, or never will be; what is kept says what became of it."""
        row = asdict(submission) | {"num_requests": len(submission.keys), "ended": ended}
        del row["keys"]
        self._store.write_json(self._name(submission), row)

    def _name(self, submission: Submission) -> str:
        return f"{FOLDER}/{submission.token}.json"


def refuse_what_is_under_way(store: Store, *, mine: Callable[[str], bool], setting: str) -> None:
    """Raises StageError where batches of an earlier run may be answering requests (by key) that are `mine`.

    They would be paid for twice. `setting` is the field of the sweep file that lets batches be waited for.
    """
    for submission in Submissions(store).open():
        count = sum(map(mine, submission.keys))
        if count:
            name = submission.batch_id or "a batch not known to be created"
            raise StageError(
                f"{count} of the requests are under way in {name}; set {setting}: batch to wait for them, or delete "
                f"{store.root}/{FOLDER} to ask, and pay for, them again"
            )
