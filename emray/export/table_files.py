"""Every table of the summary as CSV and Parquet, and what each column means.

Not for what the tables hold (reduce/). The invariant: the dictionary names every column that is written, and no other.
"""

import csv
from pathlib import Path

from emray.reduce.frames import RunFrames
from emray.reduce.schema import CSV_TABLES, TABLES, Column
from emray.store import Store

DICTIONARY = "data_dictionary.csv"


def export_tables(frames: RunFrames, store: Store, folder: Path) -> str:
    """Returns what was written, in words. Raises StoreError for a run without a summary."""
    tables, cells = frames.summary, frames.cells
    folder.mkdir(parents=True)
    for name, table in tables.items():
        (folder / CSV_TABLES[name].file).write_bytes(store.read_bytes(f"summary/{CSV_TABLES[name].file}"))
        table.to_parquet(folder / f"{name}.parquet", index=False)
    cells.to_parquet(folder / "cells.parquet", index=False)
    cells.to_csv(folder / "cells.csv", index=False)
    write_dictionary(folder / DICTIONARY, rules=list(frames.facts["rules"]))
    return f"{len(tables) + 1} tables"


def write_dictionary(path: Path, *, rules: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("table", "row", *Column._fields))
        for table in TABLES:
            writer.writerows((table.name, table.row, *column) for column in table.columns_for(tuple(rules)))
