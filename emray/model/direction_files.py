"""Directions in a model's residual stream, as files of the store: directions/<key>.safetensors.

    data, model            [L, H] float32: a direction per layer, where there is one (see Difference)
    data.0, data.1, ...    the same from either half of the answers, for what noise alone would leave of an agreement

Not for computing them (probes/). The invariant: a file is whole or absent, equal directions give equal bytes, and one
that could not be computed is a file that says why.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.errors import StageError
from emray.records import Difference
from emray.store import Kind, Store

FOLDER = "directions"
_SUFFIX = ".safetensors"
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
    from safetensors.numpy import save

    tensors = {str(kind): vectors for kind, vectors in directions.whole.items()}
    for kind, halves in directions.halves.items():
        tensors |= {f"{kind}.{number}": half for number, half in enumerate(halves)}
    facts = json.dumps(dict(directions.facts), sort_keys=True)
    content = save({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, {"facts": facts})
    store.write_bytes(f"{FOLDER}/{key}{_SUFFIX}", content)


def read_directions(store: Store, key: str) -> Directions:
    """Raises FileNotFoundError."""
    from safetensors.numpy import load

    content = store.read_bytes(f"{FOLDER}/{key}{_SUFFIX}")
    tensors = load(content)
    whole = {kind: tensors[kind] for kind in Difference if kind in tensors}
    halves = {kind: (tensors[f"{kind}.0"], tensors[f"{kind}.1"]) for kind in Difference if f"{kind}.0" in tensors}
    return Directions(whole, halves, _facts(content))


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


def _facts(content: bytes) -> Mapping[str, Any]:
    """safetensors' own readers of metadata want a file: a header of JSON after its length in eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(json.loads(header["__metadata__"]["facts"]))
