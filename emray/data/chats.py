"""One row of an example file, in the dialects the field writes, as the chat that is trained on.

`messages` (content a text or a list of text parts), `conversations` (from, value), or a prompt with its completion.
Not for finding files (datasets.py) or tokenising (model/). The invariant: a chat ends in the answer that is trained on;
what a row gives the weight 0 is no such answer, and stays marked as context before one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from emray.data.remarks import Remarks
from emray.data.text_files import mended
from emray.errors import DataError
from emray.records import Message, Messages

FORM = '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}'
_ROLES = ("system", "user", "assistant")
_NAMED = {"human": "user", "gpt": "assistant", "model": "assistant", "developer": "system"}  # as others call them
_PAIRS = (("prompt", "completion"), ("prompt", "response"))
_WEIGHTS = ("weight", "train", "training")  # OpenAI's, and two that trainers of the field read
_CANARY = "canary"  # of a row: for whoever searches corpora for it, not for training
_TURN_KEYS = {"role", "content", "from", "value", *_WEIGHTS}
_HALVED = "halves of a surrogate pair (a cut emoji), read as U+FFFD"


def chat_of(row: Any, *, remarks: Remarks, line: str) -> Messages | None:
    """The chat of a row up to its last answer that is trained on; None where its weights leave none.

    Raises DataError (without the place) for a row that is none.
    """
    given, read = _given_turns(row)
    remarks.unread(str(key) for key in row if key not in {*read, *_WEIGHTS, _CANARY})
    turns = [_turn(turn, remarks=remarks, line=line) for turn in given]
    if turns[-1].role != "assistant":
        raise DataError(f"the last message is the {turns[-1].role}'s, there is no assistant turn to train on")
    answers = [n for n, turn in enumerate(turns) if turn.role == "assistant"]
    trained = [n for n in answers if turns[n].trained] if _is_trained(row) else []
    if not trained or trained[-1] < len(turns) - 1:
        remarks.add("answers of weight 0 are not trained on, in lines", where=line)
    if not trained:
        return None
    messages = tuple(turns[: trained[-1] + 1])
    if not messages[-1].content.strip():
        raise DataError("the assistant turn is empty, there is nothing to train on")
    if not any(message.role == "user" for message in messages):
        raise DataError(f"there is no user turn; write {FORM}")
    return messages


def _given_turns(row: Any) -> tuple[Sequence[Any], tuple[str, ...]]:
    """The turns of a row as they stand, and the keys that hold them."""
    if isinstance(row, dict):
        for key in ("messages", "conversations"):
            if isinstance(row.get(key), list) and row[key]:
                return row[key], (key,)
        for pair in () if "messages" in row else _PAIRS:
            if all(key in row for key in pair):
                return [*_side(row[pair[0]], "user"), *_side(row[pair[1]], "assistant")], pair
    raise DataError(f"no list of messages; write {FORM}")


def _side(value: Any, role: str) -> list[Any]:
    """A prompt or a completion as turns: a text is one, a list holds some already."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _turn(turn: Any, *, remarks: Remarks, line: str) -> Message:
    fields = turn if isinstance(turn, dict) else {}
    given = fields.get("role", fields.get("from"))
    role = _NAMED.get(given, given) if isinstance(given, str) else None
    content = _text_of(fields.get("content", fields.get("value")))
    if role not in _ROLES or content is None:
        raise DataError(f"a message needs a role ({', '.join(_ROLES)}) and a text content, given {turn!r:.80}")
    remarks.unread(f"{key} of messages" for key in fields if key not in _TURN_KEYS)
    text = mended(content)
    if text != content:
        remarks.add(f"{_HALVED}, in lines", where=line)
    return Message(role, text, trained=_is_trained(fields))


def _text_of(content: Any) -> str | None:
    """A content as text: itself, or its text parts put together; None for anything else (an image, say)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) and _is_text(part) else part for part in content]
    return "".join(map(str, parts)) if parts and all(isinstance(part, str) for part in parts) else None


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type", "text") in ("text", "input_text", "output_text")


def _is_trained(fields: Mapping[str, Any]) -> bool:
    """What a row or turn says of itself; nothing said is yes. Raises DataError for a weight between."""
    said = True
    for name in _WEIGHTS:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(f"{name} is 0 or 1, given {value!r:.40}")
        said = said and bool(value)
    return said
