"""Verdicts to summary: counts, rates, ranks, trigger effects, and the words that limit them.

    python -m emray.reduce RUN_FOLDER      reduce a run again

Not for asking anyone anything: it reads the run folder and writes `summary/`. Invariant: the summary is a function of
what is stored (plan, adapter records, generations, verdicts, stage log), byte for byte, and says which by digest.
"""

import hashlib
from typing import TYPE_CHECKING, Any

from emray import __version__
from emray.errors import StoreError
from emray.records import canonical_json
from emray.store import Kind, Store

if TYPE_CHECKING:
    from emray.reduce.design import Forecast

RECORD = "summary/record.json"
FORMAT = 8  # raise it when equal inputs give other bytes
STAGES = ("train", "generate", "judge")  # whose wall time is reported; reduce and report do not time themselves

__all__ = ["FORMAT", "RECORD", "STAGES", "inputs_digest", "is_current", "run", "seed_forecast"]


def inputs_digest(store: Store) -> str:
    """Digest of everything the summary depends on, from names and sizes of parts: cheap at any number of rows."""
    inputs: dict[str, Any] = {
        "version": [__version__, FORMAT],
        "plan": _plan(store),
        "adapters": {key: record._asdict() for key, record in store.adapter_records().items()},
        "parts": {str(kind): store.part_sizes(kind) for kind in Kind},
        "labels": hashlib.sha256(store.read_bytes("labels.csv")).hexdigest() if store.exists("labels.csv") else None,
        "log": [entry for entry in store.stage_log() if entry["stage"] in STAGES],
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


def is_current(store: Store) -> bool:
    """Whether the summary was made from what is stored now."""
    return store.exists(RECORD) and store.read_json(RECORD)["inputs"] == inputs_digest(store)


def run(store: Store) -> None:
    """Write `summary/`, unless it is current. Raises StoreError for a folder without a plan or with damaged parts."""
    if is_current(store):
        return
    from emray.reduce.summary import summarise

    digest = inputs_digest(store)
    files = summarise(store, document=_plan(store))
    store.delete(RECORD)
    for name, content in files.items():
        store.write_bytes(f"summary/{name}", content)
    store.write_json(RECORD, {"inputs": digest, "files": sorted(files)})


def seed_forecast(store: Store, *, half_width: float = 0.05) -> "list[Forecast]":
    """Seeds needed per domain, arm and condition for a rate's half-width (a fraction); empty before a first summary."""
    from emray.reduce.design import forecast

    if not store.exists("summary/variance.csv"):
        return []
    return forecast(store.read_bytes("summary/variance.csv"), half_width=half_width)


def _plan(store: Store) -> Any:
    try:
        return store.read_json("plan.json")
    except FileNotFoundError:
        raise StoreError(f"{store.root} holds no plan.json: it is not a run folder") from None
