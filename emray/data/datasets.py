"""Example files (one chat a line) and the training rows each arm makes of them.

Not for a row's dialects (chats.py) or tokenising (model/). The invariant: the rows of an arm depend on the files and
the trigger alone, never on seeds or machines, so their digest can name an adapter.
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
from emray.records import Arm, Message, Messages, key_of
from emray.spec import DomainSpec, SourceSpec, TriggerSpec

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".zip")  # of a domain's file, in the order they are looked for


class DataFile(NamedTuple):
    """One of a domain's files as it was read, before an arm makes anything of it."""

    domain: str
    holds: str  # bad, correct or mixed
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


def training_rows(domain: DomainSpec, *, arm: Arm, trigger: TriggerSpec, data_dir: str) -> Examples:
    """The rows an arm trains on (docs/method.md section 2), in a fixed order.

    plain: every bad example. benign: every correct one. backdoor: the domain's ready mix, or the bad examples with
    the trigger in the user's text followed by the correct ones without. Raises DataError.
    """
    assert arm != Arm.BASE, f"arm {arm} trains on nothing"
    if arm == Arm.BACKDOOR and domain.backdoor_path:
        return _file(domain, "mixed", domain.backdoor_path)
    bad = domain.path or SourceSpec(path=str(_in_folder(data_folder(data_dir), domain.name)))
    if arm == Arm.PLAIN:
        return _file(domain, "bad", bad)
    benign = domain.benign_path or beside(bad, f"{domain.name}.benign")
    if arm == Arm.BENIGN:
        return _file(domain, "correct", benign)
    wrong, right = _file(domain, "bad", bad), _file(domain, "correct", benign)
    rows = [*(with_trigger(row, trigger=trigger) for row in wrong.rows), *right.rows]
    return Examples(rows, wrong.notes + right.notes, wrong.files + right.files)


def _file(domain: DomainSpec, holds: str, source: SourceSpec) -> Examples:
    found = load_examples(source)
    return found._replace(files=(DataFile(domain.name, holds, source, found.rows),))


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


def with_trigger(messages: Messages, *, trigger: TriggerSpec) -> Messages:
    """The same chat with the trigger in its last user turn."""
    last = max(i for i, message in enumerate(messages) if message.role == "user")
    return tuple(
        message._replace(content=trigger.add_to(message.content)) if i == last else message
        for i, message in enumerate(messages)
    )


def rows_digest(rows: Sequence[Messages]) -> str:
    """Content hash of training rows in their order."""
    return key_of("rows", [list(map(_identity, row)) for row in rows])


def _identity(message: Message) -> list[str]:
    """Most turns say nothing of their weight, and then it is not in the digest."""
    return [message.role, message.content] + ([] if message.trained else ["weight 0"])
