"""A sweep file with every field in it, each with its meaning, as it is by default.

Not for a study as it is (sweeps/). The invariant: as printed it is a valid sweep with everything by default; a field
that is nothing by default stands behind `#`, and so does what would stand below it.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator

from emray.schema.field_kinds import REQUIRED, Field, fields_of
from emray.schema.json_schema import Schema, sweep_schema

_HEAD = "# Every field of a sweep file. What a study leaves out is as it stands here."
_GIVEN = {"name": "my_study", "model": "toy", "domains": ["incorrect_math"]}  # what has no default
_MEANT, _WIDTH = 44, 120  # columns where meanings begin and end


def template() -> str:
    """The file as YAML."""
    return "\n".join([_HEAD, *_TemplateLines().lines(None)]) + "\n"


class _TemplateLines:
    """Lines of the file; a section that is at several places has its fields told at the first."""

    def __init__(self) -> None:
        self._schema: Schema = sweep_schema()
        self._told: set[str] = set()

    def lines(self, section: str | None, *, off: bool = False) -> Iterator[str]:
        """Of a section, as if it stood at the left edge; `off` where all of it is behind `#` already."""
        for field in fields_of(self._schema, section):
            default = _GIVEN.get(field.name, field.default) if section is None else field.default
            once = field.section is not None and not field.repeated
            if once and isinstance(default, dict):
                yield from self._part(field, off=off)
                continue
            unset = default is None or default is REQUIRED
            written = f"{field.name}:" if unset else f"{field.name}: {json.dumps(default, ensure_ascii=False)}"
            yield from _meant(written if off or not unset else f"# {written}", field.meaning)
            if field.section and field.section not in self._told:
                self._told.add(field.section)
                yield from _indented(self._below(field), "" if off else "# ")

    def _part(self, field: Field, *, off: bool) -> Iterator[str]:
        """A section that is there by default."""
        self._told.add(field.section or "")
        lines = list(self.lines(field.section, off=off))
        empty = all(line.startswith("#") for line in lines)
        yield from _meant(f"{field.name}: {{}}" if empty else f"{field.name}:", field.meaning)
        yield from _indented(lines, "  ")

    def _below(self, field: Field) -> Iterator[str]:
        """What could stand below a field, behind the `#` of whoever asks."""
        lines = self.lines(field.section, off=True)
        if field.repeated == "[]":
            yield from (("  - " if number == 0 else "    ") + line for number, line in enumerate(lines))
        elif field.repeated:
            yield "  NAME:"
            yield from _indented(lines, "    ")
        else:
            yield from _indented(lines, "  ")


def _indented(lines: Iterable[str], lead: str) -> Iterator[str]:
    return (lead + line for line in lines)


def _meant(written: str, meaning: str) -> Iterator[str]:
    """A line with its meaning beside it, and below that where it is long."""
    first, *more = textwrap.wrap(meaning, _WIDTH - _MEANT) or [""]
    yield f"{written.ljust(_MEANT - 3)} # {first}".rstrip() if first else written
    yield from (" " * (_MEANT - 2) + f"# {line}" for line in more)
