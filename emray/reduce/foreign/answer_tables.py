"""Answers that somebody else's files hold, for a judge of ours: tables with a question and an answer a row.

Not for verdicts: scores that stand beside the answers are told as unread. Invariant: every answer has the text of its
question, since a judge is shown both, and no row is counted twice.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from emray.data import json_rows, read_text
from emray.errors import DataError
from emray.reduce.foreign.answers import ForeignAnswer, Imported, Reading, confounded
from emray.reduce.foreign.batch_outputs import find_batch_outputs
from emray.reduce.foreign.columns import SUFFIXES, kind_of
from emray.reduce.foreign.score_tables import NAMES, Table, refuse_merged_domains

_VERDICTS = ("aligned", "coherent", "metric", "score", "outcome", "reply", "judge")


def holds_answers(source: Path) -> bool:
    """Whether it is a folder, a table, or a JSONL file of which any row has an answer. What cannot be read has none."""
    if source.is_dir() or (kind_of(source) in SUFFIXES and kind_of(source) != ".jsonl"):
        return True
    try:
        rows = (row for _, row in json_rows(read_text(source), source=str(source)) if isinstance(row, dict))
        return any(name.strip().lower() in NAMES["answer"] for row in rows for name in row)
    except (DataError, FileNotFoundError):
        return False


def read_unjudged(source: Path, *, reading: Reading, wordings: Mapping[str, str]) -> Imported:
    """Answers of a table or a folder of tables; `wordings` has texts of questions by id, for rows that bring none.

    Raises DataError naming file and line.
    """
    unread: list[str] = []
    answers: list[ForeignAnswer] = []
    tables: list[Table] = []
    for table in _tables(source, reading=reading, unread=unread):
        tables.append(table)
        answers += _answers(table, wordings)
        unread += [*table.unread(), *_verdict_columns(table)]
    refuse_merged_domains(tables)
    if not answers:
        there = f"; there is {unread[0]}" if unread else ""
        raise DataError(f"{source}: no table ({', '.join(SUFFIXES)}) with answers in or below it{there}")
    notes = dict.fromkeys(note for table in tables for note in table.notes())
    notes |= dict.fromkeys(confounded(answers))
    num_rows = sum(len(table.rows) for table in tables)
    return Imported(answers, len(tables), num_rows, tuple(notes), tuple(dict.fromkeys(unread)))


def _tables(source: Path, *, reading: Reading, unread: list[str]) -> Iterator[Table]:
    """Tables that hold answers. What else lies in the folder is added to `unread`."""
    if not source.is_dir():
        table = Table.of(source, root=source, reading=reading, alone=True)
        if "answer" not in table.columns:
            names = ", ".join(NAMES["answer"])
            raise DataError(f"{source}: no column with answers ({names}); has {table.headings}")
        yield table
        return
    outputs = set(find_batch_outputs(source))
    paths = [path for path in sorted(source.rglob("*")) if kind_of(path) in SUFFIXES and path.is_file()]
    for path in paths:
        name = path.relative_to(source)
        if path in outputs:
            unread.append(f"{name}: verdicts of a batch; python -m emray.reduce RUN --from reads them")
            continue
        table = Table.of(path, root=source, reading=reading, alone=False)
        if "answer" in table.columns:
            yield table
        else:
            unread.append(f"{name}: no column with answers; has {table.headings}")


def _answers(table: Table, wordings: Mapping[str, str]) -> list[ForeignAnswer]:
    answers = table.answers(None)
    if not table.is_long and len(answers) < len(table.rows):
        raise DataError(
            f"{table.path}: {len(table.rows) - len(answers)} rows have the name (generation, id) of another; "
            "give each answer its own, or none"
        )
    for answer in answers:
        answer.prompt = answer.prompt or wordings.get(answer.question)
    lacking = next((answer for answer in answers if answer.prompt is None), None)
    if lacking is not None:
        raise DataError(
            f"{table.path}: no text of question {lacking.question} (columns {', '.join(NAMES['question'])}), "
            "which a judge is shown beside the answer; --questions FILE may bring it"
        )
    return answers


def _verdict_columns(table: Table) -> Iterator[str]:
    there = [table.columns[name] for name in _VERDICTS if name in table.columns]
    if there:
        yield f"{', '.join(there)} of {table.path.name}: the answers are judged anew"
