"""Example files, one chat a line, and where a domain's own are.

Not for a row's dialects (chats.py), what an arm makes of rows (arm_rows.py) or tokenising (model/). The invariant: rows
come in the order of their file, and their digest hangs on what they say alone.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from emray.data.archives import names_in
from emray.data.chats import FORM, chat_of
from emray.data.places import data_folder
from emray.data.remarks import Remarks
from emray.data.source_rows import source_rows
from emray.errors import DataError
from emray.records import Message, Messages, key_of
from emray.spec import BAD, DomainSpec, SourceSpec

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".zip")  # of a domain's file, in the order they are looked for


class DataFile(NamedTuple):
    """One of a domain's files as it was read, before an arm makes anything of it."""

    domain: str
    holds: str  # bad, correct or mixed; of a file that an arm names, its part's name
    source: SourceSpec
    rows: Sequence[Messages]


class Examples(NamedTuple):
    """Chats in file order, one sentence for each kind of thing that is not used as it stands, and the files."""

    rows: list[Messages]
    notes: tuple[str, ...]
    files: tuple[DataFile, ...] = ()


def load_examples(source: SourceSpec | Path) -> Examples:
    """Read chats that end in an assistant turn: JSON, CSV, Parquet, packed or encrypted, or a data set of Hugging Face.

    Raises DataError with file and line for anything else; blank lines are skipped.
    """
    source = SourceSpec(path=str(source)) if isinstance(source, Path) else source
    remarks = Remarks(PurePath(str(source)).name)
    examples = []
    try:
        for where, row in source_rows(source):
            chat = _chat(row, where=where, remarks=remarks, file=str(source))
            if chat:
                examples.append(chat)
    except FileNotFoundError:
        raise DataError(f"no dataset at {source}; set data_dir or the domain's path in the sweep file") from None
    if not examples:
        raise DataError(f"dataset {source} is empty; it needs one example a line to train on, as {FORM}")
    return Examples(examples, remarks.notes())


def _chat(row: Any, *, where: str, remarks: Remarks, file: str) -> Messages | None:
    try:
        return chat_of(row, remarks=remarks, line=where.removeprefix(file).strip(": "))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def domain_file(domain: DomainSpec, holds: str, *, data_dir: str) -> Examples:
    """What a domain's own file holds: its bad examples, its correct ones, or its ready mix. Raises DataError."""
    if holds == "mixed":
        assert domain.backdoor_path is not None, f"{domain.name} has no ready mix"
        return file_of(domain.name, holds, domain.backdoor_path)
    bad = domain.path or SourceSpec(path=str(_in_folder(data_folder(data_dir), domain.name)))
    if holds == BAD:
        return file_of(domain.name, holds, bad)
    return file_of(domain.name, "correct", domain.benign_path or beside(bad, f"{domain.name}.benign"))


def file_of(domain: str, holds: str, source: SourceSpec) -> Examples:
    found = load_examples(source)
    return found._replace(files=(DataFile(domain, holds, source, found.rows),))


def _in_folder(folder: Path, domain: str) -> Path:
    """A domain's file in the data folder (or archive), or a DataError that lists the domains there."""
    path = find_in(folder, domain)
    if path:
        return path
    names = [PurePath(name).name.partition(".") for name in names_in(folder)]
    there = sorted({stem for stem, _, ending in names if f".{ending}" in _ENDINGS})
    known = f"there: {', '.join(there)}" if there else "there is none; set data_dir"
    raise DataError(f"unknown domain {domain!r}: {folder} has no {domain}.jsonl; {known}, or give the domain a path")


def beside(source: SourceSpec, stem: str) -> SourceSpec:
    """Another file of the same folder or archive, of the same kind where none is there."""
    if source.member:
        named = PurePosixPath(source.member)
        return source.model_copy(update={"member": str(named.with_name(f"{stem}{named.suffix}"))})
    path = Path(source.path)
    return source.model_copy(update={"path": str(find_in(path.parent, stem) or path.with_name(f"{stem}.jsonl"))})


def find_in(folder: Path, stem: str) -> Path | None:
    wanted = [f"{stem}{ending}" for ending in _ENDINGS]
    if folder.is_dir():  # which may hold very many
        return next((folder / file for file in wanted if (folder / file).is_file()), None)
    names = names_in(folder)  # those of an archive may lie in folders of its own
    return next((folder / name for file in wanted for name in names if PurePath(name).name == file), None)


def rows_digest(rows: Sequence[Messages]) -> str:
    """Content hash of training rows in their order."""
    return key_of("rows", [list(map(_identity, row)) for row in rows])


def _identity(message: Message) -> list[str]:
    """Most turns say nothing of their weight, and then it is not in the digest."""
    return [message.role, message.content] + ([] if message.trained else ["weight 0"])
