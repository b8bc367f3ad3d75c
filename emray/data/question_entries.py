"""Question files as lists of entries, whatever they are written in: YAML, JSON, JSONL or CSV.

Not for what an entry means (questions.py). The invariant: an entry has the keys its file gives it, under the names that
this project uses, and texts that can be stored.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emray.data.text_files import json_rows, mended, parse_json, read_text
from emray.errors import DataError, SpecError
from emray.spec import parse_yaml

_TEXTS = ("paraphrase", "question", "prompt", "text")  # what one wording is called where there is no list of them
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def entries_of(path: Path) -> list[Any]:
    """The entries of a question file in their order. Raises DataError for a file that is no list of questions."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"no question file at {path}; set generate.questions in the sweep file") from None
    listed = _listed(_parsed(text, path))
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: a question file is a YAML list of questions, each with id and paraphrases")
    return _with_judges([_usual(_mended(entry)) for entry in listed])


def _parsed(text: str, path: Path) -> Any:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _DELIMITERS:
        return _table(text, delimiter=_DELIMITERS[suffix], source=str(path))
    if suffix == ".jsonl":
        return [row.value for row in json_rows(text, source=str(path))]
    if suffix == ".json":
        return parse_json(text, where=str(path))
    try:
        return parse_yaml(text, source=str(path), as_written=True)  # ids may look like numbers
    except SpecError as error:
        raise DataError(str(error)) from None


def _listed(value: Any) -> Any:
    """A list under the key questions, or questions by their id, as the list they are."""
    if isinstance(value, dict) and isinstance(value.get("questions"), list):
        return value["questions"]
    if isinstance(value, dict) and value and all(isinstance(entry, dict) for entry in value.values()):
        return [{"id": name, **entry} for name, entry in value.items()]
    return value


def _usual(entry: Any) -> Any:
    """An entry with `id` and `paraphrases`, where it calls them otherwise."""
    if not isinstance(entry, dict):
        return entry
    usual = dict(entry)
    if usual.get("id") is None and "name" in usual:
        usual["id"] = usual.pop("name")
    called = next((name for name in _TEXTS if name in usual), None)
    if usual.get("paraphrases") is None and called:
        usual["paraphrases"] = usual.pop(called)
    if isinstance(usual.get("paraphrases"), str):
        usual["paraphrases"] = [usual["paraphrases"]]
    return usual


def _with_judges(entries: Sequence[Any]) -> list[Any]:
    """Entries whose `judges` name other entries (llmcomp's form) with these in their place, and out of the list."""
    asking = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("judges"), dict)]
    named = {name for entry in asking for name in entry["judges"].values() if isinstance(name, str)}
    known = {entry["id"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)}
    for entry in asking:
        entry["judges"] = {m: known.get(j, j) if isinstance(j, str) else j for m, j in entry["judges"].items()}
    return [entry for entry in entries if not (isinstance(entry, dict) and _is_named(entry, named))]


def _is_named(entry: Mapping[str, Any], names: set[str]) -> bool:
    return isinstance(entry.get("id"), str) and entry["id"] in names and "judge" in str(entry.get("type"))


def _table(text: str, *, delimiter: str, source: str) -> list[dict[str, Any]]:
    """Rows of a table as entries: empty cells are left out, rows of one id are wordings of one question."""
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = list(reader)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise DataError(f"{source}: not a table: {error}") from None
    if len(set(names)) < len(names):
        raise DataError(f"{source}: two columns have one name; columns: {', '.join(names)}")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(f"{source}: row {number} has more cells than the header; put texts with commas in quotes")
        entry = dict(_cells(row))
        name = entry.setdefault("id", str(number))
        first = found.setdefault((name, entry.get("system", "")), {**entry, "paraphrases": []})
        first["paraphrases"].extend(_wordings(entry))
    return [{name: value for name, value in entry.items() if name not in _TEXTS} for entry in found.values()]


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if value is not None and value.strip():
            yield name.strip().lower(), value


def _wordings(entry: Mapping[str, str]) -> Sequence[str]:
    return [entry[name] for name in ("paraphrases", *_TEXTS) if name in entry][:1]


def _mended(value: Any) -> Any:
    """A value whose texts can be stored; YAML and JSON may write half a surrogate pair."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return value
