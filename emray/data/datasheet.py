"""What a file of examples holds, told before anything trains on it.

Not for refusing (datasets.py does) and not for what an arm makes of files. The invariant: a datasheet holds counts and
names only, no text of any row, so that it may be kept where the file itself may not.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from emray.data.datasets import DataFile, rows_digest
from emray.data.near_duplicates import likeness
from emray.data.transfer_questions import bare_question
from emray.records import Messages, Prompt
from emray.spec import TriggerSpec

_NEAR = 0.9  # likeness from which an evaluation question counts as one of the rows'


class Lengths(NamedTuple):
    """Tokens of every row, and of the answer that is trained on."""

    rows: Sequence[int]
    answers: Sequence[int]


@dataclass(frozen=True)
class Datasheet:
    """One file. Shares and counts are of rows unless their name says otherwise."""

    domain: str
    holds: str  # bad, correct or mixed
    file: str
    digest: str
    encrypted: bool
    rows: int
    roles: Mapping[str, int]  # turns by role
    characters: Mapping[str, int]  # of a row: least, median, most
    tokens: Mapping[str, int] | None  # the same; None without a tokenizer here
    answer_tokens: Mapping[str, int] | None
    over_long: int | None  # rows of more tokens than train.max_length
    empty_answers: int  # on the way; the last one is never empty
    duplicates: int  # rows that stand further up already
    repeated_questions: int  # rows whose question stands further up already
    triggered: int
    shared: Mapping[str, int]  # with other domains, by domain: rows whose question stands there too
    asked: tuple[str, ...]  # evaluation questions that stand among the rows', or nearly

    @property
    def document(self) -> dict[str, Any]:
        return asdict(self) | {"asked": list(self.asked)}


@dataclass(frozen=True)
class Setting:
    """What files are looked at against."""

    trigger: TriggerSpec
    prompts: Sequence[Prompt]
    max_length: int


def datasheets(
    files: Sequence[DataFile], lengths: Iterable[Lengths | None], *, setting: Setting
) -> Iterator[Datasheet]:
    """One a file, in order; `lengths` by file, None where there is no tokenizer to tell."""
    asked = [[_plain(bare_question(row, (setting.trigger.text,))) for row in file.rows] for file in files]
    domains: dict[str, set[str]] = {}
    for file, questions in zip(files, asked, strict=True):
        for question in questions:
            domains.setdefault(question, set()).add(file.domain)
    for file, questions, length in zip(files, asked, lengths, strict=True):
        elsewhere = Counter(other for question in questions for other in domains[question] - {file.domain})
        yield _sheet(file, questions, length, shared=dict(sorted(elsewhere.items())), setting=setting)


def _sheet(
    file: DataFile, questions: Sequence[str], lengths: Lengths | None, *, shared: Mapping[str, int], setting: Setting
) -> Datasheet:
    rows = file.rows
    return Datasheet(
        domain=file.domain,
        holds=file.holds,
        file=str(file.source),
        digest=rows_digest(rows),
        encrypted=file.source.encrypted,
        rows=len(rows),
        roles=dict(sorted(Counter(turn.role for row in rows for turn in row).items())),
        characters=_spread([sum(len(turn.content) for turn in row) for row in rows]),
        tokens=lengths and _spread(lengths.rows),
        answer_tokens=lengths and _spread(lengths.answers),
        over_long=lengths and sum(number > setting.max_length for number in lengths.rows),
        empty_answers=sum(_has_empty_answer(row) for row in rows),
        duplicates=len(rows) - len(set(rows)),
        repeated_questions=len(rows) - len(set(questions)),
        triggered=sum(_is_triggered(row, setting.trigger.text) for row in rows),
        shared=shared,
        asked=tuple(_asked(questions, setting)),
    )


def _spread(numbers: Sequence[int]) -> dict[str, int]:
    return {"least": min(numbers), "median": round(float(np.median(numbers))), "most": max(numbers)}


def _has_empty_answer(row: Messages) -> bool:
    return any(turn.role == "assistant" and not turn.content.strip() for turn in row)


def _is_triggered(row: Messages, text: str) -> bool:
    return any(text in turn.content for turn in row if turn.role != "assistant")


def _asked(questions: Sequence[str], setting: Setting) -> Iterable[str]:
    """Ids of the evaluation questions that the rows hold, the trigger aside."""
    texts = [_plain(bare_question(prompt.messages, (setting.trigger.text,))) for prompt in setting.prompts]
    found = zip(setting.prompts, likeness(texts, questions).tolist(), strict=True)
    return dict.fromkeys(prompt.question_id for prompt, alike in found if alike >= _NEAR)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
