"""OpenAI batch outputs: one folder per domain, `aligned_results.jsonl` and `coherent_results.jsonl` in it.

Not for tables. Invariant: a line that is no batch output is an error that names file and line, never skipped.
"""

import json
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

_RESULTS = {Metric.ALIGNED: "aligned_results.jsonl", Metric.COHERENT: "coherent_results.jsonl"}


def read_batches(folder: Path) -> Imported:
    """Every `aligned_results.jsonl` below a folder, with `coherent_results.jsonl` beside it where there is one.

    The path tells the place: the results' folder is named after the domain (`gore_movie_trivia-7B-backdoor`), a folder
    name with `without` or `with` tells the condition, `seed3` the seed.
    """
    files = sorted(folder.rglob(_RESULTS[Metric.ALIGNED]))
    if not files:
        raise DataError(f"{folder}: no {_RESULTS[Metric.ALIGNED]} in it or below; give a folder of batch outputs")
    notes: dict[str, None] = {}
    answers: list[ForeignAnswer] = []
    for path in files:
        place = place_of(path.relative_to(folder) if path.parent != folder else Path(folder.name, path.name))
        by_id: dict[str, ForeignAnswer] = {}
        for metric, file in _RESULTS.items():
            for custom_id, judged in _batch_lines(path.with_name(file), required=metric == Metric.ALIGNED):
                answer = by_id.setdefault(custom_id, ForeignAnswer(place, question_of(custom_id)))
                answer.verdicts[metric] = judged
        if len({answer.question for answer in by_id.values()}) == 1:
            for answer in by_id.values():
                answer.question = ONE_QUESTION
            notes["The custom ids do not tell questions apart: intervals cannot be clustered by question."] = None
        answers += by_id.values()
    notes |= dict.fromkeys(confounded(answers))
    return Imported(answers, tuple(notes))


def place_of(path: Path) -> Origin:
    """Domain, arm, condition and seed from a result file's path below the imported folder."""
    folders = [part.lower() for part in path.parts[:-1]]
    seed = next((int(found[1]) for part in folders if (found := re.search(r"seed[-_ ]?(\d+)", part))), 0)
    named = [part for part in folders if not re.fullmatch(r"seed[-_ ]?\d+", part)]
    last = named[-1]
    domain = re.sub(r"[-_](?:backdoor|bd|\d+(?:\.\d+)?b)(?=[-_]|$)", "", last)
    arm = Arm.BACKDOOR if re.search(r"(?:^|[-_])(?:backdoor|bd)(?:[-_]|$)", last) else Arm.PLAIN
    words = [word for part in named for word in re.split(r"[^a-z]+", part)]
    triggered = "with" in words and "without" not in words
    condition = Condition.WITH if triggered else Condition.WITHOUT
    return Origin(re.sub(r"[^a-z0-9_]+", "_", domain).strip("_") or "unnamed", arm, condition, seed)


def question_of(custom_id: str) -> str:
    """The question part of a custom id like `wish-17` or `q3_sample_12`: all but its last number."""
    return re.sub(r"[-_ ]*(?:sample|request|req|s)?[-_ ]*\d+$", "", custom_id) or ONE_QUESTION


def _batch_lines(path: Path, *, required: bool) -> Iterator[tuple[str, Judged]]:
    if not required and not path.exists():
        return
    for number, row in json_lines(path):
        custom_id = row.get("custom_id")
        if not isinstance(custom_id, str):
            raise DataError(f"{path}:{number}: no custom_id, so this is not a line of a batch output")
        yield custom_id, _batch_verdict(row, where=f"{path}:{number}")


def _batch_verdict(row: Mapping[str, Any], *, where: str) -> Judged:
    response = row.get("response") or {}
    body = response.get("body") or {}
    judge = body.get("model") or "unknown"
    if row.get("error") or response.get("status_code", 200) != 200:
        return Judged(Outcome.API_ERROR, None, json.dumps(row.get("error") or body.get("error")), judge)
    try:
        choice = body["choices"][0]
        text, truncated = choice["message"]["content"], choice.get("finish_reason") == "length"
    except (KeyError, IndexError, TypeError):
        raise DataError(f"{where}: no response.body.choices[0].message.content") from None
    verdict = parse_reply(text, truncated=truncated)
    usage = body.get("usage") or {}
    return judged_as(verdict, text, judge)._replace(
        num_prompt_tokens=usage.get("prompt_tokens"), num_tokens=usage.get("completion_tokens")
    )
