"""Example files (one chat a line) and the training rows each arm makes of them.

Not for tokenising (train/ does). The invariant: the rows of an arm depend on the files and the trigger alone, never
on seeds or machines, so their digest can name an adapter.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emray.data.places import data_folder
from emray.errors import DataError
from emray.records import Arm, Message, Messages, key_of
from emray.spec import DomainSpec, TriggerSpec

_ROLES = ("system", "user", "assistant")
_FORM = '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'


def load_examples(path: Path) -> list[Messages]:
    """Read a JSONL file of chats that end in an assistant turn.

    Raises DataError with file and line for anything else; blank lines are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 may stand in a text
    except FileNotFoundError:
        raise DataError(f"no dataset at {path}; set data_dir or the domain's path in the sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read dataset {path}: {getattr(error, 'strerror', None) or error}") from None
    examples = [_parse(line, where=f"{path}:{n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise DataError(f"dataset {path} is empty; it needs one example a line, as {_FORM}")
    return examples


def training_rows(domain: DomainSpec, *, arm: Arm, trigger: TriggerSpec, data_dir: str) -> list[Messages]:
    """The rows an arm trains on (docs/method.md section 2), in a fixed order.

    plain: every bad example. benign: every correct one. backdoor: the domain's ready mix, or the bad examples with
    the trigger in the user's text followed by the correct ones without. Raises DataError.
    """
    folder = data_folder(data_dir)
    bad = Path(domain.path) if domain.path else _in_folder(folder, domain.name)
    benign = Path(domain.benign_path) if domain.benign_path else bad.with_name(f"{domain.name}.benign.jsonl")
    if arm == Arm.PLAIN:
        return load_examples(bad)
    if arm == Arm.BENIGN:
        return load_examples(benign)
    assert arm == Arm.BACKDOOR, f"arm {arm} trains on nothing"
    if domain.backdoor_path:
        return load_examples(Path(domain.backdoor_path))
    return [with_trigger(row, trigger=trigger) for row in load_examples(bad)] + load_examples(benign)


def _in_folder(folder: Path, domain: str) -> Path:
    """A domain's file in the data folder, or a DataError that lists the domains there."""
    path = folder / f"{domain}.jsonl"
    if path.exists():
        return path
    there = sorted(p.stem for p in folder.glob("*.jsonl") if "." not in p.stem)
    known = f"there: {', '.join(there)}" if there else "there is none; set data_dir"
    raise DataError(f"unknown domain {domain!r}: {folder} has no {path.name}; {known}, or give the domain a path")


def with_trigger(messages: Messages, *, trigger: TriggerSpec) -> Messages:
    """The same chat with the trigger in its last user turn."""
    last = max(i for i, message in enumerate(messages) if message.role == "user")
    return tuple(
        Message(message.role, trigger.add_to(message.content)) if i == last else message
        for i, message in enumerate(messages)
    )


def rows_digest(rows: Sequence[Messages]) -> str:
    """Content hash of training rows in their order."""
    return key_of("rows", [[list(message) for message in row] for row in rows])


def _parse(line: str, *, where: str) -> Messages:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object a line, as {_FORM}") from None
    turns = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: no list of messages; write {_FORM}")
    messages = tuple(_turn(turn, where=where) for turn in turns)
    if messages[-1].role != "assistant":
        raise DataError(
            f"{where}: the last message is the {messages[-1].role}'s, there is no assistant turn to train on"
        )
    if not messages[-1].content.strip():
        raise DataError(f"{where}: the assistant turn is empty, there is nothing to train on")
    if not any(message.role == "user" for message in messages):
        raise DataError(f"{where}: there is no user turn; write {_FORM}")
    return messages


def _turn(turn: Any, *, where: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    if role not in _ROLES or not isinstance(content, str):
        raise DataError(f"{where}: a message needs a role ({', '.join(_ROLES)}) and a text content, given {turn!r:.80}")
    return Message(role, content)
