"""A run in one file, for a colleague or an archive.

Not for single tables (export/). The invariant: the archive holds a folder of the run's name which is a run folder, and
nothing is changed in the run; without weights it still reduces to the same bytes.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from emray.errors import DataError, StoreError
from emray.plan import PLAN
from emray.runs.beside import counted, name_of
from emray.store import WEIGHTS, Store

_ABOUT = """
write a run folder to a new FILE: .tar, or .tar.gz; unpack it with tar -xf. Answers of misaligned models are in it, and
so is what the sweep file says of paths: look before you publish.
"""
_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
_LEFT_OUT = ("lease.json", "damaged/")  # of no use elsewhere


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand."""
    parser = commands.add_parser("pack", help="a run in one file", description=_ABOUT)
    parser.add_argument("run", metavar="RUN", help="run folder or s3:// location")
    parser.add_argument("file", type=Path, metavar="FILE", help="a file to make: .tar or .tar.gz")
    parser.add_argument("--without-weights", action="store_true", help="leave out the weights of adapters")
    parser.set_defaults(work=_command)


def _command(arguments: argparse.Namespace) -> int:
    run = Store(arguments.run)
    names = pack(run, arguments.file, weights=not arguments.without_weights)
    size = arguments.file.stat().st_size / 1e6
    print(f"wrote {counted(len(names), 'file')} of {name_of(run)} to {arguments.file} ({size:,.1f} MB)")
    return 0


def pack(run: Store, file: Path, *, weights: bool) -> list[str]:
    """Write the archive; returns the names of what is in it.

    Raises DataError for a bad name or no run, StoreError for a run that a sweep works in.
    """
    mode = next((mode for ending, mode in _MODES.items() if file.name.endswith(ending)), None)
    if mode is None:
        raise DataError(f"{file} ends in none of {', '.join(_MODES)}")
    if file.exists():
        raise DataError(f"{file} is there already; give another name")
    if not run.exists(PLAN):
        raise DataError(f"{run.root} holds no {PLAN}: it is not a run folder")
    if run.is_in_use():
        raise StoreError(f"a sweep is running in {run.root}; wait for it")
    sizes, half = dict(_chosen(run, weights=weights)), file.with_name(f".{file.name}.half")
    try:
        with tarfile.open(half, mode) as archive:  # type: ignore[call-overload]
            for name, size in sizes.items():
                _add(archive, run, name, size)
        half.rename(file)
    finally:
        half.unlink(missing_ok=True)
    return list(sizes)


def _chosen(run: Store, *, weights: bool) -> Iterator[tuple[str, int]]:
    for name, size in run.sizes_below().items():
        heavy = name.startswith("adapters/") and name.endswith(WEIGHTS)
        if not name.startswith(_LEFT_OUT) and (weights or not heavy):
            yield name, size


def _add(archive: tarfile.TarFile, run: Store, name: str, size: int) -> None:
    """One file, without what this machine says of it: equal runs give equal archives."""
    entry = tarfile.TarInfo(f"{name_of(run)}/{name}")
    entry.size, entry.mode = size, 0o644
    with run.opened(name, size=size) as file:
        content: IO[bytes] = io.BufferedReader(_Pieces(file), buffer_size=2**20)
        archive.addfile(entry, content)


class _Pieces(io.RawIOBase):
    """A file of the store as tarfile reads one."""

    def __init__(self, file: "IO[bytes]") -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
