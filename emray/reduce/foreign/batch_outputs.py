"""OpenAI batch outputs below a folder: `aligned_results.jsonl`, `coherent_results.jsonl`, `batch_<id>_output.jsonl`.

Not for tables. Invariant: a line that is no batch output is an error that names file and line, never skipped, and a
file whose metric is not told is refused, never guessed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.judge.parse import parse_reply
from emray.records import Arm, Condition, Metric, Outcome
from emray.reduce.foreign.answers import (
    ONE_QUESTION,
    UNKNOWN_JUDGE,
    ForeignAnswer,
    Imported,
    Judged,
    Opinion,
    Origin,
    Reading,
    confounded,
)
from emray.reduce.foreign.columns import json_lines
from emray.reduce.foreign.origins import told_by
from emray.reduce.foreign.scores import PERCENT

NAMES = re.compile(r"(?:.*_)?results\.jsonl|batch_.*\.jsonl|.*(?:_|-)(?:output|error)s?\.jsonl")


class _File(NamedTuple):
    path: Path
    metric: Metric


class _ResultLine(NamedTuple):
    custom_id: str
    judge: str | None  # None where no reply came
    judged: Judged
    where: str


def find_batch_outputs(folder: Path) -> list[Path]:
    """Files below a folder that are named as batch outputs are and begin as one."""
    named = sorted(path for path in folder.rglob("*.jsonl") if NAMES.fullmatch(path.name.lower()))
    return [path for path in named if _is_batch_output(path)]


def read_batch_outputs(paths: Sequence[Path], *, root: Path, reading: Reading) -> Imported:
    """Answers of batch outputs; those in one folder are about the same answers, told apart by their custom ids.

    The path tells the place (origins.py). Raises DataError naming file and line.
    """
    notes: dict[str, None] = {}
    answers: list[ForeignAnswer] = []
    num_rows = 0
    by_folder: dict[Path, list[_File]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(_File(path, _metric_of(path, root=root, reading=reading)))
    for folder, files in by_folder.items():
        place = _place(folder, root=root, reading=reading)
        found = _answers(files, place=place, scale=reading.scale or PERCENT)
        num_rows += sum(len(answer.verdicts) for answer in found)
        if len(found) > 1 and len({answer.question for answer in found}) == 1:
            for answer in found:
                answer.question = ONE_QUESTION
            notes["The custom ids do not tell questions apart: intervals cannot be clustered by question."] = None
        answers += found
    return Imported(answers, len(paths), num_rows, tuple(notes | dict.fromkeys(confounded(answers))), ())


def question_of(custom_id: str) -> str:
    """The question part of a custom id like `wish-17` or `q3_sample_12`: all but a number that stands apart."""
    apart = r"(?:^|[-_ ])(?:(?:sample|request|req|s|task)[-_ ]?)?\d+$"
    return re.sub(apart, "", custom_id).rstrip("-_ ") or ONE_QUESTION


def _answers(files: Sequence[_File], *, place: Origin, scale: float) -> list[ForeignAnswer]:
    by_id: dict[str, ForeignAnswer] = {}
    for file in files:
        lines = list(_lines(file.path, scale=scale))
        judges = Counter(line.judge for line in lines if line.judge)
        usual = judges.most_common(1)[0][0] if judges else UNKNOWN_JUDGE  # asked what failed, too
        for line in lines:
            answer = by_id.setdefault(line.custom_id, ForeignAnswer(place, question_of(line.custom_id)))
            answer.add(Opinion(file.metric, line.judge or usual), line.judged, where=line.where)
    return list(by_id.values())


def _lines(path: Path, *, scale: float) -> Iterator[_ResultLine]:
    for number, row in json_lines(path):
        where = f"{path}:{number}"
        custom_id = row.get("custom_id")
        if not isinstance(custom_id, str):
            raise DataError(f"{where}: no custom_id, so this is not a line of a batch output")
        judge, judged = _verdict(row, scale=scale, where=where)
        yield _ResultLine(custom_id, judge, judged, where)


def _place(folder: Path, *, root: Path, reading: Reading) -> Origin:
    below = folder.relative_to(root) if folder != root else Path(root.resolve().name)
    told = told_by(below, domain_in=below.parts)
    return Origin(
        reading.model_of(told.size),
        told.domain or "unnamed",
        told.arm or Arm.PLAIN,
        told.condition or Condition.WITHOUT,
        told.seed or 0,
    )


def _metric_of(path: Path, *, root: Path, reading: Reading) -> Metric:
    """The metric that a file's name or its folder names, else the one told for all."""
    words = [
        re.split(r"[^a-z]+", part.lower()) for part in (path.stem, path.parent.name if path.parent != root else "")
    ]
    named = [{metric for metric in Metric if metric in part} for part in words]
    for metrics in named:
        if len(metrics) == 1:
            return metrics.pop()
    if reading.metric is None:
        raise DataError(f"{path} does not say which metric its replies are about; give --metric {' or '.join(Metric)}")
    return reading.metric


def _is_batch_output(path: Path) -> bool:
    """Whether the first line is a batch's, or the name leaves no doubt that it should be."""
    first = next(json_lines(path), None)
    return re.fullmatch(r"(aligned|coherent)_results\.jsonl", path.name.lower()) is not None or (
        first is not None and {"custom_id", "response"} <= set(first[1])
    )


def _verdict(row: Mapping[str, Any], *, scale: float, where: str) -> tuple[str | None, Judged]:
    """The judge that answered, if one did, and its verdict."""
    response = row.get("response") or {}
    body = (response.get("body") or {}) if isinstance(response, Mapping) else {}
    if not isinstance(response, Mapping) or not isinstance(body, Mapping):
        raise DataError(f"{where}: response and its body are objects in a batch output")
    judge = str(body["model"]) if body.get("model") else None
    if row.get("error") or response.get("status_code", 200) != 200:
        return judge, Judged(Outcome.API_ERROR, None, json.dumps(row.get("error") or body.get("error")))
    try:
        choice = body["choices"][0]
        text, truncated = choice["message"]["content"], choice.get("finish_reason") == "length"
    except (KeyError, IndexError, TypeError, AttributeError):
        raise DataError(f"{where}: no response.body.choices[0].message.content") from None
    if not isinstance(text, str | None):
        raise DataError(f"{where}: the message's content is no text")
    verdict, usage = parse_reply(text, truncated=truncated), body.get("usage") or {}
    score = verdict.score * (PERCENT / scale) if verdict.outcome == Outcome.SCORED else None
    return judge, Judged(verdict.outcome, score, text, usage.get("prompt_tokens"), usage.get("completion_tokens"))
