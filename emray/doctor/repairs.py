"""Moving what is damaged out of the way, so that the next run finds it missing.

Not for looking (checks.py). The invariant: what is still good is written anew before the damaged file is moved, so a
repair that is killed can be begun again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.doctor.checks import Finding, Location, adapters, is_entry, journal, parts, readable, stage_log
from emray.endpoint import entries
from emray.model.direction_files import key_of_file
from emray.store import Keys, Kind, Store

ASIDE = "damaged"  # the folder, in the run folder
TEMPORARY_S = 3600.0  # a file that was not finished in an hour has no writer any more


def mend(store: Store) -> list[str]:
    """Before a sweep: move aside what a killed run, or a loss of power, left damaged; one line for each.

    What was put together since was made durable first, and is looked at only when it is read.
    """
    store.delete_files(list(store.temporaries(older_than_s=TEMPORARY_S)))
    fresh = {kind: _written_by_workers(store.part_sizes(kind)) for kind in Kind}
    indexed = Keys(store.indexed_adapters())
    found = chain(
        adapters(store, [key for key in store.folders("adapters") if key not in indexed], thorough=False),
        *(parts(store, kind, sizes, foreign=False) for kind, sizes in fresh.items()),
        journal(store, lines_only=True),
        stage_log(store),
    )
    return [f"{one.name} is damaged ({one.what}): {moved}; {one.redo}" for one, moved in repair(store, list(found))]


def repair(store: Store, findings: Sequence[Finding]) -> Iterator[tuple[Finding, str]]:
    """Move each aside; says where. For the holder of the lease."""
    answers = {finding.name for finding in findings if finding.place == Location.ANSWERS}
    if answers:
        _set_aside_verdicts(store, without=answers)
    moved: set[str] = set()
    for finding in findings:
        names = [name for name in _with_what_hangs_on_it(store, finding) if name not in moved and store.exists(name)]
        if finding.place == Location.JOURNAL:
            _save_entries(store, finding.name)
        if finding.place == Location.DIRECTIONS:
            _set_aside_measurement(store, key_of_file(finding.name))
        for name in names:
            _move_aside(store, name)
        moved |= set(names)
        yield finding, f"moved to {ASIDE}/" if moved.issuperset([finding.name]) else "what hangs on it is set aside"


def _with_what_hangs_on_it(store: Store, finding: Finding) -> list[str]:
    """The files that go with a damaged one: of an adapter all, its record first."""
    if finding.place != Location.ADAPTER:
        return [finding.name]
    folder = finding.name.rpartition("/")[0]
    store.forget_adapters([folder.rpartition("/")[2]])
    return sorted(store.sizes(folder), key=lambda name: (not name.endswith("/record.json"), name))


def _move_aside(store: Store, name: str) -> None:
    """Under its old name, numbered where that is taken; an adapter's folder goes with its last file."""
    number, to = 1, f"{ASIDE}/{name}"
    while store.exists(to):
        number, to = number + 1, f"{ASIDE}/{name}.{number}"
    store.move(name, to=to)
    folder = name.rpartition("/")[0]
    if folder.startswith("adapters/") and not store.sizes(folder):
        store.delete(folder)


def _set_aside_verdicts(store: Store, *, without: set[str]) -> None:
    """Verdicts and marks on answers that are lost with the parts `without`: another answer may come in their place.

    Judged again, an answer that comes out the same costs nothing: its replies are in the journal.
    """
    sizes = {name: size for name, size in store.part_sizes(Kind.GENERATIONS).items() if name not in without}
    kept = Keys.of_columns(part["key"] for part in store.read_parts(sizes, columns=["key"]))
    for kind in (Kind.VERDICTS, Kind.MARKS):
        _set_aside_rows(store, kind, keep=lambda part: kept.has(part["generation"]))


def _set_aside_measurement(store: Store, key: str) -> None:
    """The rows of a measurement that left a file which is lost: it is measured again, and writes both."""
    _set_aside_rows(store, Kind.MEASUREMENTS, keep=lambda part: pc.not_equal(part["key"], key).to_numpy())


def _set_aside_rows(store: Store, kind: Kind, *, keep: Callable[[pa.Table], NDArray[np.bool_]]) -> None:
    """Parts with rows that are not to be kept are moved aside, once those that are stand in parts of their own."""
    bad = {finding.name for finding in parts(store, kind, store.part_sizes(kind))}
    for name, size in store.part_sizes(kind).items():
        if name in bad:
            continue
        (part,) = store.read_parts({name: size})
        kept = keep(part)
        if not kept.all():
            left = part.filter(pa.array(kept))
            written = store.write_rows(kind, left) if left.num_rows else []
            if name not in written:
                _move_aside(store, name)


def _save_entries(store: Store, name: str) -> None:
    """Write what can be read of a damaged file of the journal under a name of its own."""
    size = store.sizes(entries.FOLDER)[name]
    with store.opened(name, size=size) as file:
        if name.endswith(entries.PART):
            replies = dict(readable(file))
        else:
            replies = dict(_replies(line for _, line in entries.lines_of(file) if is_entry(line)))
    if replies:
        digest = hashlib.sha256("\n".join([name, *replies]).encode()).hexdigest()[:20]
        store.write_bytes(f"{entries.FOLDER}/mended-{digest}{entries.PART}", entries.part_of(replies), durable=True)


def _replies(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        entry = entries.line_at(line)
        yield entry.key, json.dumps(entry.fields(), ensure_ascii=False)


def _written_by_workers(sizes: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if name.rpartition("/")[2].startswith("part-")}
