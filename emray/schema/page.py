"""docs/sweep-file.md: every section of the sweep file as a table.

Not for how a study is best set up (README). The invariant: a section stands once, under the first place it is at.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from emray.schema.field_kinds import REQUIRED, Field, fields_of, section
from emray.schema.json_schema import Schema, sweep_schema

_HEAD = """# The sweep file

Made from the models that read it by `make docs`. A sweep file is YAML; `name`, `model` and `domains` are all that has
to be there. `python -m emray.schema` prints its JSON Schema, also in [sweep.schema.json](sweep.schema.json). With
the line

    # yaml-language-server: $schema=PATH_OR_URL/sweep.schema.json

at the top of a sweep file, editors complete and check it. `python -m emray.schema --template` prints a
file with every field. Single fields are set from the command line: `--set train.epochs=2`."""


class _Place(NamedTuple):
    path: str  # of the section in the file
    name: str | None  # its definition


def sweep_page() -> str:
    """The page as Markdown."""
    schema = sweep_schema()
    places = _places(schema)
    return "\n\n".join([_HEAD, *(_told(schema, place, places) for place in places)]) + "\n"


def _places(schema: Schema) -> list[_Place]:
    """Every section once, outer ones first, each followed by what is in it."""
    found: dict[str | None, _Place] = {}

    def walk(place: _Place) -> None:
        if place.name in found:
            return
        found[place.name] = place
        for field in fields_of(schema, place.name):
            if field.section:
                walk(_Place(_below(place.path, field), field.section))

    walk(_Place("", None))
    return list(found.values())


def _below(path: str, field: Field) -> str:
    joined = f"{path}.{field.name}" if path else field.name
    return f"{joined}.{field.repeated}" if field.repeated == "{name}" else joined + field.repeated


def _told(schema: Schema, place: _Place, places: list[_Place]) -> str:
    heading = f"## `{place.path}`" if place.path else "## The file"
    rows = [_row(field, place, places) for field in fields_of(schema, place.name)]
    meaning = [section(schema, place.name).meaning] if place.path else []
    table = "\n".join(["| field | allowed | default | meaning |", "|---|---|---|---|", *rows])
    return "\n\n".join([heading, *meaning, table])


def _row(field: Field, place: _Place, places: list[_Place]) -> str:
    known = next((one.path for one in places if field.section and one.name == field.section), None)
    own = _below(place.path, field)
    told = field.meaning if known in (None, own) else "; ".join(filter(None, [field.meaning, f"fields of `{known}`"]))
    cells = [f"`{field.name}`", field.kind, "" if field.section else _default(field.default), told]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is REQUIRED:
        return "**required**"
    return "" if value in (None, {}, [], "") else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as YAML in one line has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(_pairs(value))}}}"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _pairs(fields: dict[str, Any]) -> Iterator[str]:
    return (f"{name}: {_plain(value)}" for name, value in fields.items())
