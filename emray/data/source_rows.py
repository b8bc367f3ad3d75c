"""Rows of examples out of every form they come in: JSON, CSV, Parquet, a folder that `datasets` saved, the hub.

Not for what a row says (chats.py). The invariant: every row comes with its place, file and line (or row), and what
cannot be read is a DataError that names it.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emray.data.archives import Contents, Passphrase, contents
from emray.data.text_files import JsonRow, json_rows, parse_json, text_of
from emray.errors import DataError
from emray.spec import HUB, SourceSpec

_LONGEST_CELL = 10_000_000  # characters
_SPLIT = "train"
_SAVED = ("dataset_info.json", "dataset_dict.json")  # what is in a folder of `save_to_disk`
_MAGIC = b"PAR1"


def source_rows(source: SourceSpec) -> Iterator[JsonRow]:
    """Every row of a source, its columns under the names that chats have.

    Raises FileNotFoundError for what is not there, DataError for what cannot be read.
    """
    rows = _of_datasets(source) if source.on_hub or Path(source.path).is_dir() else _of_file(source)
    if source.where:
        rows = _chosen(rows, source.where)
    if source.columns:
        return (JsonRow(where, _named(row, source.columns, where=where)) for where, row in rows)
    return rows


def _of_file(source: SourceSpec) -> Iterator[JsonRow]:
    if source.split or source.subset or source.revision:
        raise DataError(f"{source} is a file, which has no split, subset or revision")
    locked = Passphrase(source.passphrase_env) if source.passphrase_env else None
    found, told = contents(Path(source.path), member=source.member, passphrase=locked), str(source)
    ending = found.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet" or found.raw.startswith(_MAGIC):
        return _of_parquet(found, told)
    text = text_of(found.raw, source=told)
    if ending in ("csv", "tsv"):
        return _of_csv(text, told, delimiter="\t" if ending == "tsv" else ",")
    return json_rows(text, source=told)


def _of_csv(text: str, told: str, *, delimiter: str) -> Iterator[JsonRow]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(lines, None)
        if header is None:
            return
        if len(set(header)) < len(header):
            raise DataError(f"{told}: two columns have one name ({', '.join(header)})")
        begins = lines.line_num + 1
        for cells in lines:
            where, begins = f"{told}:{begins}", lines.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns")
            yield JsonRow(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{told}:{lines.line_num}: not a table: {error}") from None


def _of_parquet(found: Contents, told: str) -> Iterator[JsonRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(pa.BufferReader(found.raw)).iter_batches()
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield JsonRow(f"{told}: row {number}", row)
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{told}: not a Parquet file that can be read: {first}") from None


def _of_datasets(source: SourceSpec) -> Iterator[JsonRow]:
    """Rows of a folder that `datasets` saved, or of the hub (its cache, without a network)."""
    if source.passphrase_env or source.member:
        raise DataError(f"{source.path} is a data set of files, which has no member and no passphrase")
    loaded = _from_hub(source) if source.on_hub else _from_folder(source)
    for number in range(len(loaded)):
        yield JsonRow(f"{source.path}: row {number + 1}", loaded[number])


def _from_folder(source: SourceSpec) -> Any:
    folder = Path(source.path)
    if not any((folder / name).is_file() for name in _SAVED):
        raise DataError(f"{folder} is a folder without {' or '.join(_SAVED)}; save it by datasets' save_to_disk")
    if source.subset or source.revision:
        raise DataError(f"{folder} is a folder on disk, which has no subset or revision")
    datasets = _library(source)
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # noqa: BLE001  # whatever the library makes of damaged files
        raise DataError(f"{folder} cannot be read by datasets: {_first_line(error)}") from None
    if not isinstance(loaded, Mapping):
        if source.split:
            raise DataError(f"{folder} has no splits; leave split out")
        return loaded
    split = source.split or _SPLIT
    if split not in loaded:
        raise DataError(f"{folder} has no split {split!r}: {', '.join(loaded)}")
    return loaded[split]


def _from_hub(source: SourceSpec) -> Any:
    name = source.path.removeprefix(HUB)
    datasets = _library(source)
    try:
        return datasets.load_dataset(name, source.subset, split=source.split or _SPLIT, revision=source.revision)
    except Exception as error:  # noqa: BLE001  # a hub fails in the ways of five libraries
        raise DataError(
            f"cannot load the data set {name} from the hub: {_first_line(error)}; with a network, try again, or give "
            "the folder of a downloaded one"
        ) from None


def _library(source: SourceSpec) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source.path} is read by datasets: pip install 'emray[data]'") from None
    datasets.disable_progress_bars()
    return datasets


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _chosen(rows: Iterator[JsonRow], wanted: Mapping[str, Sequence[Any]]) -> Iterator[JsonRow]:
    """Rows with one of the values in every column named; cells of a CSV are texts. Raises DataError."""
    told = {name: {str(value) for value in values} for name, values in wanted.items()}
    for where, row in rows:
        lacking = [name for name in told if not isinstance(row, dict) or name not in row]
        if lacking:
            there = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
            raise DataError(f"{where}: no column {lacking[0]!r} to choose rows by; there: {there}")
        if all(str(row[name]) in values for name, values in told.items()):
            yield JsonRow(where, {name: value for name, value in row.items() if name not in told})


def _named(row: Any, columns: Mapping[Any, str], *, where: str) -> Any:
    """A row with the columns that make a chat, under the names chats have. Raises DataError."""
    lacking = [column for column in columns.values() if not isinstance(row, dict) or column not in row]
    if lacking:
        there = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
        raise DataError(f"{where}: no column {lacking[0]!r}; there: {there}")
    if "messages" in columns:
        turns = row[columns["messages"]]
        return {"messages": parse_json(turns, where=where) if isinstance(turns, str) else turns}
    roles = {"system": "system", "prompt": "user", "completion": "assistant"}
    parts = [(role, row[columns[part]]) for part, role in roles.items() if part in columns]
    return {"messages": [{"role": role, "content": text} for role, text in parts if role != "system" or text]}
