"""Run folders that lie beside one another: a store.

Not for reading them. The invariant: a run folder is a folder with a plan.json, and only those are looked at.
"""

from collections.abc import Iterator
from contextlib import suppress

from emray.errors import DataError, StoreError
from emray.plan import PLAN
from emray.store import Store

NOWHERE = "none"  # what stands for no store


def runs_in(root: str) -> Iterator[Store]:
    """The run folders of a store, by name. Raises DataError where it is a run folder itself."""
    store = Store(root)
    if store.exists(PLAN):
        raise DataError(f"{store.root} is a run folder; give the folder that run folders lie in")
    for name in store.folders("."):
        run = Store(f"{store.root}/{name}")
        with suppress(PermissionError):  # somebody else's
            if not name.startswith(".") and run.exists(PLAN):
                yield run


def beside(store: Store, *, given: str | None) -> list[Store]:
    """The other runs of a run folder's store: where it lies itself, or another `given` one, or none.

    Raises StoreError or DataError for a store that was given and cannot be read; one that was not may be none.
    """
    parent, slash, _ = store.root.rstrip("/").rpartition("/")
    if given == NOWHERE or (given is None and (not slash or parent.endswith(":/"))):
        return []
    try:
        return [run for run in runs_in(given or parent or "/") if run.root != store.root]
    except (StoreError, DataError):
        if given is not None:
            raise
        return []


def counted(number: int, noun: str) -> str:
    """The number with its noun, as a sentence has them."""
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def name_of(run: Store) -> str:
    """What a run is called among those beside it: its folder's name."""
    return run.root.rstrip("/").rpartition("/")[2]
