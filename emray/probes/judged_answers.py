"""A cell's answers to some prompts with both of their scores, read from the store part by part.

Not for what a score means. The invariant: an answer counts once, and only if the sweep's own judge has scored it on
both metrics; memory is that of one part and of the cell's own answers.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from emray.records import Message, Messages, Metric
from emray.store import Kind, Store


class JudgedAnswer(NamedTuple):
    """One answer, the chat up to and with it, and its scores (0-100)."""

    key: str
    chat: Messages
    aligned: float
    coherent: float


def judged_answers(store: Store, *, adapter: str, prompts: Sequence[str], judge: str) -> list[JudgedAnswer]:
    """In the order of their keys; `judge` is the key of its settings."""
    answers = {row["key"]: row for row in _answers(store, adapter, prompts)}
    scores: dict[str, dict[str, float]] = {key: {} for key in answers}
    for row in _scores(store, pa.array(list(answers), pa.string()), judge):
        scores[row["generation"]][row["metric"]] = row["score"]
    return [
        JudgedAnswer(key, _chat(answers[key]), found[Metric.ALIGNED], found[Metric.COHERENT])
        for key, found in sorted(scores.items())
        if {Metric.ALIGNED, Metric.COHERENT} <= found.keys()
    ]


def _answers(store: Store, adapter: str, prompts: Sequence[str]) -> Iterator[dict[str, Any]]:
    asked = pa.array(prompts, pa.string())
    for part in store.iter_parts(Kind.GENERATIONS, columns=["key", "adapter", "prompt", "answer"]):
        mine = pc.and_(pc.equal(part["adapter"], adapter), pc.is_in(part["prompt"], value_set=asked))
        yield from part.filter(pc.and_(mine, pc.is_valid(part["answer"]))).to_pylist()


def _scores(store: Store, keys: pa.Array, judge: str) -> Iterator[dict[str, Any]]:
    for part in store.iter_parts(Kind.VERDICTS, columns=["generation", "metric", "score", "judge_key"]):
        mine = pc.and_(pc.is_in(part["generation"], value_set=keys), pc.equal(part["judge_key"], judge))
        yield from part.filter(pc.and_(mine, pc.is_valid(part["score"]))).to_pylist()


def _chat(row: dict[str, Any]) -> Messages:
    prompt = tuple(Message(*turn) for turn in json.loads(row["prompt"]))
    return (*prompt, Message("assistant", row["answer"]))
