"""What is read from other people's files: answers with their place and their verdicts.

Not for reading them. Invariant: a score is there exactly when the outcome is `scored`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.judge.parse import Verdict
from emray.records import Arm, Condition, Metric, Outcome

ONE_QUESTION = "all"  # where the files do not tell questions apart


class Origin(NamedTuple):
    """Where an answer belongs."""

    domain: str
    arm: Arm
    condition: Condition
    seed: int


@dataclass
class ForeignAnswer:
    """One answer of somebody else's run with its verdicts."""

    place: Origin
    question: str
    text: str | None = None
    prompt: str | None = None
    verdicts: dict[Metric, "Judged"] = field(default_factory=dict)


class Judged(NamedTuple):
    """A verdict as found."""

    outcome: Outcome
    score: float | None
    reply: str | None
    judge: str
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None


class Imported(NamedTuple):
    """Answers in file order, and one sentence per thing that the files left open."""

    answers: list[ForeignAnswer]
    notes: tuple[str, ...]


def judged_as(verdict: Verdict, reply: str | None, judge: str) -> Judged:
    score = verdict.score if verdict.outcome == Outcome.SCORED else None
    return Judged(verdict.outcome, score, reply, judge)


def confounded(answers: Sequence[ForeignAnswer]) -> Iterator[str]:
    """Say it when arm and condition change together: then neither's effect can be told."""
    pairs = {(answer.place.arm, answer.place.condition) for answer in answers}
    if len(pairs) > 1 and len({arm for arm, _ in pairs}) == len({c for _, c in pairs}) == len(pairs):
        yield (
            "Finetunes with the trigger were only asked with it and the others only without: the effect of the trigger "
            "cannot be told from the effect of the training data, and no trigger effect is computed."
        )


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{path}:{number}: not JSON") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a line holds one JSON object")
            yield number, row
