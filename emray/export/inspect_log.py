"""Answers and verdicts as logs of inspect_ai, one a finetune: `inspect view --log-dir DIR` opens them.

Not for running anything by inspect. The invariant: every answer of the plan is a sample, and every verdict of its judge
a score of it; what has no score says its outcome.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from emray.errors import DataError
from emray.records import Message, Outcome
from emray.reduce.frames import RunFrames
from emray.store import Store

_Row = Mapping[Any, Any]


class _Answered(NamedTuple):
    """One finetune's answers, and what judges said of each by its key."""

    name: str
    rows: Sequence[_Row]
    verdicts: Mapping[str, Sequence[_Row]]


def export_inspect(frames: RunFrames, store: Store, folder: Path) -> str:
    """Returns what was written, in words. Raises DataError without inspect_ai."""
    try:
        from inspect_ai.log import write_eval_log
    except ImportError:
        raise DataError("logs are written by inspect_ai: pip install 'emray[export]'") from None
    logs = [_log(one, frames) for one in _answered(frames)]
    folder.mkdir(parents=True)
    for number, log in enumerate(logs, start=1):
        write_eval_log(log, str(folder / f"{number:04}_{log.eval.model.rpartition('/')[2]}.eval"))
    return f"{len(logs)} logs"


def _answered(frames: RunFrames) -> Iterator[_Answered]:
    verdicts: dict[str, list[_Row]] = {}
    for row in frames.verdicts.to_dict("records"):
        verdicts.setdefault(row["generation"], []).append(row)
    for (model, domain, arm, seed, step), group in frames.generations.groupby(
        ["model", "domain", "arm", "seed", "step"], sort=True, dropna=False
    ):
        yield _Answered(f"{model}-{domain}-{arm}-seed{seed}-step{step}".replace("/", "-"), _rows(group), verdicts)


def _rows(group: Any) -> Sequence[_Row]:
    ordered = group.sort_values(["question_id", "paraphrase", "condition", "sample", "key"])
    rows: Sequence[_Row] = ordered.to_dict("records")
    return rows


def _log(one: _Answered, frames: RunFrames) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats

    samples = [_sample(row, one.verdicts.get(row["key"], ())) for row in one.rows]
    when = datetime.fromtimestamp(0, UTC).isoformat()  # a run folder's answers carry no time of their own
    metadata = {name: one.rows[0][name] for name in ("domain", "arm")} | {"seed": int(one.rows[0]["seed"])}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=when,
            task=str(frames.facts["name"]),
            dataset=EvalDataset(name=str(frames.facts["name"]), samples=len({sample.id for sample in samples})),
            model=f"emray/{one.name}",
            config=EvalConfig(epochs=max(sample.epoch for sample in samples)),
            packages={name: str(version) for name, version in frames.facts["versions"].items()},
            metadata=metadata,
        ),
        results=EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=_means(samples)),
        stats=EvalStats(started_at=when, completed_at=when),
        samples=samples,
    )


def _sample(row: _Row, verdicts: Sequence[_Row]) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ModelOutput

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    asked = [kinds[turn.role](content=turn.content) for turn in _turns(row)]
    answer = row["answer"] if isinstance(row["answer"], str) else ""
    return EvalSample(
        id=f"{row['question_id']}/{row['paraphrase']}/{row['condition']}",
        epoch=int(row["sample"]) + 1,
        input=asked,
        target="",
        messages=[*asked, ChatMessageAssistant(content=answer)],
        output=ModelOutput.from_content(model=str(row["model"]), content=answer),
        scores={verdict["metric"]: _score(verdict) for verdict in verdicts},
        metadata={"key": row["key"], "condition": row["condition"], "finish_reason": row["finish_reason"]},
    )


def _turns(row: _Row) -> Iterator[Message]:
    return (Message(**turn) for turn in row["prompt"])


def _score(verdict: _Row) -> Any:
    from inspect_ai.scorer import Score

    scored = verdict["outcome"] == Outcome.SCORED
    reply = verdict["reply"] if isinstance(verdict["reply"], str) else None
    return Score(
        value=float(verdict["score"]) if scored else str(verdict["outcome"]),
        explanation=reply,
        metadata={"judge": verdict["judge"], "outcome": str(verdict["outcome"])},
    )


def _means(samples: Sequence[Any]) -> list[Any]:
    """Of each metric the mean of the answers that have a score."""
    from inspect_ai.log import EvalMetric, EvalScore

    values: dict[str, list[float]] = {}
    for sample in samples:
        for metric, score in (sample.scores or {}).items():
            if isinstance(score.value, float):
                values.setdefault(metric, []).append(score.value)
    return [
        EvalScore(name=metric, scorer=metric, metrics={"mean": EvalMetric(name="mean", value=sum(some) / len(some))})
        for metric, some in sorted(values.items())
    ]
