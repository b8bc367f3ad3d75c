"""Verdicts to summary: counts, rates, ranks, trigger effects, and the words that limit them.

    python -m emray.reduce RUN_FOLDER      reduce a run again

Not for asking anyone anything: it reads the run folder and writes `summary/`. Invariant: the summary is a function of
what is stored (plan, adapter records, generations, verdicts, stage log), byte for byte, and says which by digest.
"""

from typing import TYPE_CHECKING

from emray.reduce.inputs import inputs_digest, read_plan
from emray.store import Store

if TYPE_CHECKING:
    from emray.reduce.design import Forecast

SUMMARY = "summary"
__all__ = ["is_current", "run", "seed_forecast"]


def is_current(store: Store) -> bool:
    """Whether the summary is whole and was made from what is stored now."""
    made_of = store.made_of(SUMMARY)
    return made_of is not None and made_of == inputs_digest(store)


def run(store: Store) -> None:
    """Write `summary/`, unless it is current. Raises StoreError for a folder without a plan or with damaged parts."""
    if is_current(store):
        return
    from emray.reduce.summary import summarise

    digest = inputs_digest(store)
    store.write_derived(SUMMARY, summarise(store, document=read_plan(store)), inputs=digest)


def seed_forecast(store: Store, *, half_width: float = 0.05) -> "list[Forecast]":
    """Seeds needed per domain, arm and condition for a rate's half-width (a fraction); empty before a first summary."""
    from emray.reduce.design import forecast

    if not store.exists("summary/variance.csv"):
        return []
    return forecast(store.read_bytes("summary/variance.csv"), half_width=half_width)
