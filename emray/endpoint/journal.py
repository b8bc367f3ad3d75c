"""Replies on their way to being rows: each durable soon after it arrives, and never asked for again.

Not for what is made of them (the store's tables). The invariant: in a local run folder a reply outlives its process
when `add` returns, elsewhere within FLUSH_S plus one write; it is there whole or not at all, under at least one name.

    journal/<writer>.jsonl          a local file, a line per reply as it arrives; one cut short is none
    journal/<writer>-<n>.jsonl      elsewhere segments, one write each; a writer merges its own small ones as it goes
    journal/replies-<digest>.parquet  what `compact` makes of them when the stage ends, read by kept.py
"""

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Container, Iterator
from functools import partial
from itertools import islice
from typing import BinaryIO

import pyarrow as pa

from emray.endpoint.entries import FOLDER, LINES, PART, entries, part_of, sizes, spoilt_told
from emray.endpoint.reply import Reply
from emray.store import Keys, Store, full_disk_told

FLUSH_S = 0.2
OPTIONAL = ("cached_tokens", "thoughts")  # written where they are known
MERGE_AT = 64  # small segments of one writer that become one
MOST_A_PART = 20_000  # replies; some 10 MB of text in memory while they are put together


class Journal:
    """One writer, safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        writer = self.writer = uuid.uuid4().hex[:12]  # how the names of its files begin
        self._told = partial(full_disk_told, store.root)
        file = store.open_append(f"{FOLDER}/{writer}.jsonl")
        self._lines: _GrowingFile | _Segments = _GrowingFile(file) if file else _Segments(store, writer)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply. Raises what a write raised: a journal that cannot write stops the stage."""
        with self._told():
            self._lines.add(entry_line(key, reply))

    def flush(self) -> None:
        """Return when everything added so far is on the store. Raises what a write raised."""
        with self._told():
            self._lines.flush()

    def close(self) -> None:
        """Write what is left. Raises what a write raised."""
        with self._told():
            self._lines.close()


class _GrowingFile:
    """A local file: a line outlives this process when `add` returns, and a loss of power FLUSH_S later."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()  # guards the file
        self._written = threading.Event()
        self._closed = False
        self._failed: OSError | None = None
        self._thread = threading.Thread(target=self._sync_forever, name="journal", daemon=True)
        self._thread.start()

    def add(self, line: str) -> None:
        with self._lock:
            self._raise_failure()
            self._file.write(line.encode())
            self._file.flush()
        self._written.set()

    def flush(self) -> None:
        self._raise_failure()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._closed = True
        self._written.set()
        self._thread.join()
        with self._lock, self._file:
            self.flush()

    def _sync_forever(self) -> None:
        while not self._closed:
            self._written.wait()
            time.sleep(0 if self._closed else FLUSH_S)
            self._written.clear()
            try:
                os.fsync(self._file.fileno())
            except OSError as error:  # raised to the next caller, on the caller's own thread
                self._failed = error
                return

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed


class _Segments:
    """Any other store: a thread writes what has come in since its last write, as a file of its own."""

    def __init__(self, store: Store, writer: str) -> None:
        self._store, self._writer = store, writer
        self._number = 0
        self._small: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()  # guards what follows
        self._lines: list[str] = []
        self._num_added = self._num_written = 0
        self._urgent = self._closed = False
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._write_forever, name="journal", daemon=True)
        self._thread.start()

    def add(self, line: str) -> None:
        with self._changed:
            self._raise_failure()
            self._lines.append(line)
            self._num_added += 1
            self._changed.notify_all()

    def flush(self) -> None:
        with self._changed:
            added, self._urgent = self._num_added, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_written >= added or self._failed)
            self._raise_failure()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _write_forever(self) -> None:
        try:
            while lines := self._next_lines():
                self._write(lines)
        except Exception as error:  # noqa: BLE001 - raised to the next caller, on the caller's own thread
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _next_lines(self) -> list[str]:
        """What comes in within FLUSH_S of the first, sooner when someone waits; nothing once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            self._changed.wait_for(lambda: self._urgent or self._closed, timeout=FLUSH_S)
            lines, self._lines, self._urgent = self._lines, [], False
            return lines

    def _write(self, lines: list[str]) -> None:
        content = "".join(lines).encode()
        self._small.append((self._put(content), content))
        with self._changed:
            self._num_written += len(lines)
            self._changed.notify_all()
        if len(self._small) >= MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        """One segment for many; the old ones go only when the new one is there."""
        self._put(b"".join(content for _, content in self._small))
        self._store.delete_files([name for name, _ in self._small])
        self._small = []

    def _put(self, content: bytes) -> str:
        name = f"{FOLDER}/{self._writer}-{self._number:06d}.jsonl"
        self._number += 1
        self._store.write_bytes(name, content)
        return name


def entry_line(key: str, reply: Reply) -> str:
    fields = {name: value for name, value in reply._asdict().items() if value is not None or name not in OPTIONAL}
    return json.dumps({"key": key, "reply": fields}) + "\n"


def read_journal(store: Store, *, wanted: Container[str]) -> Iterator[tuple[str, Reply]]:
    """Every journaled reply whose key is wanted, each key once."""
    given: set[str] = set()
    for name, size in sizes(store).items():
        for entry in entries(store, name, size):
            if entry.key in wanted and entry.key not in given:
                given.add(entry.key)
                with spoilt_told(store.root, name):
                    reply = entry.reply()
                yield entry.key, reply


def journaled_keys(store: Store) -> Keys:
    """Keys of every reply that is on the store."""
    return Keys.of_columns(key_columns(store))


def key_columns(store: Store) -> Iterator[pa.ChunkedArray]:
    """The same some at a time; one may come twice."""
    for name, size in sizes(store).items():
        found = entries(store, name, size, keys_only=True)
        while some := [entry.key for entry in islice(found, MOST_A_PART)]:
            yield pa.chunked_array([some])


def compact(store: Store) -> None:
    """Turn all segments into compressed parts, then delete them. Only when no writer is at work."""
    names = {name: size for name, size in sizes(store).items() if name.endswith(LINES)}
    waiting: dict[str, str] = {}
    for name, size in names.items():
        for entry in entries(store, name, size):
            with spoilt_told(store.root, name):
                waiting[entry.key] = json.dumps(entry.fields(), ensure_ascii=False)
            if len(waiting) == MOST_A_PART:
                _write_part(store, waiting)
                waiting = {}
    if waiting:
        _write_part(store, waiting)
    store.delete_files(list(names))


def is_there(store: Store) -> bool:
    """Whether anything was ever journaled."""
    return bool(sizes(store))


def take(store: Store, *, of: Store, keys: Keys) -> int:
    """Have the replies under these keys that another run has; returns how many. Only when no writer is at work here."""
    taken: dict[str, str] = {}
    for name, size in sizes(of).items() if keys else ():
        for entry in entries(of, name, size):
            if entry.key in keys and entry.key not in taken:
                taken[entry.key] = json.dumps(entry.fields(), ensure_ascii=False)
    left = list(taken.items())
    for start in range(0, len(left), MOST_A_PART):
        _write_part(store, dict(left[start : start + MOST_A_PART]))
    return len(taken)


def forget(store: Store, keys: Keys) -> None:
    """Drop the replies under these keys from the parts. Only when no writer is at work."""
    for name, size in sizes(store).items() if keys else ():
        if not name.endswith(PART) or not any(entry.key in keys for entry in entries(store, name, size)):
            continue
        left = {one.key: str(one.content) for one in entries(store, name, size) if one.key not in keys}
        written = _write_part(store, left) if left else None
        if written != name:
            store.delete_files([name])


def _write_part(store: Store, replies: dict[str, str]) -> str:
    digest = hashlib.sha256("\n".join(sorted(replies)).encode()).hexdigest()[:20]
    name = f"{FOLDER}/replies-{digest}{PART}"
    store.write_bytes(name, part_of(replies), durable=True)
    return name
