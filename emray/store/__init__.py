"""The run folder: where stages meet, and the only place that reads or writes it.

    plan.json                   what was asked for
    adapters/<key>/             PEFT files, then record.json (its presence means: done, or failed for good)
    adapters.parquet            what those records say, also of adapters that were deleted since
    generations/*.parquet       parts; a part is complete or absent
    verdicts/*.parquet
    measurements/*.parquet      what probes read
    adopted/*.parquet           keys of verdicts that another run paid for
    journal/                    judge replies as they arrive (endpoint/ owns their form)
    log/*.json                  one entry per stage that did something (wall time, machines), and per command that did
    summary/, report/           derived; their record.json names the inputs they were derived from

The root is a local folder or `s3://bucket/prefix` (files.py). Not for deciding what is missing: it only says what is
there. The invariant: every file but the journal's appears under its name complete or not at all, records are written
last.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.store import adopted, derived, documents
from emray.store.adapters import AdapterRecord, Adapters
from emray.store.compaction import compact
from emray.store.damage import damage_told, damaged, parquet_bytes, parquet_fault, parquet_file, short
from emray.store.files import Files, LocalFiles, full_disk_told
from emray.store.keyset import Keys, distinct, key_array
from emray.store.lease import Lease, holder_of
from emray.store.objects import ObjectFiles
from emray.store.parts import ahead, read_parts
from emray.store.tables import SCHEMAS, Kind, Tables
from emray.store.weight_files import WEIGHTS

__all__ = [
    "SCHEMAS", "WEIGHTS", "AdapterRecord", "Keys", "Kind", "Lease", "Store", "damage_told", "damaged", "distinct",
    "full_disk_told", "key_array", "parquet_bytes", "parquet_fault", "parquet_file", "short",
]  # fmt: skip


class Store:
    """A run folder. Cheap to make and to pickle; workers get one each."""

    def __init__(self, root: str, *, known: bool = False) -> None:
        """A local folder `known` to be there is not made where it is missing."""
        self._files: Files = ObjectFiles(root) if "://" in root else LocalFiles(root, known=known)
        self._adapters, self._tables = Adapters(self._files), Tables(self._files)
        self.root = self._files.root

    def __reduce__(self) -> tuple[Any, ...]:
        return (_arrived, (self.root, "://" not in self.root and self.exists(".")))

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    # Files: see files.py -------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        return self._files.exists(name)

    def read_bytes(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return self._files.read_bytes(name)

    def read_files(self, folder: str, *, suffix: str = "") -> Iterator[tuple[str, bytes]]:
        """The files of a folder in the order of their names, several read at once, but those deleted meanwhile."""

        def read(name: str, size: int) -> bytes | None:
            with suppress(FileNotFoundError):
                return self._files.read_bytes(name)
            return None

        found = ahead(self._files, self._files.sizes(folder, suffix=suffix), read)
        return ((name, content) for name, content in found if content is not None)

    def write_bytes(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Atomic: readers see the old file or the new one. A `durable` one also outlives a loss of power."""
        self._files.write_bytes(name, content, durable=durable)

    def open_append(self, name: str) -> BinaryIO | None:
        """A file that grows by what is written to it; None where files only come whole (object stores)."""
        return self._files.open_append(name)

    def read_json(self, name: str) -> Any:
        """Raises FileNotFoundError, or StoreError when the file is not JSON."""
        return documents.read_json(self._files, name)

    def write_json(self, name: str, value: Any) -> None:
        """Sorted keys, two spaces, NaN refused: equal values give equal bytes."""
        documents.write_json(self._files, name, value)

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """Sorted names of the finished files in a folder (not in those below it), as `folder/name`."""
        return list(self._files.sizes(folder, suffix=suffix))

    def sizes(self, folder: str, *, suffix: str = "") -> dict[str, int]:
        """Bytes of those files by name."""
        return self._files.sizes(folder, suffix=suffix)

    def sizes_below(self, folder: str = "") -> dict[str, int]:
        """Bytes of the files in a folder and in those below it, by name below the root."""
        return self._files.sizes_below(folder)

    def opened(self, name: str, *, size: int) -> AbstractContextManager[pa.NativeFile]:
        """For reading pieces of a file whose size is known. Raises FileNotFoundError."""
        return self._files.opened(name, size=size)

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder, without their parent."""
        return self._files.folders(folder)

    def temporaries(self, *, older_than_s: float = 0) -> dict[str, int]:
        """Bytes, by name, of what writers that died left of files that never appeared."""
        return self._files.temporaries(older_than_s=older_than_s)

    def delete(self, name: str) -> None:
        """Remove a file or a folder that may not be there."""
        self._files.delete(name)

    def delete_files(self, names: Sequence[str]) -> None:
        """Remove many files, any of which may not be there."""
        self._files.delete_files(names)

    def move(self, name: str, *, to: str) -> None:
        """Give a file another name. Raises FileNotFoundError."""
        self._files.move(name, to=to)

    # Derived folders: see derived.py ------------------------------------------------------------------------

    def made_of(self, folder: str) -> str | None:
        """The digest of what a derived folder was made of; None where it is not there or not whole."""
        return derived.made_of(self._files, folder)

    def derived_changed(self, folder: str) -> list[str]:
        """Names of a derived folder's files whose content is not as its record says, all of them read."""
        return derived.changed(self._files, folder)

    def write_derived(self, folder: str, contents: Mapping[str, bytes], *, inputs: str) -> None:
        """A derived folder's files by name, its record last; files of an earlier time go."""
        derived.write_derived(self._files, folder, contents, inputs=inputs)

    # Adapters: see adapters.py -------------------------------------------------------------------------------

    def put_adapter(self, key: str, *, files: Path, details: Mapping[str, Any]) -> None:
        """Publish a trained adapter: its files, then the record."""
        self._adapters.put(key, files=files, details=details)

    def put_hosted_adapter(self, key: str, *, details: Mapping[str, Any]) -> None:
        """Record a cell whose weights a service keeps; `details["fine_tuned_model"]` is its name there."""
        self._adapters.put_record(AdapterRecord(key, "trained", dict(details)))

    def take_adapter(self, key: str, *, of: "Store") -> None:
        """Have an adapter that another run has, without a copy of its files where both are on one disk.

        Raises StoreError for files that are cut short, or not as the record says.
        """
        self._adapters.take(key, of=of._adapters)

    def put_failed_adapter(self, key: str, *, details: Mapping[str, Any]) -> None:
        """Record that a cell's training failed for good; `details["error"]` says how."""
        self._adapters.put_record(AdapterRecord(key, "failed", dict(details)))

    def adapter_record(self, key: str) -> AdapterRecord | None:
        return self._adapters.record(key)

    def adapters_with_weights(self) -> frozenset[str]:
        """Keys of the cells whose weights are there; a record may outlive them."""
        return self._adapters.with_weights()

    def remember_adapters(self, records: Iterable[AdapterRecord]) -> None:
        """Keep records of trained cells whose weights need not be here. For the holder of the lease."""
        self._adapters.remember(records)

    def forget_adapters(self, keys: Iterable[str]) -> None:
        """Have the index not name these cells: their own record decides. For the holder of the lease."""
        self._adapters.forget(keys)

    def indexed_adapters(self) -> list[str]:
        """Keys of the adapters that the index names: whole when they were taken in."""
        return self._adapters.indexed()

    def adapter_damage(self, key: str, *, thorough: bool) -> Iterator[tuple[str, str]]:
        """Files of a trained adapter that are cut short, each with what is wrong; absent weights are none.

        `thorough`: read to the last byte, also those whose content is not as the adapter's record says.
        """
        return self._adapters.damage(key, thorough=thorough)

    def adapter_records(self) -> dict[str, AdapterRecord]:
        """Records of all finished cells, trained and failed, by adapter key; also of adapters deleted since."""
        return self._adapters.records()

    def adapter_folder(self, key: str) -> Path:
        """A local folder that holds the adapter's files (fetched once a machine when the store is remote).

        Raises StoreError for files that are cut short, or not as the adapter's record says.
        """
        return self._adapters.folder(key)

    # Tables: see tables.py -----------------------------------------------------------------------------------

    def write_rows(self, kind: Kind, rows: Sequence[Mapping[str, Any]] | pa.Table) -> list[str]:
        """Add rows, as one part unless they are very many; returns the names. A repeat overwrites itself."""
        return self._tables.write_rows(kind, rows)

    def read_rows(self, kind: Kind, *, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table, one per identity (a repeat after a crash counts once), in a stable order."""
        return self._tables.read_rows(kind, columns=columns)

    def iter_parts(self, kind: Kind, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts one by one in name order; an identity may come twice after a crash (see read_rows)."""
        return self._tables.iter_parts(kind, columns=columns)

    def read_parts(self, sizes: Mapping[str, int], *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """These parts one by one. Raises FileNotFoundError, or StoreError for one that is damaged."""
        return (part.table for part in read_parts(self._files, sizes, columns=columns))

    def part_names(self, kind: Kind) -> list[str]:
        return list(self._tables.part_sizes(kind))

    def part_sizes(self, kind: Kind) -> dict[str, int]:
        """Bytes of every part by name: with the names, a cheap stand-in for the content."""
        return self._tables.part_sizes(kind)

    def keys(self, kind: Kind, *, column: str = "key") -> Keys:
        """Distinct values of a key column: a set for millions, asked with `has` for many at once."""
        return self._tables.keys(kind, column=column)

    def delete_rows(self, kind: Kind, *, column: str, value: str) -> None:
        """Drop the rows with this value in a column, rewriting the parts that hold them (for `retry_failed`)."""
        self.keep_rows(kind, lambda part: ~_equal(part[column], value), columns=[column])

    def keep_rows(self, kind: Kind, keep: Callable[[pa.Table], NDArray[np.bool_]], *, columns: Sequence[str]) -> int:
        """Drop the rows of which `keep`, shown these columns of a part, says no; returns how many went."""
        return self._tables.keep_rows(kind, keep, columns=columns)

    def note_adopted(self, keys: pa.ChunkedArray) -> None:
        """Keep the keys of verdicts whose replies another run paid for: before their rows are written."""
        adopted.note(self._files, keys)

    def adopted_keys(self) -> Keys:
        """Of verdicts whose replies other runs paid for."""
        return adopted.noted(self._files)

    # The whole -----------------------------------------------------------------------------------------------

    def take_lease(self) -> Lease:
        """Keep other sweeps out, to the end of the `with` it opens. Raises StoreError, which says who is in."""
        return Lease.take(self._files)

    def is_in_use(self) -> bool:
        """Whether a sweep holds the lease now."""
        return holder_of(self._files) is not None

    def settle(self) -> None:
        """Few parts for many rows, one index for the adapters: once nothing writes. For the holder of the lease."""
        self._adapters.write_index()
        for kind in Kind:
            compact(self._files, kind)

    # Stage log -----------------------------------------------------------------------------------------------

    def log_stage(self, stage: str, *, started_s: float, wall_s: float, details: Mapping[str, Any]) -> None:
        """Keep how long one stage took in one run of the command (seconds; `started_s` is Unix time)."""
        name = f"log/{int(started_s * 1000):015d}-{stage}.json"
        self.write_json(name, {"stage": stage, "wall_s": round(wall_s, 3), "details": dict(details)})

    def stage_log(self) -> list[dict[str, Any]]:
        """Every logged stage in the order of its start. Raises StoreError for an entry that is damaged."""
        found = self.read_files("log", suffix=".json")
        return [documents.value_of(content, root=self.root, name=name) for name, content in found]


def _equal(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(column, value), False).to_numpy(), dtype=bool)


def _arrived(root: str, known: bool) -> Store:
    """A store in another process, perhaps on another machine."""
    return Store(root, known=known)
