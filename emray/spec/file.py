"""A file of sections on disk: YAML to a `Sweep` or another root section, with `key=value` overrides.

Not for what a field means. The invariant: a file is read as it stands, or refused in one line.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from emray.errors import SpecError
from emray.plain_files import read_plain_text
from emray.spec.explain import explain, kind_of
from emray.spec.grid import Sweep
from emray.spec.judge import JudgeSpec
from emray.spec.plain_yaml import parse_yaml
from emray.spec.section import Section

Root = TypeVar("Root", bound=Section)


def load_sweep(path: Path, *, overrides: Sequence[str] = ()) -> Sweep:
    """Read and validate a sweep file, with `key=value` overrides (dotted keys, YAML values).

    Raises SpecError with one line that names the key, what was given and what is allowed.
    """
    return load_file(path, root=Sweep, what="sweep file", overrides=overrides)


def load_file(path: Path, *, root: type[Root], what: str, overrides: Sequence[str] = ()) -> Root:
    """The same for a file of another root section; `what` it is called. Raises SpecError."""
    try:
        text = read_plain_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}") from None
    fields = parse_yaml(text, source=str(path))
    if not isinstance(fields, dict):
        raise SpecError(f"{path}: a {what} is a mapping of fields, this one holds {kind_of(fields)}")
    for override in overrides:
        _apply(fields, override)
    try:
        found = root.model_validate(fields)
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error, root=root)}") from None
    except UnicodeEncodeError:  # pydantic cannot say what it refuses
        _refuse_what_has_no_key(fields, source=str(path), what=what)
        raise
    _refuse_what_has_no_key(fields, source=str(path), what=what)
    return found


def judge_of(fields: dict[str, Any], *, overrides: Sequence[str] = ()) -> JudgeSpec:
    """A judge by its fields, with `key=value` overrides. Raises SpecError as `load_sweep` does."""
    for override in overrides:
        _apply(fields, override)
    try:
        return JudgeSpec.model_validate(fields)
    except ValidationError as error:
        raise SpecError(f"judge: {explain(error, root=JudgeSpec)}") from None
    except UnicodeEncodeError:
        _refuse_what_has_no_key(fields, source="judge", what="judge")
        raise


def _refuse_what_has_no_key(value: Any, *, source: str, what: str) -> None:
    """What JSON cannot hold has no key; it may stand where a section takes any fields (an `extra_body`, say)."""
    if isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _refuse_what_has_no_key(inner, source=source, what=what)
    elif isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{source}: {value} is no number that JSON has; every number of a {what} is finite")
    elif isinstance(value, str) and any("\ud800" <= one <= "\udfff" for one in value):
        raise SpecError(f"{source}: half of a surrogate pair in {value!r:.60}; write the character itself")


def _apply(fields: dict[str, Any], override: str) -> None:
    """Set one dotted `key=value` in place."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"--set {override!r}: write key=value, as in --set train.epochs=2")
    *parents, last = name.strip().split(".")
    for parent in parents:
        below = fields.setdefault(parent, {})
        if not isinstance(below, dict):
            raise SpecError(f"--set {override!r}: {parent!r} holds {kind_of(below)}, not fields")
        fields = below
    fields[last] = parse_yaml(text, source=f"--set {name}")
