"""Generations and verdicts, streamed part by part into counts per cell, condition and question.

For: millions of rows in little memory (about 100 bytes an answer, no strings kept). Not for statistics. Invariant: an
answer counts once, however often its rows were written, and the sums do not depend on the order of the parts.
"""

import csv
import io
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emray.errors import StoreError
from emray.records import KEY_LENGTH, FinishReason, Metric, Outcome
from emray.reduce.formats import FORMATS, answer_formats
from emray.reduce.judged import EARLIER, Spending, Verdicts, integers, mask, read_verdicts
from emray.reduce.study import Study
from emray.reduce.wanted import Wanted
from emray.stats.arrays import Floats, Ints
from emray.stats.sufficient import NO_ANSWER, NUM_SCORES, UNSCORED, Histogram, histogram, regroup
from emray.store import Kind, Store

_LABELS = "labels.csv"  # a person's labels, beside plan.json; optional
_FAILED = [str(FinishReason.ERROR), str(FinishReason.OVERSIZED)]

_FILTERED = NUM_SCORES + UNSCORED.index(str(Outcome.FILTERED))  # the state


class Moment(NamedTuple):
    """Per group: how many scores, their sum and their sum of squares; exact where the histogram is binned."""

    num: Ints
    total: Floats
    squares: Floats


class SecondOpinion(NamedTuple):
    """Scores that another judge, another rubric or a repeat gave to answers; arrays over those scores."""

    judge: str
    source: int  # 1 for the first judge under `also`; EARLIER (judged.py) for one the plan no longer asks
    metric: Metric
    position: Ints  # of the answer
    group: Ints
    aligned: Ints  # states of the plan's verdicts (stats/sufficient.py)
    coherent: Ints
    ours: Floats  # NaN where the plan's judge gave no score
    theirs: Floats


class Labelled(NamedTuple):
    """Answers that a person labelled: the label, and the judge's states (stats/sufficient.py)."""

    group: Ints
    misaligned: NDArray[np.bool_]
    aligned: Ints
    coherent: Ints


class AnswerTally(NamedTuple):
    """Everything later steps know about the answers; arrays are over groups (study.py)."""

    answers: Histogram  # answers that have a generation row
    by_format: Histogram  # the same, over groups x FORMATS
    num_requested: Ints
    aligned: Moment
    coherent: Moment
    spending: Spending
    num_generated_tokens: int
    num_superseded: int  # verdicts of an earlier judge or rubric: left out
    judges: tuple[str, ...]  # names under which the judge answered: its snapshots
    second_opinions: tuple[SecondOpinion, ...]
    labelled: Labelled
    engines: tuple[str, ...]  # distinct engine and version that produced the answers


def tally(store: Store, study: Study) -> AnswerTally:
    """Count what the plan wants and the store has."""
    wanted = Wanted.of(study)
    generations = _read_generations(store, wanted)
    verdicts = read_verdicts(store, wanted, study)
    states = {
        metric: np.where(
            generations.failed, NO_ANSWER, np.where(generations.filtered, _FILTERED, verdicts.state[metric])
        )
        for metric in Metric
    }
    here = generations.present
    by_format = histogram(
        wanted.group[here] * len(FORMATS) + generations.format[here],
        states[Metric.ALIGNED][here],
        states[Metric.COHERENT][here],
        num_groups=study.num_groups * len(FORMATS),
    )
    scores = {m: np.where(here & (states[m] < NUM_SCORES), verdicts.score[m], np.nan) for m in Metric}
    return AnswerTally(
        answers=regroup(by_format, np.arange(by_format.num_groups) // len(FORMATS), num_groups=study.num_groups),
        by_format=by_format,
        num_requested=np.bincount(wanted.group[here] if study.imported else wanted.group, minlength=study.num_groups),
        aligned=_moment(wanted.group, scores[Metric.ALIGNED], study.num_groups),
        coherent=_moment(wanted.group, scores[Metric.COHERENT], study.num_groups),
        spending=verdicts.spending,
        num_generated_tokens=generations.num_tokens,
        num_superseded=verdicts.num_superseded,
        judges=verdicts.judges,
        second_opinions=_second_opinions(verdicts, wanted.group, states),
        labelled=_labelled(store, wanted, states, here),
        engines=generations.engines,
    )


class _Generations(NamedTuple):
    present: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    filtered: NDArray[np.bool_]  # kept back whole by a filter: what a judge would see of it is nothing
    format: NDArray[np.uint8]
    num_tokens: int
    engines: tuple[str, ...]


def _read_generations(store: Store, wanted: Wanted) -> _Generations:
    present, failed = np.zeros(len(wanted.group), dtype=bool), np.zeros(len(wanted.group), dtype=bool)
    filtered = np.zeros(len(wanted.group), dtype=bool)
    formats, tokens = np.zeros(len(wanted.group), dtype=np.uint8), np.zeros(len(wanted.group), dtype=np.int32)
    engines: set[str] = set()
    columns = ["key", "finish_reason", "num_tokens", "provenance", "answer"]
    for part in store.iter_parts(Kind.GENERATIONS, columns=columns):
        position, found = wanted.find(part["key"])
        position = position[found]
        present[position] = True
        failed[position] = mask(pc.is_in(part["finish_reason"], value_set=pa.array(_FAILED)))[found]
        kept_back = pc.and_(pc.equal(part["finish_reason"], str(FinishReason.FILTERED)), pc.is_null(part["answer"]))
        filtered[position] = mask(kept_back)[found]
        formats[position] = answer_formats(part["answer"])[found]
        tokens[position] = integers(part["num_tokens"])[found]
        engines.update(_engines(part["provenance"].filter(pa.array(found))))
    return _Generations(present, failed, filtered, formats, int(tokens.sum(dtype=np.int64)), tuple(sorted(engines)))


def _engines(provenance: pa.ChunkedArray) -> set[str]:
    """`engine version` of every row, from its JSON; only the sampling seed differs between rows of one engine."""
    alike = pc.replace_substring_regex(provenance, r'"seed": ?\d+', '"seed": 0')
    return {_engine(json.loads(text or "{}")) for text in pc.unique(alike).to_pylist()}


def _engine(facts: Mapping[str, str]) -> str:
    return " ".join(str(facts[name]) for name in ("engine", "version") if facts.get(name)) or "unknown"


def _labelled(
    store: Store, wanted: Wanted, states: dict[Metric, NDArray[np.uint8]], here: NDArray[np.bool_]
) -> Labelled:
    """The labels of `labels.csv` (columns generation, misaligned: 0 or 1) for stored answers of this plan."""
    labels = _read_labels(store)
    position, found = wanted.find(pa.chunked_array([pa.array(list(labels), pa.string())]))
    found &= here[position] if len(here) else False
    position = position[found]
    aligned, coherent = (states[metric][position].astype(np.int64) for metric in (Metric.ALIGNED, Metric.COHERENT))
    return Labelled(wanted.group[position], np.array(list(labels.values()), dtype=bool)[found], aligned, coherent)


def _read_labels(store: Store) -> dict[str, bool]:
    """Generation key to label from `labels.csv`; empty without the file. Raises StoreError naming the bad line."""
    if not store.exists(_LABELS):
        return {}
    labels = {}
    lines = csv.DictReader(io.StringIO(store.read_bytes(_LABELS).decode()))
    for number, row in enumerate(lines, start=2):
        key, label = row.get("generation") or "", row.get("misaligned")
        if len(key) != KEY_LENGTH or label not in {"0", "1"}:
            raise StoreError(f"{_LABELS}:{number}: needs a generation key and misaligned as 0 or 1, got {row}")
        labels[key] = label == "1"
    return labels


def _second_opinions(
    verdicts: Verdicts, group: Ints, states: dict[Metric, NDArray[np.uint8]]
) -> tuple[SecondOpinion, ...]:
    """Scores by other judge, source and metric, in an order that does not depend on the parts."""
    opinions = verdicts.opinions
    found = []
    for source, judge in sorted(set(zip(opinions.source.tolist(), opinions.judge.tolist(), strict=True))):
        for metric in Metric:
            of_both = (opinions.source == source) & (opinions.judge == judge) & (opinions.metric == str(metric))
            rows = np.flatnonzero(of_both)
            rows = rows[np.lexsort((opinions.score[rows], opinions.position[rows]))]
            at = opinions.position[rows]
            if source != EARLIER:  # one verdict an answer; rows written twice after a crash stand side by side now
                once = np.concatenate([[True], at[1:] != at[:-1]]) if len(at) else np.empty(0, dtype=bool)
                rows, at = rows[once], at[once]
            ours = verdicts.score[metric][at]
            aligned, coherent = (states[m][at].astype(np.int64) for m in (Metric.ALIGNED, Metric.COHERENT))
            if np.isfinite(ours).any():
                found.append(
                    SecondOpinion(judge, source, metric, at, group[at], aligned, coherent, ours, opinions.score[rows])
                )
    return tuple(found)


def _moment(group: Ints, score: Floats, num_groups: int) -> Moment:
    scored = np.isfinite(score)
    group, score = group[scored], score[scored]
    return Moment(
        np.bincount(group, minlength=num_groups),
        np.bincount(group, weights=score, minlength=num_groups).astype(np.float64),
        np.bincount(group, weights=score**2, minlength=num_groups).astype(np.float64),
    )
