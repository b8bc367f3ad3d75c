"""Replies that the journal keeps, by an index: some 30 bytes of memory a reply, whose text stays where it is.

Not for writing replies (journal.py). The invariant: what is given for a key was journaled under it, and what was on the
store when `look` began is found from then on, wherever compaction takes it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from emray.endpoint.entries import FOLDER, PART, Entry, entries, group_of, is_segment, line_at, sizes, spoilt_told
from emray.endpoint.reply import Answer, FollowUp, Reply, Request
from emray.errors import StageError
from emray.store import Store

KEY_BYTES = 10  # of a key's hash: two of a hundred million coincide with probability 4e-9, and then one is asked again
BLOCKS_KEPT = 8  # groups of parts, and segments, that were read last
AT_ONCE = 20_000  # entries taken into the index at a time
_PLACE = np.dtype([("file", "<i4"), ("start", "<i8"), ("extent", "<i4")])

Hashes = NDArray[np.bytes_]
EntryPlaces = NDArray[np.void]
Block = TypeVar("Block", Sequence[Entry], bytes)


class EntryPlace(NamedTuple):
    """Where an entry lies; in this order they are read fastest."""

    file: int  # by number
    start: int  # of a line its offset, of a row its group
    extent: int  # of a line its bytes, of a row its number there


class Journaled(NamedTuple):
    """What the journal knows of requests, by key."""

    answers: dict[str, Answer]  # complete ones
    first: dict[str, Reply]  # replies that call for a follow-up which was not answered yet


class KeptReplies:
    """The replies whose keys are `wanted` (None: all). Safe to use from several threads."""

    def __init__(self, store: Store, *, wanted: Container[str] | None = None) -> None:
        self._store, self._wanted = store, wanted
        self._names: list[str] = []  # of files by number
        self._numbers: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._read_to: dict[str, int] = {}  # bytes of lines that the index has
        self._blocks: OrderedDict[tuple[str, int], Sequence[Entry] | bytes] = OrderedDict()
        self._index = _Index()
        self._lock = threading.RLock()  # guards all of these
        self.look()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: object) -> bool:
        """Of what was there at the last look."""
        return isinstance(key, str) and self._index.place(key) is not None

    @property
    def num_bytes(self) -> int:
        """Of memory that the index takes."""
        return self._index.num_bytes

    def look(self, prefix: str = "") -> None:
        """Take in what the journal's files whose names begin with `prefix` hold since the last look."""
        with self._lock:
            found = sizes(self._store)
            self._sizes = found
            for name, size in found.items():
                if name.startswith(f"{FOLDER}/{prefix}") and self._read_to.get(name, 0) < size:
                    self._take_in(name, size)

    def reply(self, key: str) -> Reply | None:
        """None for a key that is not here."""
        with self._lock:
            for _ in range(2):
                place = self._index.place(key)
                if place is None:
                    return None
                try:
                    entry = self._entry(place)
                except FileNotFoundError:  # its file was put together with others: those are there by now
                    self.look()
                    continue
                return self._reply_of(entry, place) if entry.key == key else None
            return None

    def replies(self, keys: Collection[str]) -> dict[str, Reply]:
        """Those of the keys that are here, read in the order of the files."""
        places = [(place, key) for key in keys if (place := self._index.place(key)) is not None]
        found = ((key, self.reply(key)) for _, key in sorted(places))
        return {key: reply for key, reply in found if reply is not None}

    def journaled(self, requests: Sequence[Request], *, follow_up: FollowUp | None = None) -> Journaled:
        """What is known of requests."""
        found = self.replies([request.key for request in requests])
        again: dict[str, str] = {}  # key of the follow-up -> of the request
        for request in requests if follow_up else ():
            reply = found.get(request.key)
            if reply and follow_up and (more := follow_up(request, reply)):
                again[more.key] = request.key
        second = {again[key]: reply for key, reply in self.replies(again).items()}
        first = {key: found[key] for key in again.values() if key not in second}
        complete = {key: reply for key, reply in found.items() if key not in first}
        return Journaled(
            {key: Answer((reply, second[key]) if key in second else (reply,)) for key, reply in complete.items()}, first
        )

    def _take_in(self, name: str, size: int) -> None:
        number, start = self._number(name), self._read_to.get(name, 0)
        left = entries(self._store, name, size, start=start, keys_only=True)
        while some := [(entry.key, EntryPlace(number, *entry.place)) for entry in islice(left, AT_ONCE)]:
            self._index.add([one for one in some if self._wanted is None or one[0] in self._wanted])
            last = some[-1][1]
            self._read_to[name] = size if name.endswith(PART) else last.start + last.extent

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]

    def _entry(self, place: EntryPlace) -> Entry:
        """Raises FileNotFoundError."""
        name = self._names[place.file]
        size = self._sizes[name]
        if name.endswith(PART):
            group = self._block((name, place.start), lambda: group_of(self._store, name, size, place.start))
            return group[place.extent]
        if is_segment(name):
            content = self._block((name, 0), lambda: self._store.read_bytes(name))
            return line_at(content[place.start : place.start + place.extent])
        with self._store.opened(name, size=size) as file:
            file.seek(place.start)
            return line_at(file.read(place.extent))

    def _reply_of(self, entry: Entry, place: EntryPlace) -> Reply:
        """Raises StoreError when it is damaged."""
        with spoilt_told(self._store.root, self._names[place.file]):
            return entry.reply()

    def _block(self, name: tuple[str, int], read: Callable[[], Block]) -> Block:
        """What `read` gives, or gave a while ago."""
        if name in self._blocks:
            self._blocks.move_to_end(name)
            return cast(Block, self._blocks[name])
        block = read()
        self._blocks[name] = block
        if len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block


class _Index:
    """EntryPlaces by the hashes of keys, both sorted; one that is added again has its new place."""

    def __init__(self) -> None:
        self._arrays: tuple[Hashes, EntryPlaces] = (
            np.empty(0, f"S{KEY_BYTES}"),
            np.empty(0, _PLACE),
        )  # replaced together

    def __len__(self) -> int:
        return len(self._arrays[0])

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def add(self, found: Sequence[tuple[str, EntryPlace]]) -> None:
        new, first = np.unique(np.array([_hash(key) for key, _ in found], f"S{KEY_BYTES}"), return_index=True)
        new_places = np.array([place for _, place in found], _PLACE)[first]
        hashes, places_before = self._arrays
        at = np.searchsorted(hashes, new)
        there = hashes[np.minimum(at, len(hashes) - 1)] == new if len(hashes) else np.zeros(len(new), bool)
        moved = places_before.copy()
        moved[at[there]] = new_places[there]
        self._arrays = np.insert(hashes, at[~there], new[~there]), np.insert(moved, at[~there], new_places[~there])

    def place(self, key: str) -> EntryPlace | None:
        (hashes, places), wanted = self._arrays, np.array(_hash(key), f"S{KEY_BYTES}")
        at = int(np.searchsorted(hashes, wanted))
        if at == len(hashes) or hashes[at] != wanted:
            return None
        return EntryPlace(*places[at].tolist())


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=KEY_BYTES).digest()


class Replay:
    """An Asking that knows what the journal holds, and asks nobody."""

    def __init__(self, store: Store, *, follow_up: FollowUp | None = None) -> None:
        self._kept, self._follow_up = KeptReplies(store), follow_up

    def complaint(self) -> None:
        """See Asking.complaint."""

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """See Asking.answers. Raises StageError for what the journal lacks."""
        found = self._kept.journaled(requests, follow_up=self._follow_up).answers
        missing = {request.key for request in requests if request.key not in found}
        if missing:
            raise StageError(f"mode is replay, and {len(missing)} of the requests have no reply in the journal")
        return [found[request.key] for request in requests]

    def close(self) -> None:
        """Nothing is open."""
