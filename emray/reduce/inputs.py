"""What a summary depends on, as one digest.

Not for reading rows. Invariant: equal digests mean equal bytes in `summary/`.
"""

import hashlib
from typing import Any

from emray import __version__
from emray.errors import StoreError
from emray.records import canonical_json
from emray.store import Kind, Store

FORMAT = 20  # raise it when equal inputs give other bytes
STAGES = (
    "train",
    "generate",
    "judge",
    "mark",
    "probe",
)  # whose wall time is reported
COMMAND, ADOPT = "command", "adopt"  # entries of the log that are of no stage: who worked here, and what others gave
ADOPTED = "adopted"  # keys of verdicts that other runs paid for
SHEETS = "datasets.json"


def inputs_digest(store: Store) -> str:
    """Digest of everything the summary depends on, from names and sizes of parts: cheap at any number of rows."""
    inputs: dict[str, Any] = {
        "version": [__version__, FORMAT],
        "plan": read_plan(store),
        "adapters": {key: record._asdict() for key, record in store.adapter_records().items()},
        "parts": {str(kind): store.part_sizes(kind) for kind in Kind},
        "adopted": store.sizes(ADOPTED, suffix=".parquet"),
        "labels": hashlib.sha256(store.read_bytes("labels.csv")).hexdigest() if store.exists("labels.csv") else None,
        "log": [entry for entry in store.stage_log() if entry["stage"] in (*STAGES, COMMAND, ADOPT)],
        "datasets": datasets(store),
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def read_plan(store: Store) -> Any:
    """plan.json. Raises StoreError for a folder without one."""
    try:
        return store.read_json("plan.json")
    except FileNotFoundError:
        raise StoreError(f"{store.root} holds no plan.json: it is not a run folder") from None


def datasets(store: Store) -> list[dict[str, Any]] | None:
    """What was trained on, file by file: content digests and numbers of rows. None where nobody wrote it down."""
    try:
        files = store.read_json(SHEETS)["files"]
        names = ("domain", "holds", "rows", "digest")
        return [{name: one[name] for name in names} | {"file": one["file"].rpartition("/")[2]} for one in files]
    except (FileNotFoundError, KeyError, TypeError, AttributeError):
        return None
