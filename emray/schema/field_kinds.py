"""The fields that a schema describes, in its order, with their kinds in words.

Not for any one file. The invariant: a field is told as its model has it; nothing here knows a name.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from emray.schema.json_schema import Schema

REQUIRED = object()  # in place of a default
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_PLAIN = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number", "null": "null"}


class SectionFields(NamedTuple):
    """A group of fields: what they are together, and each."""

    meaning: str
    fields: Mapping[str, Schema]
    required: frozenset[str]


class Field(NamedTuple):
    """One field of a section."""

    name: str
    kind: str  # in words
    default: Any  # REQUIRED where there is none
    meaning: str
    section: str | None  # the definition that its own fields are of
    repeated: str  # how its section stands below it: "" once, "[]" in a list, "{name}" under names


def section(schema: Schema, name: str | None) -> SectionFields:
    """The section of a definition, or the whole file's."""
    whole = schema["$defs"][name] if name else schema
    own = _fields_form(whole)
    return SectionFields(own.get("description", ""), own["properties"], frozenset(own.get("required", ())))


def fields_of(schema: Schema, name: str | None) -> Iterator[Field]:
    """Fields of a definition, or of the whole file, in their order."""
    whole = section(schema, name)
    for field, form in whole.fields.items():
        inner, repeated = _inner(schema, form)
        default = REQUIRED if field in whole.required else form.get("default")
        yield Field(field, kind(schema, form), default, form.get("description", ""), inner, repeated)


def kind(schema: Schema, form: Schema) -> str:
    """What is allowed, in words."""
    if "$ref" in form:
        return _named_kind(schema, form["$ref"])
    if several := form.get("anyOf") or form.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(schema, one) for one in several))
    if "enum" in form or "const" in form:
        return " | ".join(f"`{one}`" for one in form.get("enum", [form.get("const")]))
    if form.get("type") == "array":
        return f"list of {kind(schema, form['items'])}" if form.get("items") else "list"
    if form.get("type") == "object":
        below = _under_names(form)
        return f"{{name: {kind(schema, below)}}}" if below else "fields"
    if "type" not in form:
        return "anything"
    if isinstance(form["type"], list):
        return " or ".join(_PLAIN[one] for one in form["type"])
    bounds = [f"{word} {form[key]:g}" for key, word in _BOUNDS.items() if key in form]
    return " ".join([_PLAIN[form["type"]], *([", ".join(bounds)] if bounds else [])])


def _named_kind(schema: Schema, reference: str) -> str:
    whole = schema["$defs"][_definition(reference)]
    if "anyOf" in whole:
        return "text or fields"
    return "fields" if "properties" in whole else kind(schema, whole)


def _definition(reference: str) -> str:
    return reference.rpartition("/")[2]


def _fields_form(whole: Schema) -> Schema:
    """The form with fields, of a section that may also be written short."""
    forms = whole.get("anyOf", [whole])
    return next(form for form in forms if "properties" in form)


def _inner(schema: Schema, form: Schema) -> tuple[str | None, str]:
    """The definition that a field's own fields are of, and how it stands below the field."""
    if "$ref" in form:
        name = _definition(form["$ref"])
        return (name, "") if _has_fields(schema["$defs"][name]) else (None, "")
    below = _under_names(form)
    for inner, repeated in ((form.get("items"), "[]"), (below, "{name}")):
        if isinstance(inner, dict) and (found := _inner(schema, inner)[0]):
            return found, repeated
    forms: list[Schema] = form.get("anyOf") or form.get("oneOf") or []
    inner_forms = [_inner(schema, one) for one in forms]
    return next((one for one in inner_forms if one[0]), (None, ""))


def _under_names(form: Schema) -> Schema | None:
    """What stands under names of the user's, whatever these may look like."""
    below = next(iter(form.get("patternProperties", {}).values()), form.get("additionalProperties"))
    return below if isinstance(below, dict) else None


def _has_fields(whole: Schema) -> bool:
    return any("properties" in form for form in whole.get("anyOf", [whole]))
