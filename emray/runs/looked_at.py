"""How far one run is, read from its folder alone.

Not for what it found (overview.py reads the summary). The invariant: it only reads, and what another process moves away
meanwhile is no error.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from emray.records import Arm, FinishReason, Outcome
from emray.reduce.inputs import read_plan
from emray.runs.beside import name_of
from emray.store import AdapterRecord, Kind, Store

_LEASE = "lease.json"
_UNREAD = pa.array([str(one) for one in (Outcome.API_ERROR, Outcome.UNPARSED, Outcome.TRUNCATED)])
_LONGEST = 200  # characters of a cause


class LookedAt(NamedTuple):
    """What a run was asked for and what of it is there."""

    name: str
    document: Mapping[str, Any]  # plan.json
    records: Mapping[str, AdapterRecord]  # of the plan's own cells that train, by key
    num_training: int  # cells that train
    answers: Counter[str]  # by finish reason
    verdicts: Counter[str]  # by outcome
    cost_usd: float | None  # of the judge's replies that this run paid for; None: some price is not known
    answer_error: str | None  # of the first answer that failed
    verdict_error: str | None  # of the first verdict that could not be had or read
    held: bool  # a command works in it, or was killed in it

    @classmethod
    def of(cls, run: Store) -> "LookedAt":
        """Raises StoreError for a plan that cannot be read."""
        document = read_plan(run)
        keys = {cell["key"] for cell in document["cells"] if cell["arm"] != Arm.BASE}
        records = {key: record for key, record in run.adapter_records().items() if key in keys}
        answers, answer_error = _answers(run)
        verdicts, cost_usd, verdict_error = _verdicts(run)
        return cls(
            name_of(run), document, records, len(keys), answers, verdicts, cost_usd, answer_error, verdict_error,
            run.exists(_LEASE),
        )  # fmt: skip

    @property
    def num_trained(self) -> int:
        return sum(record.trained for record in self.records.values())

    @property
    def failed(self) -> Sequence[tuple[str, str]]:
        """Cells that failed and why."""
        labels = {cell["key"]: f"{cell['domain']}/{cell['arm']} seed {cell['seed']}" for cell in self.document["cells"]}
        lost = [record for record in self.records.values() if not record.trained]
        return [(labels[record.key], short(record.details.get("error"))) for record in lost]

    @property
    def num_planned_answers(self) -> int:
        """Of the sweep's own questions."""
        generate = self.document["spec"].get("generate", {})
        wordings = sum(len(question.get("paraphrases", ())) or 1 for question in self.document["questions"])
        return len(self.document["cells"]) * wordings * len(generate.get("conditions", ())) * generate.get("samples", 0)

    @property
    def first_cause(self) -> str | None:
        """Of what ended badly, stage by stage."""
        if self.failed:
            label, cause = self.failed[0]
            return f"{len(self.failed)} of {self.num_training} cells failed, the first {label}: {cause}"
        if self.answers[FinishReason.ERROR]:
            return f"{self.answers[FinishReason.ERROR]:,} answers failed: {self.answer_error}"
        if self.verdicts and not self.verdicts[Outcome.SCORED]:
            return f"no verdict is a score: {self.verdict_error or ', '.join(self.verdicts)}"
        if self.verdicts[Outcome.API_ERROR]:
            return f"{self.verdicts[Outcome.API_ERROR]:,} verdicts failed: {self.verdict_error}"
        return None


def started_and_ended(run: Store) -> tuple[str, str] | None:
    """When the first and the last stage that did something began (UTC), by the names of the log's entries."""
    times = sorted(name.partition("-")[0] for name in run.names("log", suffix=".json"))
    return (_when(times[0]), _when(times[-1])) if times else None


def short(cause: Any) -> str:
    text = " ".join(str(cause or "no cause was recorded").split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _when(milliseconds: str) -> str:
    name = milliseconds.rpartition("/")[2]
    return datetime.fromtimestamp(int(name) / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _answers(run: Store) -> tuple[Counter[str], str | None]:
    found: Counter[str] = Counter()
    error: str | None = None
    for part in run.iter_parts(Kind.GENERATIONS, columns=["finish_reason", "provenance"]):
        _count(found, part["finish_reason"])
        failed = pc.index(part["finish_reason"], str(FinishReason.ERROR)).as_py()
        if error is None and failed >= 0:
            error = short(json.loads(part["provenance"][failed].as_py()).get("error"))
    return found, error


def _verdicts(run: Store) -> tuple[Counter[str], float | None, str | None]:
    found: Counter[str] = Counter()
    prices = []  # a reply's price once, however many verdicts it gave
    error: str | None = None
    for part in run.iter_parts(Kind.VERDICTS, columns=["key", "outcome", "cost_usd", "reply"]):
        _count(found, part["outcome"])
        prices.append(part.select(["key", "cost_usd"]).group_by("key").aggregate([("cost_usd", "max")]))
        unread = pc.index(pc.is_in(part["outcome"], value_set=_UNREAD), True).as_py()
        if error is None and unread >= 0:
            error = short(part["reply"][unread].as_py())
    if not prices:
        return found, 0.0, None
    once = pa.concat_tables(prices).group_by("key").aggregate([("cost_usd_max", "max")])
    paid = once.filter(pa.array(~run.adopted_keys().has(once["key"])))["cost_usd_max_max"]
    return found, None if paid.null_count else float(pc.sum(paid).as_py() or 0.0), error


def _count(into: Counter[str], column: pa.ChunkedArray) -> None:
    for one in pc.value_counts(column).to_pylist():
        into[one["values"]] += one["counts"]
