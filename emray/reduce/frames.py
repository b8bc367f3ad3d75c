"""A run as pandas frames, for notebooks.

Not for the stages. Invariant: reading changes nothing, and neither Ray nor torch is loaded.
"""

import io
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emray.errors import StoreError
from emray.reduce.everything_asked import EverythingAsked, under_names
from emray.reduce.fields import csv_rows
from emray.reduce.schema import CSV_TABLES, ColumnType
from emray.stats.arrays import Mask
from emray.store import Kind, Store

if TYPE_CHECKING:
    import pandas as pd

_PANDAS = {ColumnType.TEXT: "str", ColumnType.COUNT: "Int64", ColumnType.NUMBER: "float64"}


class RunFrames:
    """Tables of a run folder, each read when first asked for.

    Answers and verdicts are those of the plan and its judge, under the plan's names for cells and questions; with
    `everything`, also what earlier plans and further judges left, and a column `current` that tells them apart.
    """

    def __init__(self, store: Store, *, everything: bool = False) -> None:
        self._store, self._everything = store, everything
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
        """One row per answer; `prompt` is a list of messages, each with its role and content."""
        table = self._store.read_rows(Kind.GENERATIONS)
        named = under_names(table, cells=self._asked.cells, prompts=self._asked.prompts)
        frame = self._chosen(named, self._asked.answers(table["key"]))
        return frame.assign(prompt=frame["prompt"].map(messages_of))

    @cached_property
    def verdicts(self) -> "pd.DataFrame":
        """One row per judge outcome; `generation` is the answer's key."""
        table = self._store.read_rows(Kind.VERDICTS)
        return self._chosen(table, self._asked.own_verdicts(table))

    @cached_property
    def marks(self) -> "pd.DataFrame":
        """One row per answer to a quiz that was scored; `generation` is the answer's key."""
        table = self._store.read_rows(Kind.MARKS)
        return self._chosen(table, self._asked.marks.has(table["key"]))

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

    @cached_property
    def _asked(self) -> EverythingAsked:
        return EverythingAsked.of(self._store.read_json("plan.json"))

    def _chosen(self, table: pa.Table, current: Mask) -> "pd.DataFrame":
        if self._everything:
            return table.to_pandas().assign(current=current)
        return table.filter(pa.array(current)).to_pandas()

    def _summary(self, name: str) -> bytes:
        try:
            return self._store.read_bytes(f"summary/{name}")
        except FileNotFoundError:
            root = self._store.root
            raise StoreError(f"{root} has no summary yet; python -m emray.reduce {root} writes it") from None


def messages_of(text: str) -> list[dict[str, str]]:
    """The `prompt` column as messages."""
    return [{"role": role, "content": content} for role, content, *_ in json.loads(text)]


def load_run(path: str, *, everything: bool = False) -> RunFrames:
    """Open a run folder (or s3:// location). Raises StoreError when it is none."""
    return RunFrames(Store(str(path)), everything=everything)
