"""Keys as numbers: which stored rows a plan wants, looked up by the million.

Not for making keys (records/keys.py). Invariant: a key is wanted here exactly when the plan would sample it.
"""

import binascii
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.errors import StoreError
from emray.records import KEY_LENGTH, generation_keys
from emray.reduce.study import Study
from emray.stats.arrays import Ints

Numbers = NDArray[np.uint64]

_DIGITS = 16  # of a key's hexadecimal digits: 64 bits


class Wanted:
    """The generation keys of a plan as sorted numbers; of each, the group (study.py) and the index of its prompt."""

    def __init__(self, number: Numbers, *, group: Ints, prompt: Ints) -> None:
        order = np.argsort(number, kind="stable")
        self.number = number[order]
        self.group = group[order]
        self.prompt = prompt[order].astype(np.int32)

    @classmethod
    def of(cls, study: Study) -> "Wanted":
        """The keys of every sample the plan asks for."""
        sampling, samples = study.sweep.generate.identity(), range(study.sweep.generate.samples)
        keys, groups, prompts = [], [], []
        for index, cell in enumerate(study.cells):
            for place in study.own.of_arm[cell.arm]:
                prompt = study.prompts[place]
                prompts.append(place)
                keys.append("".join(generation_keys(cell.key, prompt=prompt.key, sampling=sampling, samples=samples)))
                groups.append(study.group(index, prompt))
        number = _numbers("".join(keys).encode())
        each, group = np.array(prompts, dtype=np.int64), np.array(groups, dtype=np.int64)
        return cls(number, group=np.repeat(group, len(samples)), prompt=np.repeat(each, len(samples)))

    def find(self, keys: pa.ChunkedArray) -> tuple[Ints, NDArray[np.bool_]]:
        """Position of each key, and which keys are wanted at all.

        Keys are hashes, hence evenly spread: their leading bits lead to a bucket of about one, walked from there. Three
        times faster than a binary search at five million.
        """
        number = key_numbers(keys)
        if len(self.number) == 0:
            return np.zeros(len(number), dtype=np.int64), np.zeros(len(number), dtype=bool)
        last = len(self.number) - 1
        position = np.minimum(self._starts[number >> self._shift], last)
        behind = np.flatnonzero(self.number[position] < number)
        while len(behind):
            position[behind] += 1
            behind = behind[position[behind] <= last]
            behind = behind[self.number[position[behind]] < number[behind]]
        position = np.minimum(position, last)
        return position, self.number[position] == number

    def prompt_at(self, position: Ints) -> Ints:
        """Index of the prompt of the keys at these positions; meaningless where a key was not found."""
        return self.prompt[position].astype(np.int64) if len(self.prompt) else np.zeros(len(position), dtype=np.int64)

    @cached_property
    def _shift(self) -> np.uint64:
        return np.uint64(64 - max(1, len(self.number).bit_length()))

    @cached_property
    def _starts(self) -> Ints:
        """Position of the first number of every bucket."""
        buckets = np.arange(1 << int(64 - self._shift), dtype=np.uint64) << self._shift
        return np.searchsorted(self.number, buckets)


def key_numbers(keys: pa.ChunkedArray) -> Numbers:
    """The first 64 bits of hexadecimal keys; two of ten million distinct keys coincide with probability 3e-6."""
    fixed = pc.cast(pc.cast(keys, pa.binary()), pa.binary(KEY_LENGTH)).combine_chunks()
    if len(fixed) == 0:
        return np.empty(0, dtype=np.uint64)
    start = fixed.offset * KEY_LENGTH
    return _numbers(memoryview(fixed.buffers()[1])[start : start + len(fixed) * KEY_LENGTH])


def _numbers(text: "bytes | memoryview") -> Numbers:
    digits = np.frombuffer(text, dtype=np.uint8).reshape(-1, KEY_LENGTH)[:, :_DIGITS]
    try:
        packed = binascii.unhexlify(np.ascontiguousarray(digits).tobytes())
    except binascii.Error:
        raise StoreError(f"a part holds keys that are not {KEY_LENGTH} hexadecimal digits") from None
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)
