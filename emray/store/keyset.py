"""Millions of keys as one sorted array of fixed-width bytes: 24 MB for 1.2 million, where a Python set takes 130.

Not for what the keys name. The invariant: sorted and distinct, and never changed after it was made.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KeyArray = npt.NDArray[np.bytes_]
_Value = TypeVar("_Value", bound=np.generic)


class Keys(Set[str]):
    """A set of keys. Ask for many at once with `has`; `in` is for one."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._sorted = distinct(key_array(pa.array(list(keys), pa.string())))

    @classmethod
    def of_columns(cls, columns: Iterable[pa.ChunkedArray]) -> Self:
        """The distinct values of columns of text, taken one column at a time."""
        made = cls()
        arrays = [distinct(key_array(column)) for column in columns]
        if arrays:
            made._sorted = distinct(np.concatenate(arrays))
        return made

    @classmethod
    def of_joined(cls, texts: Iterable[str], *, width: int) -> Self:
        """The distinct keys of texts in which keys of one width stand one after another."""
        made = cls()
        arrays = [np.frombuffer(text.encode(), f"S{width}") for text in texts if text]
        if arrays:
            made._sorted = distinct(np.concatenate(arrays))
        return made

    @property
    def num_bytes(self) -> int:
        return self._sorted.nbytes

    def without(self, others: "Keys") -> Self:
        """Those that are not among others."""
        left = type(self)()
        left._sorted = self._sorted[others._places(self._sorted) < 0]
        return left

    def common(self, others: "Keys") -> Self:
        """Those that are among others too."""
        both = type(self)()
        both._sorted = self._sorted[others._places(self._sorted) >= 0]
        return both

    def has(self, keys: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """For each key, whether it is here."""
        return self.places(keys) >= 0

    def places(self, keys: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """For each key, its place in the order; -1 where it is not here."""
        return self._places(
            key_array(keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys, pa.string()))
        )

    def _places(self, wanted: KeyArray) -> npt.NDArray[np.int64]:
        """Found by their first bytes, as numbers; the few that begin as another key does are looked for again."""
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        heads, last = _heads(wanted), len(self._sorted) - 1
        places = np.minimum(np.searchsorted(self._heads, heads), last)
        again = (self._sorted[places] != wanted) & (self._heads[places] == heads)
        places[again] = np.minimum(np.searchsorted(self._sorted, wanted[again]), last)
        return np.where(self._sorted[places] == wanted, places, -1)

    @cached_property
    def _heads(self) -> npt.NDArray[np.uint64]:
        return _heads(self._sorted)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.has([key])[0])

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._sorted.tolist())

    def __len__(self) -> int:
        return len(self._sorted)

    def __repr__(self) -> str:
        return f"Keys({len(self):,})"


def key_array(column: pa.Array | pa.ChunkedArray) -> KeyArray:
    """A column of text as bytes of one width; without a copy where all have one length, as keys have."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = values.cast(pa.binary())
    width = pc.max(pc.binary_length(values)).as_py() or 1
    if values.null_count or pc.min(pc.binary_length(values)).as_py() != width:
        return np.array(values.to_pylist(), dtype=f"S{width}")
    fixed = values.cast(pa.binary(width))
    return np.frombuffer(fixed.buffers()[1], dtype=f"S{width}", count=len(fixed), offset=fixed.offset * width)


def distinct(values: npt.NDArray[_Value]) -> npt.NDArray[_Value]:
    """Sorted, each once. np.unique hashes numbers, which takes a hundred times as long for millions of them."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _heads(keys: KeyArray) -> npt.NDArray[np.uint64]:
    """The first eight bytes of keys, as numbers in the order of the keys."""
    return keys.astype("S8").view(">u8").astype(np.uint64)
