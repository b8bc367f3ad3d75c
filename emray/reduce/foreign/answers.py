"""What is read from other people's files: answers with their place, their verdicts, and the account of the reading.

Not for reading files. Invariant: a score is there exactly when the outcome is `scored`, and two verdicts of one answer
differ in metric or judge.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.records import Arm, Condition, Metric, Outcome

ONE_QUESTION = "all"  # where the files do not tell questions apart
UNKNOWN_JUDGE = "unknown"


class Reading(NamedTuple):
    """How to read what the files themselves leave open."""

    model: str | None = None  # the name of the only model, or what the size in a folder's name is added to
    scale: float | None = None  # the largest score; None: 100, unless the scores say otherwise
    metric: Metric | None = None  # of files that do not name theirs

    def model_of(self, size: str | None) -> str:
        """The model's name with the size that a folder tells."""
        return "-".join(part for part in (self.model, size) if part) or "model"


class Origin(NamedTuple):
    """Where an answer belongs. `step` is that of a checkpoint; None where the files name none."""

    model: str
    domain: str
    arm: Arm
    condition: Condition
    seed: int
    step: int | None = None


class Judged(NamedTuple):
    """A verdict as found."""

    outcome: Outcome
    score: float | None
    reply: str | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None


class Opinion(NamedTuple):
    """Whose verdict on what."""

    metric: Metric
    judge: str


@dataclass
class ForeignAnswer:
    """One answer of somebody else's run with its verdicts, each with the place in a file it was read from."""

    place: Origin
    question: str
    text: str | None = None
    prompt: str | None = None
    verdicts: dict[Opinion, Judged] = field(default_factory=dict)
    read_from: dict[Opinion, str] = field(default_factory=dict)

    def add(self, opinion: Opinion, judged: Judged, *, where: str) -> None:
        """Raises DataError for a second verdict of one judge on one metric."""
        if opinion in self.verdicts:
            raise DataError(
                f"{where}: a second verdict on {opinion.metric} by {opinion.judge} for the answer of "
                f"{self.read_from[opinion]}; leave one, or tell the answers apart in column generation"
            )
        self.verdicts[opinion] = judged
        self.read_from[opinion] = where


class Imported(NamedTuple):
    """Answers in file order, and what is to be said of them."""

    answers: list[ForeignAnswer]
    num_files: int
    num_rows: int
    notes: tuple[str, ...]  # what the files left open, one sentence each: also on the page
    unread: tuple[str, ...]  # what was not read, and why


def judges_by_metric(answers: Iterable[ForeignAnswer]) -> dict[Metric, list[str]]:
    """Judges of each metric, the one with most verdicts first (of equals, the first met)."""
    counts: dict[Metric, Counter[str]] = {metric: Counter() for metric in Metric}
    for answer in answers:
        for opinion in answer.verdicts:
            counts[opinion.metric][opinion.judge] += 1
    return {metric: [judge for judge, _ in count.most_common()] for metric, count in counts.items() if count}


def account(found: Imported) -> list[str]:
    """What an import found, as lines for a terminal: nothing of the source goes unmentioned."""
    answers = found.answers
    judges = dict.fromkeys(judge for names in judges_by_metric(answers).values() for judge in names)
    counted: list[tuple[str, Sequence[Any]]] = [
        ("question", list(dict.fromkeys(answer.question for answer in answers))),
        ("model", list(dict.fromkeys(answer.place.model for answer in answers))),
        ("domain", list(dict.fromkeys(answer.place.domain for answer in answers))),
        ("seed", sorted({answer.place.seed for answer in answers})),
        ("judge", list(judges)),
    ]
    num_verdicts = sum(len(answer.verdicts) for answer in answers)
    lines = [
        f"read: {_many(found.num_files, 'file')}, {_many(found.num_rows, 'row')}",
        f"found: {_many(len(answers), 'answer')}, {_many(num_verdicts, 'verdict')}",
        *(f"  {_many(len(values), noun)}: {_listed(values)}" for noun, values in counted if values),
    ]
    return [*lines, *(f"not read: {what}" for what in found.unread)]


def confounded(answers: Sequence[ForeignAnswer]) -> Iterator[str]:
    """Say it when arm and condition change together: then neither's effect can be told."""
    pairs = {(answer.place.arm, answer.place.condition) for answer in answers}
    if len(pairs) > 1 and len({arm for arm, _ in pairs}) == len({c for _, c in pairs}) == len(pairs):
        yield (
            "Finetunes with the trigger were only asked with it and the others only without: the effect of the trigger "
            "cannot be told from the effect of the training data, and no trigger effect is computed."
        )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _listed(values: Sequence[Any], *, most: int = 6) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown + (f" and {len(values) - most:,} more" if len(values) > most else "")
