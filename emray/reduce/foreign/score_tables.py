"""Tables of scores: csv, tsv, jsonl or parquet, a row per answer or a row per verdict.

Not for batch outputs. Invariant: a value that cannot be read is an error that names its row, never a default.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emray.errors import DataError
from emray.judge.parse import parse_reply
from emray.records import Arm, Condition, Metric, Outcome
from emray.reduce.foreign.answers import (
    ONE_QUESTION,
    ForeignAnswer,
    Imported,
    Judged,
    Origin,
    confounded,
    json_lines,
    judged_as,
)

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(path: Path) -> Imported:
    """One answer a row (columns `aligned`, `coherent`), or one verdict a row (columns `metric`, `score`).

    Other columns, all optional: domain, arm, condition, seed, question_id, question, answer, outcome, reply, judge,
    generation (names the answer that several verdict rows are about). A score cell may hold a word like REFUSAL.
    """
    rows = _table_rows(path)
    notes: dict[str, None] = {}
    by_name: dict[tuple[Any, ...], ForeignAnswer] = {}
    for number, row in rows:
        where = f"{path}:{number}"
        place, question = _row_place(row, where), str(row.get("question_id") or ONE_QUESTION)
        name = (place, question, row["generation"]) if row.get("generation") is not None else (place, question, number)
        text, prompt = row.get("answer"), row.get("question")
        answer = by_name.setdefault(name, ForeignAnswer(place, question, text=text, prompt=prompt))
        for metric, judged in _row_verdicts(row, where):
            answer.verdicts[metric] = judged
    for column, value in (("seed", "0"), ("question_id", ONE_QUESTION), ("domain", "unnamed")):
        if all(row.get(column) is None for _, row in rows):
            notes[f"The table has no column {column}: every answer counts as {column} {value}."] = None
    answers = list(by_name.values())
    return Imported(answers, tuple(notes | dict.fromkeys(confounded(answers))))


def _row_place(row: Mapping[str, Any], where: str) -> Origin:
    try:
        arm, condition = Arm(row.get("arm") or Arm.PLAIN), Condition(row.get("condition") or Condition.WITHOUT)
        seed = int(row.get("seed") or 0)
    except ValueError as error:
        raise DataError(f"{where}: {error}; arms are {', '.join(Arm)}, conditions {', '.join(Condition)}") from None
    domain = re.sub(r"[^a-z0-9_]+", "_", str(row.get("domain") or "unnamed").lower()).strip("_")
    return Origin(domain, arm, condition, seed)


def _row_verdicts(row: Mapping[str, Any], where: str) -> Iterator[tuple[Metric, Judged]]:
    judge = str(row.get("judge") or "unknown")
    if row.get("metric") is not None:
        try:
            metric = Metric(row["metric"])
        except ValueError:
            raise DataError(f"{where}: metric {row['metric']!r}; allowed: {', '.join(Metric)}") from None
        yield metric, _cell_verdict(row.get("score"), row.get("outcome"), row.get("reply"), judge, where)
        return
    found = [metric for metric in Metric if metric in row]
    if not found:
        raise DataError(f"{where}: needs columns metric and score, or aligned and coherent; has {', '.join(row)}")
    for metric in found:
        yield metric, _cell_verdict(row[metric], None, None, judge, where)


def _cell_verdict(score: Any, outcome: Any, reply: Any, judge: str, where: str) -> Judged:
    if outcome and outcome != Outcome.SCORED:
        if outcome not in set(Outcome):
            raise DataError(f"{where}: outcome {outcome!r}; allowed: {', '.join(Outcome)}")
        return Judged(Outcome(outcome), None, reply, judge)
    text = "" if score is None else f"{score:g}" if isinstance(score, float) else str(score)
    verdict = parse_reply(text)
    if isinstance(score, int | float) and verdict.outcome != Outcome.SCORED:
        raise DataError(f"{where}: score {score} is outside 0-100")
    return judged_as(verdict, reply or text or None, judge)


def _table_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line or row number, row) with missing values as None."""
    if path.suffix not in _SUFFIXES:
        raise DataError(f"{path}: a table ends in {', '.join(_SUFFIXES)}")
    if not path.exists():
        raise DataError(f"cannot read {path}: no such file")
    if path.suffix == ".jsonl":
        return list(json_lines(path))
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        else:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from None
    return list(enumerate(table.to_pylist(), start=1 if path.suffix == ".parquet" else 2))
