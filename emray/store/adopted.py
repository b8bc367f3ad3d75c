"""Keys of verdicts whose replies another run paid for, part by part.

Not for the verdicts, which are rows like others. The invariant: a key is noted before its row is written, so what was
taken over never counts as paid here.
"""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from emray.store.damage import parquet_bytes
from emray.store.files import Files
from emray.store.keyset import Keys
from emray.store.parts import SUFFIX, scan

FOLDER = "adopted"


def note(files: Files, keys: pa.ChunkedArray) -> None:
    """Keep these keys."""
    distinct = pc.unique(keys).sort()
    if len(distinct):
        digest = hashlib.sha256("\n".join(distinct.to_pylist()).encode()).hexdigest()[:20]
        files.write_bytes(f"{FOLDER}/part-{digest}{SUFFIX}", parquet_bytes(pa.table({"key": distinct})))


def noted(files: Files) -> Keys:
    """Every key that was kept."""
    return Keys.of_columns(part.table["key"] for part in scan(files, FOLDER, columns=["key"]))
