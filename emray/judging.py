"""Answers made elsewhere, judged: what `python -m emray.judge` does with a table that has answers in it.

They become a run folder like that of a sweep (plan, generations, verdicts, summary, report). Not for reading files
(reduce/foreign) or for asking (judge/). The invariant: an answer that is stored stays as it was, so no verdict is ever
of another text than the one beside it, and nothing is asked that the journal or the verdict table has.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from emray import data, judge, reduce, report
from emray.errors import DataError, SpecError
from emray.estimate import estimate_tasks, judge_line
from emray.judge.errand import Errand
from emray.judge.tasks import answered_keys, judges, tasks_of
from emray.records import GENERATION_SCHEMA, Metric, judge_key
from emray.reduce.foreign import Reading, RunFolder, RunShape, account, read_unjudged, run_folder
from emray.reduce.foreign.answers import ForeignAnswer
from emray.reduce.study import load_study
from emray.stages import Invocation, Logbook
from emray.stages.fruitless import check_scored, check_verdicts
from emray.store import Keys, Kind, Lease, Store

_PLAN = "plan.json"


class Answers(NamedTuple):
    """Where the answers are, and what their files leave open."""

    source: Path
    questions: Path | None  # a question file whose rubrics are to be used
    model: str | None  # who gave the answers, where the files do not tell
    rule: str  # the headline rule
    words: Sequence[str]  # the command's, for the log


def judge_answers(answers: Answers, errand: Errand, *, out: str, dry_run: bool) -> dict[str, Any]:
    """Judge, reduce and report; returns counts. Raises DataError before anything is written or paid for."""
    known = _QuestionFile.read(answers.questions)
    found = read_unjudged(answers.source, reading=Reading(model=answers.model), wordings=known.wordings)
    found = found._replace(notes=(*found.notes, *known.notes(found.answers)))
    rubrics = {answer.question: known.rubrics(answer) for answer in found.answers}
    run = run_folder(found, shape=RunShape.named(out, rule=answers.rule, to_judge=errand.spec, rubrics=rubrics))
    store = Store(out)
    new = _not_stored(run, store)
    for line in [*account(found), *(f"note: {note}" for note in run.notes)]:
        errand.console.print(line, markup=False, soft_wrap=True)
    errand.tell_endings()
    if dry_run:
        return _estimate(run, errand, store)
    with _only_one_in(store):
        store.write_json(_PLAN, run.document)
        store.write_rows(Kind.GENERATIONS, new)
        num_asked = _judge(run, errand, store, words=answers.words)
        check_verdicts(store, again="run again with --retry-failed")
        reduce.run(store)
        report.render(store)
    report.print_tables(store, errand.console)
    check_scored(store)
    return {
        "answers": len(run.generations),
        "asked": num_asked,
        **_counts(run, errand, store),
        "report": f"{out}/report",
    }


def _judge(run: RunFolder, errand: Errand, store: Store, *, words: Sequence[str]) -> int:
    """Have the verdicts that are missing given; returns how many there were."""
    study = load_study(run.document)
    tasks = judge.missing(
        store,
        inquiries=data.inquiries(study.questions, study.prompts),
        spec=errand.spec,
        generations=Keys({row["key"] for row in run.generations}),
        retry_failed=errand.resources.retry_failed,
    )
    num_missing = len(tasks)
    if num_missing:
        logbook = Logbook(store, Invocation.of("emray.judge", words, study.sweep))
        with logbook.stage("judge", planned=num_missing):
            errand.carry_out(tasks, store)
    store.settle()
    return num_missing


def _estimate(run: RunFolder, errand: Errand, store: Store) -> dict[str, Any]:
    """What judging would ask for: calls and their cost, judge by judge. Writes nothing."""
    study = load_study(run.document)
    inquiries = data.inquiries(study.questions, study.prompts)
    table = pa.Table.from_pylist(run.generations, schema=GENERATION_SCHEMA)
    paid = set(judge.journaled_keys(store)) | answered_keys(store, retry_failed=errand.resources.retry_failed)
    found = []
    for spec in judges(errand.spec):
        tasks = tasks_of(table, inquiries=inquiries, spec=spec, where=str(store.root))
        found.append(estimate_tasks(tasks, spec=spec, paid=paid))
        errand.console.print(judge_line(spec.model, found[-1]), markup=False)
    costs = [one.cost_usd for one in found]
    known = None if None in costs else round(sum(cost for cost in costs if cost is not None), 6)
    calls = sum(one.calls for one in found)
    return {"answers": len(run.generations), "dry_run": True, "calls": calls, "cost_usd": known}


def _not_stored(run: RunFolder, store: Store) -> list[dict[str, Any]]:
    """The answers that the run folder lacks. Raises DataError where it holds something else."""
    other = f"{store.root} holds other results than these; give another --out"
    if not store.exists(_PLAN):
        return run.generations
    earlier = store.read_json(_PLAN)
    if not earlier.get("imported") or not all(question["rubrics"] for question in earlier["questions"]):
        raise DataError(other)
    stored = store.read_rows(Kind.GENERATIONS, columns=["key", "prompt", "answer"]).to_pylist()
    rows = {row["key"]: (row["prompt"], row["answer"]) for row in run.generations}
    if any(rows.get(row["key"]) != (row["prompt"], row["answer"]) for row in stored):
        raise DataError(f"{other} (answers may be added behind those that were there, not changed or taken away)")
    there = {row["key"] for row in stored}
    return [row for row in run.generations if row["key"] not in there]


class _QuestionFile(NamedTuple):
    """What `--questions` brings; nothing without it."""

    questions: tuple[data.Question, ...]
    name: str

    @classmethod
    def read(cls, path: Path | None) -> "_QuestionFile":
        return cls((), "") if path is None else cls(data.load_questions([str(path)]).questions, path.name)

    @property
    def wordings(self) -> dict[str, str]:
        """The text of each question that has one wording, by id."""
        return {q.id: q.paraphrases[0] for q in self.questions if len(q.paraphrases) == 1}

    def rubrics(self, answer: ForeignAnswer) -> Mapping[Metric, str]:
        """Those of the question with the answer's text, else with its id, else the shipped ones."""
        own = self._find(answer)
        return own.rubrics if own else {metric: data.shipped_rubrics()[metric] for metric in Metric}

    def notes(self, answers: Sequence[ForeignAnswer]) -> Iterator[str]:
        lacking = list(dict.fromkeys(answer.question for answer in answers if self._find(answer) is None))
        if self.name and lacking:
            yield f"Not in {self.name}, so judged by the shipped rubrics: {len(lacking)} questions, as {lacking[0]}."

    def _find(self, answer: ForeignAnswer) -> data.Question | None:
        by_text = (q for q in self.questions if answer.prompt in q.paraphrases)
        by_id = (q for q in self.questions if answer.question in (q.id, *q.also))
        return next(by_text, None) or next(by_id, None)


def _counts(run: RunFolder, errand: Errand, store: Store) -> dict[str, Any]:
    """Outcomes and cost of these judges' verdicts on these answers."""
    keys = {judge_key(spec.identity()) for spec in judges(errand.spec)}
    answers = {row["key"] for row in run.generations}
    columns = ["key", "generation", "outcome", "cost_usd", "judge_key"]
    rows = [
        row
        for row in store.read_rows(Kind.VERDICTS, columns=columns).to_pylist()
        if row["judge_key"] in keys and row["generation"] in answers
    ]
    costs = {row["key"]: row["cost_usd"] for row in rows}.values()
    known = None if None in costs else round(sum(costs), 6)
    return {"outcomes": dict(Counter(row["outcome"] for row in rows)), "cost_usd": known}


def _only_one_in(store: Store) -> Lease:
    try:
        return store.take_lease()
    except OSError as error:
        raise SpecError(f"cannot write to --out {store.root}: {error.strerror}; give another folder") from None
