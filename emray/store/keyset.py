"""Millions of keys as one sorted array of fixed-width bytes: 24 MB for 1.2 million, where a Python set takes 130.

Not for what the keys name. The invariant: sorted and distinct, and never changed after it was made.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KeyArray = npt.NDArray[np.bytes_]


class Keys(Set[str]):
    """A set of keys. Ask for many at once with `has`; `in` is for one."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._sorted = np.unique(key_array(pa.array(list(keys), pa.string())))

    @classmethod
    def of_columns(cls, columns: Iterable[pa.ChunkedArray]) -> Self:
        """The distinct values of columns of text, taken one column at a time."""
        made = cls()
        arrays = [np.unique(key_array(column)) for column in columns]
        if arrays:
            made._sorted = np.unique(np.concatenate(arrays))
        return made

    @property
    def num_bytes(self) -> int:
        return self._sorted.nbytes

    def without(self, others: "Keys") -> Self:
        """Those that are not among others."""
        left = type(self)()
        left._sorted = np.setdiff1d(self._sorted, others._sorted, assume_unique=True)
        return left

    def common(self, others: "Keys") -> Self:
        """Those that are among others too."""
        both = type(self)()
        both._sorted = np.intersect1d(self._sorted, others._sorted, assume_unique=True)
        return both

    def has(self, keys: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """For each key, whether it is here."""
        return self.places(keys) >= 0

    def places(self, keys: Sequence[str] | pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """For each key, its place in the order; -1 where it is not here."""
        wanted = key_array(keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys, pa.string()))
        if not len(self._sorted):
            return np.full(len(wanted), -1)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[places] == wanted, places, -1)

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
