"""What is wrong with a sweep file, in one sentence and in the file's own words.

Not for deciding what is wrong (pydantic does). The invariant: what is allowed at a place is read from the sections
themselves, so a new field or section is known here at once.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from emray.spec.unkept import SECRET

_LONGEST = 80  # characters of a value that is told
_TAGS = ("numbers", "adaptive")  # of the two forms of seeds; not words of the sweep file


def kind_of(value: Any) -> str:
    """What a YAML or JSON value is, in words."""
    names = {dict: "fields", list: "a list", str: f"the text {_short(repr(value))}", type(None): "nothing"}
    return names.get(type(value), _short(repr(value)))


def explain(error: ValidationError, *, root: type[BaseModel]) -> str:
    """The first problem of a pydantic error as one sentence in the words of the file that `root` describes."""
    problems = error.errors()
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = [str(part) for part in first["loc"] if part not in _TAGS]
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return _unknown_key(where, root) + rest
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "missing":
        return f"key {'.'.join(where)!r} is missing{rest}"
    return (f"{'.'.join(where)}: " if where else "") + message + _given(first) + rest


def _given(problem: Mapping[str, Any]) -> str:
    value = problem["input"]
    if problem["type"] == SECRET:
        return ""
    return f", given {_short(repr(value))}" if isinstance(value, str | int | float | bool | None) else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _unknown_key(where: list[str], root: type[BaseModel]) -> str:
    *parents, key = where
    allowed = _fields_at(parents, root)
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    under = f" under {'.'.join(parents)}" if parents else ""
    hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(allowed)}"
    return f"unknown key {key!r}{under}; {hint}"


def _fields_at(parents: Sequence[str], root: type[BaseModel]) -> list[str]:
    """Keys allowed below these keys; what names no field on the way is a number of a list or a name of the user's."""
    models = [root]
    for key in parents:
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        if fields:
            models = [model for field in fields for model in _models_in(field.annotation)]
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field's type allows, however they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
