"""What training leaves: a folder of files for each cell, and the record that says how it ended.

    adapters/<key>/record.json   written last: the truth about one cell
    adapters/index.parquet       what the records of trained cells say, read at once where there are thousands

Not for what the files mean. The invariant: an adapter with a record is whole, and the index says what records say.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from emray.store.documents import read_json, write_json
from emray.store.files import Files

FOLDER = "adapters"
RECORD = "record.json"
INDEX = f"{FOLDER}/index.parquet"
INDEX_SCHEMA = pa.schema([("key", pa.string()), ("details", pa.string())])  # details: JSON


class AdapterRecord(NamedTuple):
    """How a cell's training ended: `record.json` of an adapter folder."""

    key: str
    status: str  # "trained" or "failed"
    details: dict[str, Any]  # trained: losses, num_steps, wall_s, ...; failed: error, attempts

    @property
    def trained(self) -> bool:
        return self.status == "trained"


class Adapters:
    """The adapters under one root."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def put(self, key: str, *, files: Path, details: Mapping[str, Any]) -> None:
        """Publish a trained adapter: its files, then the record."""
        for path in sorted(files.iterdir()):
            self._files.put_file(f"{FOLDER}/{key}/{path.name}", path)
        self.put_record(AdapterRecord(key, "trained", dict(details)))

    def put_record(self, record: AdapterRecord) -> None:
        write_json(self._files, f"{FOLDER}/{record.key}/{RECORD}", record._asdict())

    def record(self, key: str) -> AdapterRecord | None:
        try:
            return AdapterRecord(**read_json(self._files, f"{FOLDER}/{key}/{RECORD}"))
        except FileNotFoundError:
            return None

    def records(self) -> dict[str, AdapterRecord]:
        """Records of all finished cells, trained and failed, by adapter key: the index, and what it does not have."""
        keys, index = self._files.folders(FOLDER), self._index()
        others = self._read([key for key in keys if key not in index])
        indexed = {key: AdapterRecord(key, "trained", json.loads(index[key])) for key in keys if key in index}
        return {key: (indexed.get(key) or others[key]) for key in keys if key in indexed or key in others}

    def write_index(self) -> None:
        """Have the index name the adapters that are there now. For the one sweep that holds the run folder."""
        keys, index = self._files.folders(FOLDER), self._index()
        kept = {key: index[key] for key in keys if key in index}
        others = self._read([key for key in keys if key not in index])
        new = {key: json.dumps(record.details) for key, record in others.items() if record.trained}
        if kept == index and not new:
            return
        columns = {"key": [*kept, *new], "details": [*kept.values(), *new.values()]}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), sink, compression="zstd")
        self._files.write_bytes(INDEX, sink.getvalue().to_pybytes())

    def _index(self) -> dict[str, str]:
        """Details of trained adapters, as JSON; of them alone, since a failed one may be trained again."""
        try:
            content = self._files.read_bytes(INDEX)
        except FileNotFoundError:
            return {}
        table = pq.ParquetFile(pa.BufferReader(content)).read()  # not pq.read_table, which imports pandas
        return dict(zip(table["key"].to_pylist(), table["details"].to_pylist(), strict=True))

    def _read(self, keys: Sequence[str]) -> dict[str, AdapterRecord]:
        """The records beside these adapters; none of one that is not whole."""
        with ThreadPoolExecutor(self._files.readers) as pool:
            return {record.key: record for record in pool.map(self.record, keys) if record}

    def folder(self, key: str) -> Path:
        """A local folder that holds the adapter's files (fetched once a machine when the root is elsewhere)."""
        path = self._files.local_path(f"{FOLDER}/{key}")
        if path is not None:
            return path
        digest = hashlib.sha256(self._files.root.encode()).hexdigest()[:12]
        local = Path(tempfile.gettempdir()) / f"emray-{os.getuid()}-{digest}" / key
        for name in self._files.sizes(f"{FOLDER}/{key}"):
            target = local / PurePosixPath(name).name
            if not target.exists():
                local.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
                partial.write_bytes(self._files.read_bytes(name))
                partial.rename(target)
        return local
