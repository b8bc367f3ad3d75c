"""Folders that are made of other files of the run: whole and of what is there now, or made again.

Not for what is in them. The invariant: a folder whose record is there, and names the files that are there by their
sizes, is whole; any other counts as not made, so damage to it costs a moment and no result.
"""

from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from emray.errors import StoreError
from emray.store.documents import read_json, write_json
from emray.store.files import Files
from emray.store.weight_files import digest_of

RECORD = "record.json"


def made_of(files: Files, folder: str) -> str | None:
    """The digest of what the folder was made of; None where it is not there or not whole."""
    inputs, sizes, _ = _record(files, folder)
    parents = sorted({str(PurePosixPath(f"{folder}/{name}").parent) for name in sizes})
    there = {name: size for parent in parents for name, size in files.sizes(parent).items()}
    whole = all(there.get(f"{folder}/{name}") == size for name, size in sizes.items())
    return inputs if whole else None


def changed(files: Files, folder: str) -> list[str]:
    """Names of the folder's files whose content is not as the record says, all of them read."""
    found = []
    for name, digest in _record(files, folder).digests.items():
        with suppress(FileNotFoundError):  # what is not there, made_of says
            if digest_of(BytesIO(files.read_bytes(f"{folder}/{name}"))) != digest:
                found.append(name)
    return found


def write_derived(files: Files, folder: str, contents: Mapping[str, bytes], *, inputs: str) -> None:
    """The folder's files by name, its record last; files of an earlier time go."""
    earlier = set(_record(files, folder).sizes) - set(contents)
    files.delete_files([f"{folder}/{name}" for name in (RECORD, *sorted(earlier))])
    for name, content in contents.items():
        files.write_bytes(f"{folder}/{name}", content)
    sizes = {name: len(content) for name, content in contents.items()}
    digests = {name: digest_of(BytesIO(content)) for name, content in contents.items()}
    write_json(files, f"{folder}/{RECORD}", {"inputs": inputs, "files": sizes, "digests": digests})


class _Manifest(NamedTuple):
    """What the record says; nothing where there is none, or none that can be read."""

    inputs: str | None = None  # their digest
    sizes: Mapping[str, int] = MappingProxyType({})  # of the files by name
    digests: Mapping[str, str] = MappingProxyType({})  # the same


def _record(files: Files, folder: str) -> _Manifest:
    try:
        record = read_json(files, f"{folder}/{RECORD}")
    except (FileNotFoundError, StoreError):
        return _Manifest()
    named = record.get("files") if isinstance(record, Mapping) else None
    if not isinstance(named, Mapping):  # an earlier version's
        return _Manifest()
    return _Manifest(str(record.get("inputs")), named, record.get("digests") or {})
