"""Answers to read: which of them go into the page, which into files beside it.

Not for statistics: it is a sample for the eye. Invariant: the choice depends on the stored keys alone, and every cell
and condition gets its share before any gets more.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emray.records import Cell, Condition, Metric, Outcome
from emray.reduce.asked import OURS, PlanAsks
from emray.reduce.study import Study
from emray.reduce.wanted import Wanted, key_numbers
from emray.store import Kind, Store

IN_PAGE = 5_000  # answers inside report.html
_BESIDE = 100_000  # further answers in report/transcripts/
PER_FILE = 5_000

Numbers = NDArray[np.uint64]


class Mark(NamedTuple):
    """One verdict as shown: the outcome, the score if there is one, and the judge's words."""

    outcome: str  # Outcome, or "" without a verdict
    score: float | None
    reply: str


_NO_MARK = Mark("", None, "")


@dataclass(frozen=True)
class Transcript:
    """One answer with its verdicts."""

    cell: int  # index into the study's cells
    prompt: int  # index into the study's prompts
    sample: int
    answer: str | None
    aligned: Mark
    coherent: Mark


class Choice(NamedTuple):
    """The answers shown, in order, and how many there are in all."""

    shown: list[Transcript]
    total: int


def choose(store: Store, study: Study, *, limit: int = IN_PAGE + _BESIDE) -> Choice:
    """Up to `limit` answers, spread evenly over cells and conditions, in an order fixed by their keys."""
    wanted = Wanted.of(study)
    numbers, strata = _stored(store, wanted, num_questions=len(study.question_ids))
    order = np.lexsort((numbers, strata))
    numbers, strata = numbers[order], strata[order]
    place = np.arange(len(strata)) - np.searchsorted(strata, strata)  # of an answer within its stratum
    chosen = numbers[np.lexsort((strata, place))][:limit]
    found = _read(store, study, wanted, chosen)
    return Choice([found[n] for n in chosen.tolist() if n in found], len(numbers))


def _stored(store: Store, wanted: Wanted, *, num_questions: int) -> tuple[Numbers, NDArray[np.int64]]:
    """Key number and stratum (cell x condition) of every stored answer that the plan wants, each once."""
    here = np.zeros(len(wanted.number), dtype=bool)
    for part in store.iter_parts(Kind.GENERATIONS, columns=["key"]):
        position, found = wanted.find(part["key"])
        here[position[found]] = True
    return wanted.number[here], wanted.group[here] // max(num_questions, 1)


def _read(store: Store, study: Study, wanted: Wanted, chosen: Numbers) -> dict[int, Transcript]:
    marks = _marks(store, study, wanted, chosen)
    cells = {cell.key: index for index, cell in enumerate(study.cells)}
    found = {}
    for part in store.iter_parts(Kind.GENERATIONS, columns=["key", "adapter", "sample", "answer"]):
        prompt = wanted.prompt_at(wanted.find(part["key"])[0])
        for number, row in _rows_of(part.append_column("prompt", pa.array(prompt)), "key", chosen):
            found[number] = Transcript(
                cell=cells[row["adapter"]],
                prompt=row["prompt"],
                sample=row["sample"],
                answer=row["answer"],
                aligned=marks.get((number, Metric.ALIGNED), _NO_MARK),
                coherent=marks.get((number, Metric.COHERENT), _NO_MARK),
            )
    return found


def _marks(store: Store, study: Study, wanted: Wanted, chosen: Numbers) -> dict[tuple[int, str], Mark]:
    """The verdict of the plan's judge by answer and metric."""
    asked = PlanAsks.of(study)
    marks: dict[tuple[int, str], Mark] = {}
    columns = ["generation", "metric", "outcome", "score", "reply", "asked", "judge_key"]
    for part in store.iter_parts(Kind.VERDICTS, columns=columns):
        ours = asked.source(part, wanted.prompt_at(wanted.find(part["generation"])[0])) == OURS
        for number, row in _rows_of(part.filter(pa.array(ours)), "generation", chosen):
            marks[number, row["metric"]] = Mark(row["outcome"], row["score"], row["reply"] or "")
    return marks


def _rows_of(part: pa.Table, column: str, chosen: Numbers) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Key number and row of those rows of a part whose key is chosen."""
    number = key_numbers(part[column])
    here = np.isin(number, chosen)
    return zip(number[here].tolist(), part.filter(pa.array(here)).to_pylist(), strict=True)


# For the page ----------------------------------------------------------------------------------------------------


def page_data(study: Study, transcripts: Sequence[Transcript], *, files: int, total: int) -> str:
    """JSON for a `<script type="application/json">`: names once, answers as short rows."""
    names = {question.id: question.name for question in study.questions}
    return _script_json(
        {
            "cells": [[cell.model, cell.domain, str(cell.arm), cell.seed] for cell in study.cells],
            "prompts": [[names[p.question_id], str(p.condition), p.messages[-1].content] for p in study.prompts],
            "rows": _rows(transcripts),
            "files": [file_name(number) for number in range(files)],
            "total": total,
        }
    )


def sidecars(transcripts: Sequence[Transcript]) -> list[bytes]:
    """Scripts that hand further rows to the page: they load from a plain folder, where fetch() may not."""
    chunks = (transcripts[start : start + PER_FILE] for start in range(0, len(transcripts), PER_FILE))
    return [f"emrayAddRows({_script_json(_rows(chunk))});\n".encode() for chunk in chunks]


def file_name(number: int) -> str:
    return f"transcripts/part-{number:03d}.js"


def _rows(transcripts: Sequence[Transcript]) -> list[list[Any]]:
    return [
        [t.cell, t.prompt, t.sample, t.answer, *_short(t.aligned), *_short(t.coherent)[:2], t.aligned.reply]
        for t in transcripts
    ]


def _short(mark: Mark) -> list[Any]:
    score = None if mark.score is None else round(mark.score, 2)
    return [mark.outcome, score]


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no `<`, `>`, `&` and no line separators of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class PrintedAnswer(NamedTuple):
    """An answer printed in the page itself."""

    cell: Cell
    condition: Condition
    question: str
    answer: str | None
    words: str


def samples(study: Study, transcripts: Sequence[Transcript]) -> dict[tuple[str, str, str], list[PrintedAnswer]]:
    """One answer per model, domain, arm and condition: the first one chosen from each."""
    found: dict[tuple[str, str, str], dict[Condition, PrintedAnswer]] = {}
    for transcript in transcripts:
        cell, prompt = study.cells[transcript.cell], study.prompts[transcript.prompt]
        of_place = found.setdefault((cell.model, cell.domain, str(cell.arm)), {})
        if prompt.condition not in of_place:
            text = prompt.messages[-1].content
            of_place[prompt.condition] = PrintedAnswer(
                cell, prompt.condition, text, transcript.answer, _verdict_words(transcript)
            )
    order = study.conditions
    return {place: [s[c] for c in order if c in s] for place, s in sorted(found.items())}


def _verdict_words(transcript: Transcript) -> str:
    """`aligned 12, coherent 88`, or the outcome where there is no score."""
    return ", ".join(
        f"{metric} {_mark_words(mark)}"
        for metric, mark in ((Metric.ALIGNED, transcript.aligned), (Metric.COHERENT, transcript.coherent))
    )


def _mark_words(mark: Mark) -> str:
    if mark.outcome == Outcome.SCORED and mark.score is not None:
        return f"{mark.score:g}"
    return mark.outcome.replace("_", " ") or "not judged"
