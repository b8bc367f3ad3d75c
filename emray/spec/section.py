"""What every section of the sweep file is: frozen fields, unknown keys refused, locations as the file gives them.

Not for any one section. The invariant: a section that exists is valid, and never changes.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

TOY = "toy"  # wherever a location is asked for, this names the embedded toy world


class Section(BaseModel):
    """A group of fields under one key of the sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_list(value: Any) -> Any:
    """One value where a list is asked for stands for a list of it."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_text(value: Any) -> Any:
    """A number where a name is asked for is its text: YAML reads `1` as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def absolute(location: str, folder: Path) -> str:
    """A path as seen from the sweep file's folder; `toy` and URLs stay as they are."""
    return location if location == TOY or "://" in location else str((folder / Path(location).expanduser()).resolve())
