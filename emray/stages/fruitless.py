"""Whether a stage has left anything at all to go on with.

Not for single failures, which are rows and stand in the report's account. The invariant: a stage in which everything
failed ends the command with the cause, whether it failed just now or in an earlier run.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emray.errors import StageError
from emray.plan import Plan
from emray.records import Metric, Outcome
from emray.store import AdapterRecord, Kind, Store

_NO_VERDICT = pa.array([str(one) for one in (Outcome.API_ERROR, Outcome.UNPARSED, Outcome.TRUNCATED)])
_AGAIN = "when its cause is gone, run again with --set resources.retry_failed=true"
_LONGEST = 240  # characters of a cause


def check_cells(plan: Plan, records: Mapping[str, AdapterRecord]) -> None:
    """Raises StageError when every cell that trains has failed."""
    tried = [records[key] for key in plan.jobs if key in plan.lasting and key in records]  # in the order of the plan
    if not plan.jobs or len(tried) < len(plan.lasting) or any(record.trained for record in tried):
        return
    cause = tried[0].details.get("error")
    raise StageError(f"{_all(len(tried), 'cell')} failed in training: {_short(cause)}; {_AGAIN}")


def check_answers(store: Store) -> None:
    """Raises StageError when there are generations and none of them has a text."""
    count, reason, provenance = 0, "", ""
    for part in store.iter_parts(Kind.GENERATIONS, columns=["answer", "finish_reason", "provenance"]):
        texts = pc.fill_null(pc.utf8_trim_whitespace(part["answer"]), "")
        if pc.any(pc.not_equal(texts, "")).as_py():
            return
        count += part.num_rows
        reason, provenance = part["finish_reason"][0].as_py(), part["provenance"][0].as_py()
    if count:
        cause = json.loads(provenance).get("error") or f"each is empty (finish reason: {reason})"
        raise StageError(f"{_all(count, 'answer')} failed: {_short(cause)}; {_AGAIN}")


def check_verdicts(store: Store, *, again: str = _AGAIN) -> None:
    """Raises StageError when there are verdicts and none of them says anything of its answer."""
    count, outcome, reply = 0, "", None
    for part in store.iter_parts(Kind.VERDICTS, columns=["outcome", "reply"]):
        if not pc.all(pc.is_in(part["outcome"], value_set=_NO_VERDICT)).as_py():
            return
        count += part.num_rows
        outcome, reply = part["outcome"][0].as_py(), part["reply"][0].as_py()
    if count and outcome == Outcome.API_ERROR:
        cause = _short(reply) if reply else "the endpoint answered none of the requests"
        raise StageError(f"{_all(count, 'verdict')} failed: {cause}; {again}")
    if count:
        raise StageError(
            f"no reply of the judge could be read, {count:,} verdicts are {outcome} (one reply: {_short(reply)}); "
            "change judge.model, judge.max_tokens or the rubric, and run again"
        )


def check_scored(store: Store) -> None:
    """Raises StageError for a study in which no answer has a score: its tables stand, and say nothing."""
    found: dict[str, Counter[str]] = {}
    reply = None
    for part in store.iter_parts(Kind.VERDICTS, columns=["metric", "outcome", "reply"]):
        for group in part.group_by(["metric", "outcome"]).aggregate([([], "count_all")]).to_pylist():
            found.setdefault(group["metric"], Counter())[group["outcome"]] += group["count_all"]
        reply = reply or part["reply"][0].as_py()
    metric = str(Metric.ALIGNED) if str(Metric.ALIGNED) in found else next(iter(found), None)
    if metric is None:
        raise StageError(f"no answer has a score: none in {store.root} was judged; see judge.share, and run again")
    outcomes = found[metric]
    if not outcomes[Outcome.SCORED]:
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        raise StageError(
            f"no answer has a score: the verdicts on {metric} are {told} (one reply: {_short(reply)}); "
            "see the report, change judge.model or the rubric, and run again"
        )


def check_results(store: Store) -> None:
    """Raises StageError for a run folder in which no verdict says anything of an answer: there is nothing to reduce."""
    if store.part_sizes(Kind.VERDICTS):
        check_verdicts(store)  # of answers whose text is elsewhere, too: imported scores
        return
    check_answers(store)
    failed = [record for record in store.adapter_records().values() if not record.trained]
    if store.part_sizes(Kind.GENERATIONS):
        what = "none of its answers is judged yet"
    elif failed:
        cells = f"{len(failed):,} cell" + ("s" if len(failed) > 1 else "")
        what = f"there is no answer yet, and {cells} failed: {_short(failed[0].details.get('error'))}"
    else:
        what = "there is no answer yet"
    raise StageError(f"nothing to reduce in {store.root}: {what}; run python -m emray.sweep with its sweep file")


def _all(count: int, noun: str) -> str:
    return f"the only {noun}" if count == 1 else f"all {count:,} {noun}s"


def _short(cause: Any) -> str:
    text = " ".join(str(cause or "no cause was recorded").split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
