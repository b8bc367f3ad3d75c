"""Looking for damage, place by place.

Not for moving anything (repairs.py). The invariant: it only reads, and a file that is being written is no finding.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

from emray.endpoint import entries
from emray.errors import StoreError
from emray.model.direction_files import direction_damage
from emray.plan import PLAN
from emray.records.plan_shape import misshapen
from emray.reduce import SUMMARY
from emray.reduce.inputs import ADOPTED
from emray.report import REPORT
from emray.store import SCHEMAS, AdapterRecord, Kind, Store, damage_told, parquet_fault, parquet_file

INDEX, DATASHEETS = "adapters.parquet", "datasets.json"
_NOTHING = "nothing: it is made again of what is there"
_REDO = {
    Kind.GENERATIONS: "{rows} answers are drawn again, and judged again where they come out otherwise",
    Kind.VERDICTS: "{rows} verdicts are made again of the replies in journal/; what is not there is asked again",
    Kind.MARKS: "{rows} answers to quizzes are scored again",
    Kind.MEASUREMENTS: "{rows} rows of the probes are measured again",
}


class Location(StrEnum):
    """What kind of file it is, which decides what is done with it."""

    PLAN = "plan"
    ADAPTER = "adapter"
    ANSWERS = "generations"
    VERDICTS = "verdicts"
    MARKS = "marks"
    MEASUREMENTS = "measurements"
    JOURNAL = "journal"
    DERIVED = "derived"
    DIRECTIONS = "directions"
    TEMPORARY = "temporary"


class Finding(NamedTuple):
    """One file that is damaged."""

    name: str
    what: str  # is wrong with it
    redo: str  # what it costs to have it again
    place: Location


def examine(store: Store) -> Iterator[Finding]:
    """Everything in a run folder that is damaged. Raises StoreError for what is no run folder."""
    folders = [name for name in ("adapters", *Kind, entries.FOLDER) if store.sizes(name) or store.folders(name)]
    if not store.exists(PLAN) and not folders:
        raise StoreError(f"{store.root} is not a run folder: it holds neither {PLAN} nor results")
    yield from _plan(store)
    yield from _index(store)
    yield from _datasheets(store)
    yield from adapters(store, store.folders("adapters"), thorough=True)
    for kind in Kind:
        yield from parts(store, kind, store.part_sizes(kind))
    yield from _directions(store)
    yield from journal(store)
    yield from stage_log(store)
    yield from _adopted(store)
    yield from _derived(store)
    for name, size in store.temporaries().items():
        yield Finding(name, f"{size:,} bytes of a file that never appeared", "nothing", Location.TEMPORARY)


def adapters(store: Store, keys: Collection[str], *, thorough: bool) -> Iterator[Finding]:
    """Those of these cells; one without a record is not finished, which is no damage, nor are weights taken away.

    `thorough`: every file read to its last byte.
    """
    for key in keys:
        try:
            record = store.adapter_record(key)
        except StoreError:
            what = "it is no record"
            yield Finding(f"adapters/{key}/record.json", what, "its cell is trained again", Location.ADAPTER)
            continue
        if record and record.trained:
            for name, what in store.adapter_damage(key, thorough=thorough):
                yield Finding(name, what, _training(record), Location.ADAPTER)


def parts(store: Store, kind: Kind, sizes: dict[str, int], *, foreign: bool = True) -> Iterator[Finding]:
    """Those of a table's parts that cannot be read to the end; `foreign`: or that another version of emray wrote."""
    for name, size in sizes.items():
        what = _parquet(store, name, size, SCHEMAS[kind].names if foreign else ())
        if what:
            redo = _REDO[kind].format(rows=_num_rows(store, name, size))
            yield Finding(name, what, redo, Location(str(kind)))


def journal(store: Store, *, lines_only: bool = False) -> Iterator[Finding]:
    """Damaged files of the journal; of `lines_only` those that a killed run left, by how their lines look."""
    for name, size in entries.sizes(store).items():
        if name.endswith(entries.PART):
            what = None if lines_only else _parquet(store, name, size, entries.SCHEMA.names)
        else:
            what = _bad_lines(store, name, size, thorough=not lines_only)
        if what:
            redo = "the replies that cannot be read are asked for again, where no row was made of them"
            yield Finding(name, what, redo, Location.JOURNAL)


def stage_log(store: Store) -> Iterator[Finding]:
    """Entries that say no time."""
    for name in store.names("log", suffix=".json"):
        try:
            whole = {"stage", "wall_s", "details"} <= store.read_json(name).keys()
        except (StoreError, AttributeError):
            whole = False
        if not whole:
            yield Finding(name, "it is no entry", "nothing: the report leaves this stage's time out", Location.DERIVED)


def is_entry(line: bytes) -> bool:
    """Whether a line of the journal is a reply under its key."""
    try:
        entries.line_at(line).reply()
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return entries.looks_whole(line)


def _plan(store: Store) -> Iterator[Finding]:
    redo = "it is written again; what it pinned (commits of the hub, dates, seeds so far) is looked up anew"
    with suppress(FileNotFoundError):
        try:
            what = misshapen(store.read_json(PLAN))
        except StoreError:
            what = "it is not JSON, or not as its digest says"
        if what:
            yield Finding(PLAN, what, redo, Location.PLAN)


def _datasheets(store: Store) -> Iterator[Finding]:
    try:
        store.read_json(DATASHEETS)
    except FileNotFoundError:
        return
    except StoreError:
        what = "it is not JSON, or not as its digest says"
        yield Finding(DATASHEETS, what, "nothing: it is made again of the files of examples", Location.DERIVED)


def _directions(store: Store) -> Iterator[Finding]:
    """Where the measurements cannot be read, they are told, and measured again with their directions."""
    with suppress(StoreError):
        for name, what in direction_damage(store):
            yield Finding(name, what, "its finetune's directions are computed again", Location.DIRECTIONS)


def _index(store: Store) -> Iterator[Finding]:
    size = store.sizes(".").get(f"./{INDEX}")
    what = _parquet(store, INDEX, size, ["key", "details"]) if size is not None else None
    if what:
        yield Finding(INDEX, what, _NOTHING, Location.DERIVED)


def _adopted(store: Store) -> Iterator[Finding]:
    for name, size in store.sizes(ADOPTED, suffix=".parquet").items():
        if what := _parquet(store, name, size, ["key"]):
            redo = "nothing: the verdicts that it names count as paid by this run"
            yield Finding(name, what, redo, Location.DERIVED)


def _derived(store: Store) -> Iterator[Finding]:
    for folder in (SUMMARY, REPORT):
        record = f"{folder}/record.json"
        if store.exists(record) and (store.made_of(folder) is None or store.derived_changed(folder)):
            yield Finding(record, "files beside it are not as it says", _NOTHING, Location.DERIVED)


def _training(record: AdapterRecord) -> str:
    wall_s = record.details.get("wall_s")
    took = f" ({wall_s:,.0f} s the last time)" if isinstance(wall_s, int | float) else ""
    return f"its cell is trained again{took}"


def _parquet(store: Store, name: str, size: int, columns: Sequence[str]) -> str | None:
    with suppress(FileNotFoundError), store.opened(name, size=size) as file:  # put together with others meanwhile
        return parquet_fault(file, columns)
    return None


def _num_rows(store: Store, name: str, size: int) -> str:
    """As the part's name says, or its footer, where that can be read."""
    prefix, rows, *_ = name.rpartition("/")[2].split("-")
    if prefix == "compact" and rows.isdigit():
        return f"{int(rows):,}"
    with suppress(StoreError, FileNotFoundError), damage_told(store.root, name), store.opened(name, size=size) as file:
        return f"{parquet_file(file).metadata.num_rows:,}"
    return "an unknown number of"


def _bad_lines(store: Store, name: str, size: int, *, thorough: bool) -> str | None:
    good = is_entry if thorough else entries.looks_whole
    with suppress(FileNotFoundError), store.opened(name, size=size) as file:
        bad = [offset for offset, line in entries.lines_of(file) if not good(line)]
        return f"{len(bad)} of its lines are no entries, the first at byte {bad[0]:,}" if bad else None
    return None


def readable(part: pa.NativeFile) -> Iterator[tuple[str, str]]:
    """Keys and replies (JSON) of those groups of a journal's part that can be read."""
    with suppress(StoreError), damage_told("", ""):
        opened = parquet_file(part)
        for group in range(opened.num_row_groups):
            with suppress(StoreError), damage_told("", ""):
                table = opened.read_row_group(group, columns=entries.SCHEMA.names, use_threads=False)
                yield from zip(table["key"].to_pylist(), table["reply"].to_pylist(), strict=True)
