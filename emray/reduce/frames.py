"""A run as pandas frames, for notebooks.

Not for the stages. Invariant: reading changes nothing, and neither Ray nor torch is loaded.
"""

import io
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emray.errors import StoreError
from emray.reduce.fields import csv_rows
from emray.reduce.schema import CSV_TABLES, ColumnType
from emray.store import Kind, Store

if TYPE_CHECKING:
    import pandas as pd

_PANDAS = {ColumnType.TEXT: "str", ColumnType.COUNT: "Int64", ColumnType.NUMBER: "float64"}


class RunFrames:
    """Tables of a run folder, each read when first asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        if not store.exists("plan.json"):
            raise StoreError(f"{store.root} holds no plan.json: it is not a run folder")

    def __repr__(self) -> str:
        return f"RunFrames({self._store.root!r})"

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """One row per cell x condition x question: counts and rates under every rule."""
        import pandas as pd

        return pd.read_parquet(io.BytesIO(self._summary("cells.parquet")))

    @cached_property
    def generations(self) -> "pd.DataFrame":
        """One row per stored answer."""
        return self._store.read_rows(Kind.GENERATIONS).to_pandas()

    @cached_property
    def verdicts(self) -> "pd.DataFrame":
        """One row per stored judge outcome; `generation` is the answer's key."""
        return self._store.read_rows(Kind.VERDICTS).to_pandas()

    @cached_property
    def summary(self) -> "dict[str, pd.DataFrame]":
        """The tables of `summary/` by name, as docs/tables.md describes them; a count that may be undefined is NA."""
        import pandas as pd

        frames = {}
        for name, table in CSV_TABLES.items():
            rows = csv_rows(table, self._summary(table.file))
            types = {column.name: _PANDAS[column.type] for column in table.columns}
            frames[name] = pd.DataFrame(rows, columns=list(types)).astype(types)
        return frames

    @cached_property
    def facts(self) -> dict[str, Any]:
        """`summary.json`: counts, rules, limits in words, versions, cost, wall times."""
        return dict(self._store.read_json("summary/summary.json"))

    def _summary(self, name: str) -> bytes:
        try:
            return self._store.read_bytes(f"summary/{name}")
        except FileNotFoundError:
            root = self._store.root
            raise StoreError(f"{root} has no summary yet; python -m emray.reduce {root} writes it") from None


def load_run(path: str) -> RunFrames:
    """Open a run folder (or s3:// location). Raises StoreError when it is none."""
    return RunFrames(Store(str(path)))
