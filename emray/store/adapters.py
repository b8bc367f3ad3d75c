"""What training leaves: a folder of files for each cell, and the record that says how it ended.

Not for what the files mean. The invariant: the record is written last, so that an adapter with a record is whole.
"""

import hashlib
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from emray.store.documents import read_json, write_json
from emray.store.files import Files

FOLDER = "adapters"
RECORD = "record.json"


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
            self._files.write_bytes(f"{FOLDER}/{key}/{path.name}", path.read_bytes())
        self.put_record(AdapterRecord(key, "trained", dict(details)))

    def put_record(self, record: AdapterRecord) -> None:
        write_json(self._files, f"{FOLDER}/{record.key}/{RECORD}", record._asdict())

    def record(self, key: str) -> AdapterRecord | None:
        try:
            record = read_json(self._files, f"{FOLDER}/{key}/{RECORD}")
        except FileNotFoundError:
            return None
        return AdapterRecord(key, record["status"], record["details"])

    def records(self) -> dict[str, AdapterRecord]:
        """Records of all finished cells, trained and failed, by adapter key."""
        records = (self.record(key) for key in self._files.folders(FOLDER))
        return {record.key: record for record in records if record}

    def folder(self, key: str) -> Path:
        """A local folder that holds the adapter's files (fetched once a machine when the root is elsewhere)."""
        path = self._files.local_path(f"{FOLDER}/{key}")
        if path is not None:
            return path
        digest = hashlib.sha256(self._files.root.encode()).hexdigest()[:12]
        local = Path(tempfile.gettempdir()) / f"emray-{digest}" / key
        for name in self._files.names(f"{FOLDER}/{key}"):
            target = local / PurePosixPath(name).name
            if not target.exists():
                local.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
                partial.write_bytes(self._files.read_bytes(name))
                partial.rename(target)
        return local
