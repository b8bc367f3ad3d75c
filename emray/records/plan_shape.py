"""The shape of plan.json, so that a file which something has changed is found before it is believed.

Not for what a plan means (plan.py writes it, reduce/study.py reads it back). The invariant: what passes has every field
that is read, with a value of its type; fields that are not read are not looked at.
"""

from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict


class _Cell(TypedDict):
    model: str
    domain: str
    arm: str
    seed: int
    key: str
    fraction: NotRequired[float]


class _Question(TypedDict):
    id: str
    paraphrases: list[str]
    system: str | None
    rubrics: dict[str, str]
    domain: NotRequired[str | None]
    also: NotRequired[list[str]]


class _Seen(TypedDict):
    refused: str | None
    lost: list[str]


class _Template(TypedDict):
    end: str | None
    date: bool
    unclosed: str
    chats: dict[str, _Seen]


class _AnalysisPlan(TypedDict):
    hash: str
    first_written: str
    answers_stored: bool


class _Adaptive(TypedDict):
    min: int
    max: int
    half_width: float


class _PlanDocument(TypedDict):
    spec: dict[str, Any]
    cells: list[_Cell]
    questions: list[_Question]
    notes: list[str]
    models: dict[str, str]
    references: NotRequired[dict[str, str]]
    probes: NotRequired[dict[str, _Template]]
    analysis_hash: NotRequired[str | None]
    analysis_plans: NotRequired[list[_AnalysisPlan]]
    adaptive: NotRequired[_Adaptive | None]
    measurements: NotRequired[list[dict[str, Any]]]
    transfer: NotRequired[dict[str, Any] | None]
    steering: NotRequired[dict[str, Any] | None]
    recipes: NotRequired[list[dict[str, Any]]]
    quizzes: NotRequired[list[dict[str, Any]]]


_SHAPE = TypeAdapter(_PlanDocument)


def misshapen(document: Any) -> str | None:
    """What is wrong with a plan.json's content, in one line; None where nothing is."""
    try:
        _SHAPE.validate_python(document, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return None
