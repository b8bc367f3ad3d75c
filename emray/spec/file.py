"""The sweep file on disk: YAML to a `Sweep`, with `key=value` overrides.

Not for what a field means. The invariant: a file is read as it stands, or refused in one line.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from emray.errors import SpecError
from emray.spec.explain import explain, kind_of
from emray.spec.grid import Sweep
from emray.spec.judge import JudgeSpec


def load_sweep(path: Path, *, overrides: Sequence[str] = ()) -> Sweep:
    """Read and validate a sweep file, with `key=value` overrides (dotted keys, YAML values).

    Raises SpecError with one line that names the key, what was given and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read sweep file {path}: {getattr(error, 'strerror', None) or error}") from None
    fields = parse_yaml(text, source=str(path))
    if not isinstance(fields, dict):
        raise SpecError(f"{path}: a sweep file is a mapping of fields, this one holds {kind_of(fields)}")
    for override in overrides:
        _apply(fields, override)
    try:
        return Sweep.model_validate(fields)
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error, root=Sweep)}") from None


def judge_of(fields: dict[str, Any], *, overrides: Sequence[str] = ()) -> JudgeSpec:
    """A judge by its fields, with `key=value` overrides. Raises SpecError as `load_sweep` does."""
    for override in overrides:
        _apply(fields, override)
    try:
        return JudgeSpec.model_validate(fields)
    except ValidationError as error:
        raise SpecError(f"judge: {explain(error, root=JudgeSpec)}") from None


def parse_yaml(text: str, *, source: str) -> Any:
    """YAML with `1e-4` read as a number and duplicate keys refused. Raises SpecError with source and line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise SpecError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader of YAML 1.1, with 1.2's floats and without silent overwriting."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


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
