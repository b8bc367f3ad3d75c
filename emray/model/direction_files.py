"""Directions in a model's residual stream, as files of the store: directions/<key>.safetensors.

    data, model            [L, H] float32: a direction per layer, where there is one (see Difference)
    data.0, data.1, ...    the same from either half of the answers, for what noise alone would leave of an agreement

Not for computing them (probes/). The invariant: a file is whole or absent, and one that has changed since is told;
equal directions give equal bytes, and one that could not be computed is a file that says why.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.errors import StageError
from emray.records import Difference
from emray.store import Kind, Store, damaged, short

FOLDER = "directions"
_SUFFIX = ".safetensors"
_SEAL = "digest"  # among the facts: of the file without it
Vectors = NDArray[np.float32]  # [L, H]


@dataclass(frozen=True)
class Directions:
    """The directions of one finetune."""

    whole: Mapping[Difference, Vectors]
    halves: Mapping[Difference, tuple[Vectors, Vectors]]  # where both halves have answers of every kind
    facts: Mapping[str, Any] = field(default_factory=dict)  # counts; `error` where nothing could be computed

    def at(self, kind: Difference, layer: int) -> Vectors:
        """[H]. Raises StageError where there is none."""
        if kind not in self.whole:
            raise StageError(f"no {kind} direction to steer along; {self.facts.get('note', 'compute it again')}")
        return self.whole[kind][layer]


def write_directions(store: Store, key: str, directions: Directions) -> None:
    tensors = {str(kind): vectors for kind, vectors in directions.whole.items()}
    for kind, halves in directions.halves.items():
        tensors |= {f"{kind}.{number}": half for number, half in enumerate(halves)}
    seal = hashlib.sha256(_content(tensors, directions.facts)).hexdigest()
    store.write_bytes(name_of(key), _content(tensors, {**directions.facts, _SEAL: seal}))


def read_directions(store: Store, key: str) -> Directions:
    """Raises StoreError for a file that is damaged or not there."""
    try:
        return _directions(store.read_bytes(name_of(key)))
    except FileNotFoundError:
        raise damaged(store.root, name_of(key), "it is not there") from None
    except _Unreadable as error:
        raise damaged(store.root, name_of(key), error) from None


def direction_damage(store: Store) -> Iterator[tuple[str, str]]:
    """Files that are damaged, or are not there though their measurements are, each with what is wrong.

    Raises StoreError for measurements that cannot be read.
    """
    for name, content in store.read_files(FOLDER, suffix=_SUFFIX):
        try:
            _directions(content)
        except _Unreadable as error:
            yield name, str(error)
    for name in sorted({name_of(key) for key, _ in measured_directions(store)} - set(store.names(FOLDER))):
        yield name, "it is not there"


def name_of(key: str) -> str:
    return f"{FOLDER}/{key}{_SUFFIX}"


def key_of_file(name: str) -> str:
    """The key of the measurement whose directions these are."""
    return PurePosixPath(name).name.removesuffix(_SUFFIX)


class _Unreadable(Exception):
    """What is wrong with a file's content."""


def _directions(content: bytes) -> Directions:
    """Raises _Unreadable."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors, facts = load(content), _facts(content)
        seal = facts.pop(_SEAL, None)
        changed = seal is not None and seal != hashlib.sha256(_content(tensors, facts)).hexdigest()
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Unreadable(short(error)) from None
    if changed:
        raise _Unreadable("its content is not as its digest says")
    whole = {kind: tensors[kind] for kind in Difference if kind in tensors}
    halves = {kind: (tensors[f"{kind}.0"], tensors[f"{kind}.1"]) for kind in Difference if f"{kind}.0" in tensors}
    return Directions(whole, halves, facts)


def _content(tensors: Mapping[str, Vectors], facts: Mapping[str, Any]) -> bytes:
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    return save(plain, {"facts": json.dumps(dict(facts), sort_keys=True)})


def measured_directions(store: Store) -> frozenset[tuple[str, Difference]]:
    """Which files are there, with which directions: by the rows of their measurements, whose keys are the files'."""
    kinds = {length_of(kind): kind for kind in Difference}
    found: set[tuple[str, Difference]] = set()
    for part in store.iter_parts(Kind.MEASUREMENTS, columns=["key", "measure"]):
        mine = part.filter(pc.is_in(part["measure"], value_set=pa.array(list(kinds))))
        rows = mine.group_by(["key", "measure"]).aggregate([]).to_pylist()
        found |= {(row["key"], kinds[row["measure"]]) for row in rows}
    return frozenset(found)


def length_of(kind: Difference) -> str:
    """The measure that a direction has wherever there is one: its length at a layer."""
    return f"{kind}_length"


def _facts(content: bytes) -> dict[str, Any]:
    """safetensors' own readers of metadata want a file: a header of JSON after its length in eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(json.loads(header["__metadata__"]["facts"]))
