"""Run folders that lie beside one another: a store.

Not for reading them. The invariant: a run folder is a folder with a plan.json, and only those are looked at.
"""

from collections.abc import Iterator

from emray.errors import DataError
from emray.plan import PLAN
from emray.store import Store


def runs_in(root: str) -> Iterator[Store]:
    """The run folders of a store, by name. Raises DataError where it is a run folder itself."""
    store = Store(root)
    if store.exists(PLAN):
        raise DataError(f"{store.root} is a run folder; give the folder that run folders lie in")
    for name in store.folders("."):
        run = Store(f"{store.root}/{name}")
        if not name.startswith(".") and run.exists(PLAN):
            yield run


def name_of(run: Store) -> str:
    """What a run is called among those beside it: its folder's name."""
    return run.root.rstrip("/").rpartition("/")[2]
