"""What training leaves: a folder of files for each cell, and the record that says how it ended.

    adapters/<key>/record.json   written last: the truth about one cell
    adapters.parquet             what the records of trained cells say: read at once where there are thousands, and
                                 remembered when an adapter that is of no more use is deleted

Not for what the files mean. The invariant: an adapter with a record is whole, or whoever wants its files is told which
one is not as its record says; the index says what records say.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from emray.errors import StoreError
from emray.store.damage import damage_told, damaged, parquet_bytes, parquet_file
from emray.store.documents import read_json, write_json
from emray.store.files import Files
from emray.store.weight_files import WEIGHTS, digest_of, fault_of

FOLDER = "adapters"
RECORD = "record.json"
INDEX = f"{FOLDER}.parquet"
INDEX_SCHEMA = pa.schema([("key", pa.string()), ("details", pa.string())])  # details: JSON
DIGESTS = "files"  # the record's key for digests by name, of what was trained
CHANGED = "its content is not as its record says"


class AdapterRecord(NamedTuple):
    """How a cell's training ended: `record.json` of an adapter folder."""

    key: str
    status: str  # "trained" or "failed"
    details: dict[str, Any]  # trained: losses, num_steps, wall_s, ...; failed: error, attempts

    @property
    def trained(self) -> bool:
        return self.status == "trained"

    @property
    def served_as(self) -> str | None:
        """The name under which a service answers with it; None where its weights lie here."""
        return self.details.get("fine_tuned_model")


class Adapters:
    """The adapters under one root."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._whole: set[str] = set()  # adapters whose files were looked at

    def put(self, key: str, *, files: Path, details: Mapping[str, Any]) -> None:
        """Publish a trained adapter: its files, then the record."""
        paths = sorted(files.iterdir())
        digests = {path.name: _digest(path) for path in paths}
        for path in paths:
            self._files.put_file(f"{FOLDER}/{key}/{path.name}", path)
        self.put_record(AdapterRecord(key, "trained", dict(details)), digests=digests)

    def take(self, key: str, *, of: "Adapters") -> None:
        """Publish an adapter that another run has: its files, on one disk under two names, then its record."""
        for path in sorted(of.folder(key).iterdir()):
            if path.name != RECORD and not path.name.startswith("."):
                self._files.take_file(f"{FOLDER}/{key}/{path.name}", path)
        self._files.write_bytes(f"{FOLDER}/{key}/{RECORD}", of._files.read_bytes(f"{FOLDER}/{key}/{RECORD}"))

    def put_record(self, record: AdapterRecord, *, digests: Mapping[str, str] | None = None) -> None:
        said = record._asdict() | ({DIGESTS: dict(digests)} if digests else {})
        write_json(self._files, f"{FOLDER}/{record.key}/{RECORD}", said)

    def record(self, key: str) -> AdapterRecord | None:
        try:
            said = read_json(self._files, f"{FOLDER}/{key}/{RECORD}")
            return AdapterRecord(**{name: value for name, value in said.items() if name != DIGESTS})
        except FileNotFoundError:
            return None
        except (TypeError, AttributeError):
            raise damaged(self._files.root, f"{FOLDER}/{key}/{RECORD}", "it is no record") from None

    def records(self) -> dict[str, AdapterRecord]:
        """Records of all finished cells, trained and failed, by adapter key: the index, and what it does not have."""
        index = self._index()
        others = self._read([key for key in self._files.folders(FOLDER) if key not in index])
        found = {key: AdapterRecord(key, "trained", json.loads(details)) for key, details in index.items()} | others
        return dict(sorted(found.items()))

    def with_weights(self) -> frozenset[str]:
        """Keys of the cells whose weights are there."""
        return frozenset(name.split("/")[1] for name in self._files.sizes_below(FOLDER) if name.endswith(WEIGHTS))

    def write_index(self) -> None:
        """Have the index name the adapters that are there too. For the one sweep that holds the run folder."""
        index = self._index()
        others = self._read([key for key in self._files.folders(FOLDER) if key not in index])
        new = {key: json.dumps(record.details) for key, record in others.items() if record.trained}
        if new:
            self._write_index(index | new)

    def remember(self, records: Iterable[AdapterRecord]) -> None:
        """Have the index name these trained cells, whether or not their weights are here."""
        self._write_index(self._index() | {one.key: json.dumps(one.details) for one in records})

    def forget(self, keys: Iterable[str]) -> None:
        """Have the index not name these cells."""
        index, gone = self._index(), set(keys)
        if index.keys() & gone:
            self._write_index({key: details for key, details in index.items() if key not in gone})

    def _write_index(self, index: Mapping[str, str]) -> None:
        columns = {"key": sorted(index), "details": [index[key] for key in sorted(index)]}
        self._files.write_bytes(INDEX, parquet_bytes(pa.table(columns, schema=INDEX_SCHEMA)))

    def _index(self) -> dict[str, str]:
        """Details of trained adapters, as JSON; of them alone, since a failed one may be trained again.

        A damaged index is none: the records say the same, and the next one is written of them.
        """
        try:
            content = self._files.read_bytes(INDEX)
            with damage_told(self._files.root, INDEX):
                table = parquet_file(pa.BufferReader(content)).read()  # not pq.read_table, which imports pandas
                table = table.select(INDEX_SCHEMA.names)
        except (FileNotFoundError, KeyError, StoreError):
            return {}
        return dict(zip(table["key"].to_pylist(), table["details"].to_pylist(), strict=True))

    def _read(self, keys: Sequence[str]) -> dict[str, AdapterRecord]:
        """The records beside these adapters; none of one that is not whole."""
        with ThreadPoolExecutor(self._files.readers) as pool:
            return {record.key: record for record in pool.map(self.record, keys) if record}

    def folder(self, key: str) -> Path:
        """A local folder that holds the adapter's files (fetched once a machine when the root is elsewhere).

        Raises StoreError for files that are cut short, or not as the record says.
        """
        own = self._files.local_path(f"{FOLDER}/{key}")
        path = own or self._fetched(key)
        if key not in self._whole:
            faults = self._faults(key, path)
            if faults and own is None:  # what was fetched for an earlier adapter of this key, or has changed since
                for name in faults:
                    (path / name).unlink(missing_ok=True)
                faults = self._faults(key, self._fetched(key))
            for name, fault in faults.items():
                raise damaged(self._files.root, f"{FOLDER}/{key}/{name}", fault)
            self._whole.add(key)
        return path

    def _faults(self, key: str, path: Path) -> dict[str, str]:
        """By name, what is wrong with the adapter's files in a folder of this machine."""
        digests, found = self._digests(key), {}
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            fault = fault_of(file.name, file.stat().st_size, partial(_head, file))
            if fault or digests.get(file.name) not in (None, _digest(file)):
                found[file.name] = fault or CHANGED
        return found

    def _digests(self, key: str) -> Mapping[str, str]:
        """As the record says; nothing where there is none, or one of an earlier version."""
        try:
            said = read_json(self._files, f"{FOLDER}/{key}/{RECORD}")
        except FileNotFoundError:
            return {}
        return (said.get(DIGESTS) if isinstance(said, Mapping) else None) or {}

    def indexed(self) -> list[str]:
        """Keys of the adapters that the index names."""
        return list(self._index())

    def damage(self, key: str, *, thorough: bool) -> Iterator[tuple[str, str]]:
        """Files of a trained adapter that are cut short, each with what is wrong; absent weights are none.

        `thorough`: read to the last byte, also those whose content is not as the record says.
        """
        sizes, digests = self._files.sizes(f"{FOLDER}/{key}"), self._digests(key)
        for name, size in sizes.items():
            fault = fault_of(name, size, partial(self._start_of, name, size))
            digest = digests.get(PurePosixPath(name).name)
            if not fault and thorough and digest and digest != self._digest(name, size):
                fault = CHANGED
            if fault:
                yield name, fault
        if any(name.endswith(WEIGHTS) for name in sizes):
            lacking = [name for name in (f"{FOLDER}/{key}/{name}" for name in digests) if name not in sizes]
            yield from ((name, "it is not there") for name in lacking)

    def _digest(self, name: str, size: int) -> str:
        with self._files.opened(name, size=size) as file:
            return digest_of(file)

    def _start_of(self, name: str, size: int, num: int) -> bytes:
        with self._files.opened(name, size=size) as file:
            return bytes(file.read(num))

    def _fetched(self, key: str) -> Path:
        digest = hashlib.sha256(self._files.root.encode()).hexdigest()[:12]
        local = Path(tempfile.gettempdir()) / f"emray-{os.getuid()}-{digest}" / key
        for name in self._files.sizes(f"{FOLDER}/{key}"):
            target = local / PurePosixPath(name).name
            if not target.exists():
                local.mkdir(parents=True, exist_ok=True)
                half = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
                try:
                    half.write_bytes(self._files.read_bytes(name))
                    half.rename(target)
                finally:
                    half.unlink(missing_ok=True)
        return local


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file)


def _head(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(size)
