"""What every section of the sweep file is: frozen fields, unknown keys refused, locations as the file gives them.

Numbers are numbers: `epochs: yes` is not 1, and a text is no number, whatever it looks like.

Not for any one section. The invariant: a section that exists is valid, and never changes.
"""

import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

TOY = "toy"  # wherever a location is asked for, this names the embedded toy world
_VALUES = (
    "default",
    "metadata",
    "config",
    "expected",
    "serialization",
    "ref",
    "schema_ref",
)  # parts that are no schema


def _without_conversions(schema: Any, *, of: type[BaseModel]) -> Any:
    """The same schema with fields that take a number, a yes or no, or a date as such and no stand-in for it."""
    if isinstance(schema, list | tuple):
        return type(schema)(_without_conversions(inner, of=of) for inner in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in ("float", "bool"):
        return schema | {"strict": True}
    if kind == "int":
        return core_schema.no_info_before_validator_function(_number, schema)  # 1e3 may stand for a whole number
    if kind == "literal" and any(isinstance(one, int) for one in schema["expected"]):
        return core_schema.no_info_before_validator_function(_number, schema)
    if kind == "date":
        return core_schema.no_info_before_validator_function(_date, schema)
    if kind == "model" and schema["cls"] is not of:
        return schema  # has been here already
    return {name: inner if name in _VALUES else _without_conversions(inner, of=of) for name, inner in schema.items()}


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("input should be a whole number")
    return value


def _date(value: Any) -> Any:
    if not isinstance(value, str | datetime.date):
        raise ValueError("input should be a date, as 2024-07-26")
    return value


class Section(BaseModel):
    """A group of fields under one key of the sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None  # the field that a text alone stands for

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _without_conversions(handler(source), of=cls)
        return schema

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        fields = handler(core)
        return {"anyOf": [fields["properties"][cls.shorthand], fields]} if cls.shorthand else fields


def one_or_more(item: Any) -> BeforeValidator:
    """For a list of such items: one of them stands for a list of it."""
    return BeforeValidator(as_list, json_schema_input_type=list[item] | item)


def as_list(value: Any) -> Any:
    """One value where a list is asked for stands for a list of it."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_text(value: Any) -> Any:
    """A number where a name is asked for is its text: YAML reads `1` as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def absolute(location: str, folder: Path) -> str:
    """A path as seen from the sweep file's folder; `toy` and URLs stay as they are."""
    return location if location == TOY or "://" in location else str((folder / Path(location).expanduser()).resolve())
