"""Folders that are made of other files of the run: whole and of what is there now, or made again.

Not for what is in them. The invariant: a folder whose record is there, and names the files that are there by their
sizes, is whole; any other counts as not made, so damage to it costs a moment and no result.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from emray.errors import StoreError
from emray.store.documents import read_json, write_json
from emray.store.files import Files

RECORD = "record.json"


def made_of(files: Files, folder: str) -> str | None:
    """The digest of what the folder was made of; None where it is not there or not whole."""
    inputs, named = _record(files, folder)
    parents = sorted({str(PurePosixPath(f"{folder}/{name}").parent) for name in named})
    there = {name: size for parent in parents for name, size in files.sizes(parent).items()}
    whole = all(there.get(f"{folder}/{name}") == size for name, size in named.items())
    return inputs if whole else None


def write_derived(files: Files, folder: str, contents: Mapping[str, bytes], *, inputs: str) -> None:
    """The folder's files by name, its record last; files of an earlier time go."""
    earlier = set(_record(files, folder)[1]) - set(contents)
    files.delete_files([f"{folder}/{name}" for name in (RECORD, *sorted(earlier))])
    for name, content in contents.items():
        files.write_bytes(f"{folder}/{name}", content)
    sizes = {name: len(content) for name, content in contents.items()}
    write_json(files, f"{folder}/{RECORD}", {"inputs": inputs, "files": sizes})


def _record(files: Files, folder: str) -> tuple[str | None, Mapping[str, int]]:
    """Digest of the inputs, and sizes of files by name; nothing where there is no record or none that can be read."""
    try:
        record = read_json(files, f"{folder}/{RECORD}")
    except (FileNotFoundError, StoreError):
        return None, {}
    named = record.get("files") if isinstance(record, Mapping) else None
    return (str(record.get("inputs")), named) if isinstance(named, Mapping) else (None, {})  # an earlier version's
