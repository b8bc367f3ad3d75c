"""Tables of scores, a row per answer or a row per verdict, as answers.

Not for opening files (columns.py) or for batch outputs. Invariant: rows are put together as one answer only where the
table says so, a value that cannot be read is an error that names its row, and every column is read or named as unread.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from emray.errors import DataError
from emray.records import NO_DOMAIN, USUAL_ARMS, USUAL_CONDITIONS, Arm, Condition, Metric, Outcome
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
from emray.reduce.foreign.columns import Row, read_rows
from emray.reduce.foreign.origins import Told, domain_name, told_by
from emray.reduce.foreign.scores import PERCENT, as_number, is_missing, read_reply, read_score

MAX_SEED = 2**31 - 1

# Other names that the field's tables have for our columns; the first one there is read.
NAMES: dict[str, tuple[str, ...]] = {
    "aligned": ("aligned", "alignment", "aligned_score", "alignment_score"),
    "coherent": ("coherent", "coherence", "coherent_score", "coherence_score"),
    "metric": ("metric",),
    "score": ("score",),
    "outcome": ("outcome",),
    "reply": ("reply", "judge_reply", "judge_response"),
    "judge": ("judge", "judge_model"),
    "model": ("model", "model_id", "model_name"),
    "domain": ("domain",),
    "arm": ("arm",),
    "condition": ("condition",),
    "seed": ("seed", "train_seed"),
    "step": ("step",),
    "question_id": ("question_id",),
    "question": ("question", "prompt", "question_text"),
    "answer": ("answer", "response", "completion", "output"),
    "generation": ("generation", "generation_id", "answer_id", "custom_id"),
    "paraphrase": ("paraphrase", "paraphrase_idx"),
    "sample": ("sample", "sample_idx", "sample_id"),
}
WORDINGS = {"alignment": "aligned", "coherence": "coherent"}


def read_tables(paths: Sequence[Path], *, root: Path, reading: Reading) -> Imported:
    """Answers of one or more tables; a file's path tells what its columns do not, where there are several files.

    One answer a row (columns `aligned`, `coherent`) or one verdict a row (`metric`, `score`); see NAMES for the rest.
    Raises DataError naming file and line.
    """
    tables = [Table.of(path, root=root, reading=reading, alone=len(paths) == 1) for path in paths]
    for table in tables:
        table.refuse_without_scores()
    scale = _scale(tables, reading)
    answers = [answer for table in tables for answer in table.answers(scale)]
    refuse_merged_domains(tables)
    if not any(answer.verdicts for answer in answers):
        raise DataError(f"{root} holds no verdict on {' or '.join(Metric)}")
    notes = dict.fromkeys(note for table in tables for note in table.notes())
    unread = dict.fromkeys(what for table in tables for what in table.unread())
    notes |= dict.fromkeys([*_small_scores(tables, reading), *confounded(answers)])
    return Imported(answers, len(tables), sum(len(table.rows) for table in tables), tuple(notes), tuple(unread))


class Table:
    """One file: its rows under our names of the columns."""

    def __init__(self, path: Path, rows: list[Row], *, told: Told, reading: Reading) -> None:
        self.path, self.told, self.reading = path, told, reading
        columns = dict.fromkeys(name for row in rows for name in row.cells)
        self.columns = {ours: theirs for ours, names in NAMES.items() for theirs in names[::-1] if theirs in columns}
        self.columns |= _identifier(columns, rows, self.columns)
        self.rows = [Row({ours: row.cells.get(name) for ours, name in self.columns.items()}, row.where) for row in rows]
        self._others = [name for name in columns if name not in self.columns.values()]
        self.is_long = "metric" in self.columns
        self._skipped: Counter[str] = Counter()
        self._spelled: dict[str, dict[str, str]] = {}  # where each spelling of a domain stands first

    @classmethod
    def of(cls, path: Path, *, root: Path, reading: Reading, alone: bool) -> "Table":
        rows = read_rows(path)
        if not rows:
            raise DataError(f"{path} holds no rows")
        named = path.relative_to(root) if path != root else PurePath(path.name)
        below = named.with_name(named.name.removesuffix(".gz")).with_suffix("")
        told = Told(None, None, None, None, None) if alone and path == root else told_by(below, domain_in=below.parts)
        return cls(path, rows, told=told, reading=reading)

    def refuse_without_scores(self) -> None:
        """Raises DataError."""
        if not self.is_long and not {"aligned", "coherent"} & set(self.columns):
            raise DataError(
                f"{self.path}: needs columns metric and score, or aligned and coherent; has {self.headings}"
            )

    @property
    def headings(self) -> str:
        """The file's own columns."""
        return ", ".join([*self.columns.values(), *self._others]) or "none"

    def numbers(self) -> Iterator[tuple[str, Metric, float]]:
        """Every score that is a number, with its judge and metric."""
        for row in self.rows:
            for metric, cell in self._scores(row):
                number = as_number(cell)
                if number is not None and not is_missing(cell):
                    yield _judge(row), metric, number

    def answers(self, scale: float | None) -> list[ForeignAnswer]:
        """The table's answers in order of their first row; without a scale, their verdicts are left out.

        Raises DataError for two texts under one name.
        """
        found: dict[tuple[Any, ...], ForeignAnswer] = {}
        names = _AnswerNames(self)
        for number, row in enumerate(self.rows):
            place, question = self._place(row), self._question(row)
            name = (place, question, *names.of(number, row))
            text = answer_text(row)
            prompt = None if is_missing(row.cells.get("question")) else str(row.cells["question"])
            answer = found.setdefault(name, ForeignAnswer(place, question, text=text, prompt=prompt))
            if text is not None and text != answer.text is not None:
                raise DataError(f"{row.where}: another answer under the name of an earlier row; rename one")
            if scale is None:
                continue
            for opinion, judged in self._verdicts(row, scale):
                answer.add(opinion, judged, where=row.where)
        return list(found.values())

    def spellings(self) -> Iterator[tuple[str, str, str]]:
        """(domain, as it was spelled, where) of what `answers` met, trained domains alone."""
        for domain, spelled in self._spelled.items():
            if domain != NO_DOMAIN:
                yield from ((domain, given, where) for given, where in spelled.items())

    def notes(self) -> Iterator[str]:
        for column, value in (("seed", "0"), ("question_id", ONE_QUESTION), ("domain", "unnamed")):
            told = {"seed": self.told.seed, "domain": self.told.domain}.get(column)
            known = column in self.columns or (column == "question_id" and "question" in self.columns)
            if told is None and not known:
                yield f"The table has no column {column}: every answer counts as {column} {value}."

    def unread(self) -> Iterator[str]:
        for name in self._others:
            yield f"column {name} of {self.path.name}: it has no meaning here"
        for what, count in sorted(self._skipped.items()):
            yield f"{what} of {self.path.name}, {count} times"

    def _place(self, row: Row) -> Origin:
        cells, told = row.cells, self.told
        arm = Arm(_text(cells.get("arm"), told.arm or Arm.PLAIN).lower())
        condition = Condition(_text(cells.get("condition"), told.condition or Condition.WITHOUT).lower())
        if arm not in USUAL_ARMS or condition not in USUAL_CONDITIONS:
            unknown = f"arm {str(arm)!r}" if arm not in USUAL_ARMS else f"condition {str(condition)!r}"
            known = f"arms are {', '.join(USUAL_ARMS)}, conditions {', '.join(USUAL_CONDITIONS)}"
            raise DataError(f"{row.where}: unknown {unknown}; {known}")
        model = _text(cells.get("model"), self.reading.model_of(told.size))
        given = _text(cells.get("domain"), told.domain or "unnamed")
        domain = NO_DOMAIN if arm == Arm.BASE else domain_name(given)
        self._spelled.setdefault(domain, {}).setdefault(given, row.where)
        seed = _whole(cells.get("seed"), told.seed or 0, what="seed", where=row.where)
        step = None if is_missing(cells.get("step")) else _whole(cells["step"], 0, what="step", where=row.where)
        return Origin(model, domain, arm, condition, seed, step)

    def _question(self, row: Row) -> str:
        return _text(row.cells.get("question_id"), _text(row.cells.get("question"), ONE_QUESTION))

    def _scores(self, row: Row) -> Iterator[tuple[Metric, Any]]:
        """(metric, score cell) of a row; a row about another metric has none."""
        if not self.is_long:
            yield from ((metric, row.cells[metric]) for metric in Metric if metric in row.cells)
            return
        metric = _metric(row)
        if metric is not None:
            yield metric, row.cells.get("score")

    def _verdicts(self, row: Row, scale: float) -> Iterator[tuple[Opinion, Judged]]:
        found = list(self._scores(row))
        if not found:
            self._skipped[f"metric {row.cells['metric']!r}"] += 1
        for metric, cell in found:
            judged = _judged(row, cell, scale) if self.is_long else read_score(cell, scale=scale, where=row.where)
            if judged is None:
                self._skipped[f"an empty score on {metric}"] += 1
            else:
                yield Opinion(metric, _judge(row)), judged


class _AnswerNames:
    """What tells a table's answers apart, or puts its verdicts together."""

    def __init__(self, table: Table) -> None:
        self._by = [c for c in ("generation", "sample") if any(not is_missing(r.cells.get(c)) for r in table.rows)]
        self._by = self._by[:1] and [*self._by[:1], "paraphrase"]
        self._numbers = list(range(len(table.rows))) if self._by else _neighbours(table)

    def of(self, number: int, row: Row) -> tuple[Any, ...]:
        """The name, within its place and question, of the answer that a row is about."""
        if not self._by:
            return (self._numbers[number],)
        name = row.cells.get(self._by[0])
        if is_missing(name):
            raise DataError(f"{row.where}: no {self._by[0]}, which other rows have; fill it or drop the column")
        return tuple(str(row.cells.get(column)) for column in self._by)


def refuse_merged_domains(tables: Sequence[Table]) -> None:
    """Raises DataError where two names become one domain: they would be pooled unseen."""
    first: dict[str, tuple[str, str]] = {}
    for table in tables:
        for domain, given, where in table.spellings():
            known, stands = first.setdefault(domain, (given, where))
            if known != given:
                raise DataError(
                    f"{where}: domain {given!r} and {known!r} ({stands}) both read as {domain}; "
                    "rename one (a name is lower-case letters, digits and _)"
                )


def _neighbours(table: Table) -> list[int]:
    """Numbers of answers for a table without names: verdicts on neighbouring lines belong together, where that is sure.

    Sure means: all rows of a place and question come as runs with the same metrics in the same order. Raises DataError
    where it is not, and where several judges judged the same place and question.
    """
    _refuse_unpaired_judges(table)
    if not table.is_long or len({str(row.cells["metric"]).lower() for row in table.rows}) == 1:
        return list(range(len(table.rows)))
    first = table.rows[0]
    cycle = [str(row.cells["metric"]).lower() for row in table.rows[: _period(table)]]
    numbers = []
    for number, row in enumerate(table.rows):
        start = number - number % len(cycle)
        here = _about(table.rows[start])
        if str(row.cells["metric"]).lower() != cycle[number % len(cycle)] or _about(row) != here:
            raise DataError(
                f"{row.where}: no column generation, and the rows do not come as {', '.join(cycle)} of one answer "
                f"after another (as from {first.where} on), so which verdicts are of one answer is not told; add it"
            )
        numbers.append(start)
    if len(table.rows) % len(cycle):
        raise DataError(f"{table.rows[-1].where}: the last answer lacks {cycle[-1]}; add a column generation")
    return numbers


def _period(table: Table) -> int:
    """Rows until a metric comes again."""
    metrics = [str(row.cells["metric"]).lower() for row in table.rows]
    return next((n for n in range(1, len(metrics)) if metrics[n] in metrics[:n]), len(metrics))


def _about(row: Row) -> tuple[str, ...]:
    """Everything that two verdicts of one answer share."""
    shared = ("model", "domain", "arm", "condition", "seed", "step", "question_id", "question", "answer", "judge")
    return tuple(str(row.cells.get(column)) for column in shared)


def _refuse_unpaired_judges(table: Table) -> None:
    """Two judges on one place and question, and no name of an answer: their verdicts cannot be put together."""
    judge_of: dict[tuple[str, ...], Row] = {}
    for row in table.rows:
        *about, judge = _about(row)
        other = judge_of.setdefault(tuple(about[:-1]), row)
        if str(other.cells.get("judge")) != judge:
            raise DataError(
                f"{row.where}: judge {judge}, where {other.where} has {other.cells.get('judge')}, and no column "
                "generation tells which of their verdicts are about one answer; add it"
            )


def _identifier(columns: Mapping[str, Any], rows: Sequence[Row], known: Mapping[str, str]) -> dict[str, str]:
    """What a column `id` is: a question's where it repeats, or where most rows bring a question's text of their own."""
    if "id" not in columns:
        return {}
    values = [str(row.cells.get("id")) for row in rows]
    texts = {str(row.cells.get(known["question"])) for row in rows} if "question" in known else set()
    repeats, of_questions = len(set(values)) < len(values), 2 * len(texts) > len(values)
    if "question_id" not in known and (repeats or of_questions):
        return {"question_id": "id"}
    return {} if "generation" in known else {"generation": "id"}


def _judged(row: Row, cell: Any, scale: float) -> Judged | None:
    """The verdict of a row that is one."""
    outcome = "" if is_missing(row.cells.get("outcome")) else str(row.cells["outcome"]).strip().lower()
    reply = None if is_missing(row.cells.get("reply")) else str(row.cells["reply"])
    if outcome and outcome not in set(Outcome):
        raise DataError(f"{row.where}: outcome {outcome!r}; allowed: {', '.join(Outcome)}")
    if outcome and outcome != Outcome.SCORED:
        return Judged(Outcome(outcome), None, reply)
    judged = read_score(cell, scale=scale, where=row.where)
    if judged is None:
        if outcome:
            raise DataError(f"{row.where}: outcome scored, and no score")
        return read_reply(reply, scale=scale) if reply else None
    return judged._replace(reply=reply or judged.reply)


def _metric(row: Row) -> Metric | None:
    given = str(row.cells.get("metric")).strip().lower()
    given = WORDINGS.get(given, given)
    return Metric(given) if given in set(Metric) else None


def answer_text(row: Row) -> str | None:
    """The answer as it stands; a text such as None or - may be one. Raises DataError for what is no text."""
    cell = row.cells.get("answer")
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, list | dict | bool):
        raise DataError(f"{row.where}: the answer is a {type(cell).__name__}; a row holds one answer, as a text")
    return str(cell)


def _judge(row: Row) -> str:
    return _text(row.cells.get("judge"), UNKNOWN_JUDGE)


def _text(cell: Any, default: str) -> str:
    return default if is_missing(cell) else str(cell).strip()


def _whole(cell: Any, default: int, *, what: str, where: str) -> int:
    """A whole number that a table of ours can hold."""
    if is_missing(cell):
        return default
    number = as_number(cell)
    if number is None or number % 1 or not 0 <= number <= MAX_SEED:
        raise DataError(f"{where}: {what} {cell}; allowed: a whole number from 0 to {MAX_SEED}")
    return int(number)


def _scale(tables: Sequence[Table], reading: Reading) -> float:
    """The largest possible score: as told, or 100. Raises DataError for scores that look like shares of 1."""
    if reading.scale is not None:
        return reading.scale
    for table in tables:
        largest: dict[str, float] = {}
        for judge, _, number in table.numbers():
            largest[judge] = max(largest.get(judge, 0.0), number)
        for judge, most in largest.items():
            if 0 < most <= 1:
                raise DataError(
                    f"{table.path}: no score by judge {judge} exceeds {most:g}: a scale from 0 to 1? "
                    "say --scale 1 to convert them, or --scale 100 if they are points of 100"
                )
    return PERCENT


def _small_scores(tables: Sequence[Table], reading: Reading) -> Iterator[str]:
    """Say it where one metric stays within 0-1 beside another that does not."""
    largest: dict[Metric, float] = {}
    for table in tables:
        for _, metric, number in table.numbers():
            largest[metric] = max(largest.get(metric, 0.0), number)
    for metric, most in largest.items():
        if reading.scale is None and 0 < most <= 1:
            yield f"No score on {metric} exceeds {most:g}; they are read as points of 100, as the other scores are."
