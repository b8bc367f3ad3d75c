"""What has to be judged: every (generation, metric) that the store has no verdict for, judge by judge.

Not for asking (stage.py). Light: the dry run and a no-op rerun come through here. The invariant: what is there is
found by stored columns (generation, metric, asked, judge_key), so that only what is missing is ever rendered.
"""

from collections.abc import Iterator, Set
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.data import Inquiries
from emray.judge.tasks import JudgeTask, asked_about, inquiries_of, judgeable, judges, task_of
from emray.records import Metric, Outcome, judge_key
from emray.spec import JudgeSpec
from emray.store import Keys, Kind, Store, distinct, key_array

Numbers = NDArray[np.uint64]
Mask = NDArray[np.bool_]

_ANSWERS = ["key", "question_id", "prompt", "answer"]
_VERDICTS = ["generation", "metric", "asked", "judge_key", "outcome"]


def missing(
    store: Store, *, inquiries: Inquiries, spec: JudgeSpec, generations: Set[str], retry_failed: bool = False
) -> "Unjudged":
    """Tasks for the answers of `generations` (keys) without a verdict, by the sweep's judge and those under `also`.

    Answers that failed or are empty are not judged. With `retry_failed`, an `api_error` is no verdict.
    """
    return Unjudged(store, inquiries=inquiries, spec=spec, generations=generations, retry_failed=retry_failed)


class Unjudged:
    """The tasks without a verdict: counted without rendering one, and read part by part whenever they are walked."""

    def __init__(
        self, store: Store, *, inquiries: Inquiries, spec: JudgeSpec, generations: Set[str], retry_failed: bool = False
    ) -> None:
        self._store, self._inquiries, self._judges = store, inquiries, judges(spec)
        self._wanted = generations if isinstance(generations, Keys) else Keys(generations)
        self._retry_failed = retry_failed

    def __len__(self) -> int:
        return self._counts[0]

    @property
    def num_judged(self) -> int:
        """Verdicts that are wanted and there."""
        return self._counts[1]

    def __iter__(self) -> Iterator[JudgeTask]:
        """Judge by judge. Raises StoreError for an answer to a prompt that the sweep does not have."""
        for number, spec in enumerate(self._judges):
            for part, lacking in self._lacking(number):
                some = np.logical_or.reduce(list(lacking.values()))
                rows = part.filter(pa.array(some)).to_pylist()
                for row, *missing in zip(rows, *(lacking[m][some] for m in spec.metrics), strict=True):
                    asked = self._inquiries[row["prompt"]]
                    for metric in (m for m, absent in zip(spec.metrics, missing, strict=True) if absent):
                        yield task_of(row, asked[metric], metric=metric, spec=spec, judge=number)

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Verdicts that are missing, and those that are there."""
        masks = [
            (int(mask.sum()), len(mask))
            for number in range(len(self._judges))
            for _, lacking in self._lacking(number)
            for mask in lacking.values()
        ]
        missing = sum(number for number, _ in masks)
        return missing, sum(whole for _, whole in masks) - missing

    @cached_property
    def _there(self) -> Numbers:
        """Every verdict that counts, as a sorted number."""
        found = [np.empty(0, np.uint64)]
        for part in self._store.iter_parts(Kind.VERDICTS, columns=_VERDICTS):
            if self._retry_failed:
                part = part.filter(pc.not_equal(part["outcome"], str(Outcome.API_ERROR)))
            found.append(_marks(*(_numbers(part[name]) for name in _VERDICTS[:4])))
        return distinct(np.concatenate(found))

    def _lacking(self, number: int) -> Iterator[tuple[pa.Table, dict[Metric, Mask]]]:
        """Parts of the wanted answers that can be judged; by metric, those without a verdict of this judge."""
        spec, once = self._judges[number], _Once(self._wanted)
        judge = _numbers(pa.array([judge_key(spec.identity())]))
        for whole in self._store.iter_parts(Kind.GENERATIONS, columns=_ANSWERS):
            part = judgeable(whole.filter(pa.array(once.new(whole["key"]))), share=spec.share)
            part = asked_about(part, self._inquiries, where=self._store.root)
            if part.num_rows == 0:
                continue
            generation = _numbers(part["key"])
            prompts = part["prompt"].combine_chunks().dictionary_encode()
            inquiries = inquiries_of(part, self._inquiries, where=self._store.root)
            lacking = {}
            for metric in spec.metrics:
                asked = _numbers(pa.array([inquiries[p][metric].key for p in prompts.dictionary.to_pylist()]))
                marks = _marks(generation, _numbers(pa.array([str(metric)])), asked[prompts.indices.to_numpy()], judge)
                lacking[metric] = ~_among(marks, self._there)
            yield part, lacking


class _Once:
    """Wanted answers, each taken the first time it comes by: after a crash a row may stand in two parts."""

    def __init__(self, wanted: Keys) -> None:
        self._wanted, self._taken = wanted, np.zeros(len(wanted), bool)

    def new(self, keys: pa.ChunkedArray) -> Mask:
        place = self._wanted.places(keys)
        new = (place >= 0) & ~self._taken[place] if len(self._taken) else np.zeros(len(place), bool)
        self._taken[place[new]] = True
        return new


def _among(numbers: Numbers, ordered: Numbers) -> Mask:
    if not len(ordered):
        return np.zeros(len(numbers), bool)
    place = np.minimum(np.searchsorted(ordered, numbers), len(ordered) - 1)
    return np.asarray(ordered[place] == numbers)


def _marks(generation: Numbers, metric: Numbers, asked: Numbers, judge: Numbers) -> Numbers:
    """One number for what a verdict is of: two of ten million coincide with probability 3e-6."""
    return _mixed(_mixed(_mixed(_mixed(generation) + metric) + asked) + judge)


def _numbers(column: pa.Array | pa.ChunkedArray) -> Numbers:
    """Texts as 64-bit numbers, whatever their length; null is the empty text."""
    chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = pc.fill_null(chunk, "").dictionary_encode()
    texts = key_array(encoded.dictionary)
    num_words = -(-max(1, texts.dtype.itemsize) // 8)
    words = texts.astype(f"S{8 * num_words}").view(np.uint64).reshape(len(texts), num_words)
    factors = np.cumprod(np.full(num_words, _ODD, np.uint64), dtype=np.uint64)
    return _mixed((words * factors).sum(axis=1, dtype=np.uint64))[encoded.indices.to_numpy()]


_ODD = np.uint64(0x9E3779B97F4A7C15)  # constants of splitmix64 (Steele, Lea and Flood 2014)


def _mixed(numbers: Numbers) -> Numbers:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
