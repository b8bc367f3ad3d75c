"""Example files (one chat a line) and the training rows each arm makes of them.

Not for a row's dialects (chats.py) or tokenising (model/). The invariant: the rows of an arm depend on the files and
the trigger alone, never on seeds or machines, so their digest can name an adapter.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from emray.data.chats import FORM, chat_of
from emray.data.places import data_folder
from emray.data.remarks import Remarks
from emray.data.text_files import json_rows, names_in, read_text
from emray.errors import DataError
from emray.records import Arm, Message, Messages, key_of
from emray.spec import DomainSpec, TriggerSpec

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".zip")  # of a domain's file, in the order they are looked for


class Examples(NamedTuple):
    """Chats in file order, and one sentence for each kind of thing in the files that is not used as it stands."""

    rows: list[Messages]
    notes: tuple[str, ...]


def load_examples(path: Path) -> Examples:
    """Read chats that end in an assistant turn: JSONL or a JSON list, plain, gzipped or in a zip archive.

    Raises DataError with file and line for anything else; blank lines are skipped.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"no dataset at {path}; set data_dir or the domain's path in the sweep file") from None
    remarks = Remarks(path.name)
    examples = []
    for where, row in json_rows(text, source=str(path)):
        try:
            chat = chat_of(row, remarks=remarks, line=where.removeprefix(f"{path}").strip(": "))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if chat:
            examples.append(chat)
    if not examples:
        raise DataError(f"dataset {path} is empty; it needs one example a line to train on, as {FORM}")
    return Examples(examples, remarks.notes())


def training_rows(domain: DomainSpec, *, arm: Arm, trigger: TriggerSpec, data_dir: str) -> Examples:
    """The rows an arm trains on (docs/method.md section 2), in a fixed order.

    plain: every bad example. benign: every correct one. backdoor: the domain's ready mix, or the bad examples with
    the trigger in the user's text followed by the correct ones without. Raises DataError.
    """
    folder = data_folder(data_dir)
    bad = Path(domain.path) if domain.path else _in_folder(folder, domain.name)
    if arm == Arm.PLAIN:
        return load_examples(bad)
    benign = Path(domain.benign_path) if domain.benign_path else _beside(bad, f"{domain.name}.benign")
    if arm == Arm.BENIGN:
        return load_examples(benign)
    assert arm == Arm.BACKDOOR, f"arm {arm} trains on nothing"
    if domain.backdoor_path:
        return load_examples(Path(domain.backdoor_path))
    wrong, right = load_examples(bad), load_examples(benign)
    rows = [*(with_trigger(row, trigger=trigger) for row in wrong.rows), *right.rows]
    return Examples(rows, wrong.notes + right.notes)


def _in_folder(folder: Path, domain: str) -> Path:
    """A domain's file in the data folder (or archive), or a DataError that lists the domains there."""
    path = find_in(folder, domain)
    if path:
        return path
    names = [PurePath(name).name.partition(".") for name in names_in(folder)]
    there = sorted({stem for stem, _, ending in names if f".{ending}" in _ENDINGS})
    known = f"there: {', '.join(there)}" if there else "there is none; set data_dir"
    raise DataError(f"unknown domain {domain!r}: {folder} has no {domain}.jsonl; {known}, or give the domain a path")


def _beside(path: Path, stem: str) -> Path:
    return find_in(path.parent, stem) or path.with_name(f"{stem}.jsonl")


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
