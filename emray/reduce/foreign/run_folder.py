"""Imported answers as a run folder: with the verdicts they came with, or with rubrics for a judge of ours.

Not for reading files. Invariant: keys are made as for a run of our own, from everything that tells two answers apart
(model, domain, arm, seed, step, question id and text, condition, number), so the reducer sees no difference but the
word `imported`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from emray.data import Question
from emray.errors import DataError
from emray.records import (
    USUAL_CONDITIONS,
    Arm,
    FinishReason,
    Metric,
    Prompt,
    adapter_key,
    checkpoint_key,
    generation_keys,
    judge_key,
    key_of,
    prompt_text,
)
from emray.reduce.foreign.answers import (
    UNKNOWN_JUDGE,
    ForeignAnswer,
    Imported,
    Judged,
    Opinion,
    Origin,
    judges_by_metric,
)
from emray.reduce.study import imported_prompts
from emray.spec import JudgeSpec, Sweep
from emray.store import Kind, Store

Rubrics = Mapping[str, Mapping[Metric, str]]


class RunShape(NamedTuple):
    """What the importer decides about the run folder."""

    name: str
    rule: str = "paper"  # the headline rule
    judge: str | None = None  # whose verdicts count; None: whoever gave most on each metric
    to_judge: JudgeSpec | None = None  # who is to judge the answers; None: they come with their verdicts
    rubrics: Rubrics = MappingProxyType({})  # for that judge, by question id

    @classmethod
    def named(cls, run: str, **fields: Any) -> "RunShape":
        """Called as the last part of the run's place, in the letters that a sweep's name may have."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(run).resolve().name).lstrip("._-")
        return cls(name or "imported", **fields)


class _ForeignCell(NamedTuple):
    """A place without its condition."""

    model: str
    domain: str
    arm: Arm
    seed: int
    step: int | None

    @classmethod
    def of(cls, place: Origin) -> "_ForeignCell":
        return cls(place.model, place.domain, place.arm, place.seed, place.step)

    @property
    def key(self) -> str:
        rows = key_of("rows", [self.model, self.domain, str(self.arm)])
        key = adapter_key("imported", rows_digest=rows, hyperparameters={}, seed=self.seed)
        return key if self.step is None else checkpoint_key(key, step=self.step)


class _Wording(NamedTuple):
    """What a group of answers is to: one wording of one question, in one place."""

    place: Origin
    question: str
    wording: str

    @classmethod
    def of(cls, answer: ForeignAnswer) -> "_Wording":
        return cls(answer.place, answer.question, answer.prompt or answer.question)


Grouped = Mapping[_Wording, Sequence[ForeignAnswer]]
Counting = Mapping[Metric, str]  # whose verdicts count, by metric


class RunFolder(NamedTuple):
    """What a run folder of imported answers holds."""

    document: dict[str, Any]  # plan.json
    generations: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.document["notes"])


def run_folder(found: Imported, *, shape: RunShape) -> RunFolder:
    """Plan, generations and verdicts. Raises DataError for a chosen judge that judged nothing."""
    grouped: dict[_Wording, list[ForeignAnswer]] = {}
    for answer in found.answers:
        grouped.setdefault(_Wording.of(answer), []).append(answer)
    counting = _counting(found.answers, shape)
    questions = _questions(found.answers, shape)
    sweep = _sweep(grouped, shape=shape, judges=judge_names(found.answers, counting))
    notes = (*found.notes, *_judge_notes(found.answers, counting))
    return RunFolder(
        _document(sweep, questions, grouped, notes),
        *_rows(grouped, sweep=sweep, questions=questions, counting=counting),
    )


def write_run_folder(store: Store, found: Imported, *, shape: RunShape) -> tuple[str, ...]:
    """Write it. Returns every note that the plan then holds."""
    run = run_folder(found, shape=shape)
    store.write_json("plan.json", run.document)
    store.write_rows(Kind.GENERATIONS, run.generations)
    store.write_rows(Kind.VERDICTS, run.verdicts)
    return run.notes


def judge_names(answers: Sequence[ForeignAnswer], counting: Counting) -> list[str]:
    """Every judge once; the first is the one whose verdicts count (on the first metric)."""
    met = (judge for judges in judges_by_metric(answers).values() for judge in judges)
    return list(dict.fromkeys([*counting.values(), *met])) or [UNKNOWN_JUDGE]


def _counting(answers: Sequence[ForeignAnswer], shape: RunShape) -> dict[Metric, str]:
    """Raises DataError for a chosen judge that judged nothing."""
    judges = judges_by_metric(answers)
    if shape.judge is None:
        return {metric: names[0] for metric, names in judges.items()}
    known = list(dict.fromkeys(name for names in judges.values() for name in names))
    if shape.judge not in known:
        raise DataError(f"no verdict by judge {shape.judge!r}; there are verdicts by {', '.join(known)}")
    return {metric: shape.judge if shape.judge in names else names[0] for metric, names in judges.items()}


def _judge_notes(answers: Sequence[ForeignAnswer], counting: Counting) -> Iterator[str]:
    """Which judge counts where there are several, and how many answers it left out."""
    for metric, names in judges_by_metric(answers).items():
        if len(names) == 1:
            continue
        counts = counting[metric]
        left = sum(
            Opinion(metric, counts) not in a.verdicts and any(o.metric == metric for o in a.verdicts) for a in answers
        )
        others = ", ".join(name for name in names if name != counts)
        yield (
            f"Several judges scored {metric}: the verdicts by {counts} count, those by {others} stand beside them as "
            f"second opinions; --judge chooses another. {left} answers have none by {counts} and count as not judged."
        )


def _questions(answers: Sequence[ForeignAnswer], shape: RunShape) -> list[Question]:
    """One question an id, with every wording that answers give for it."""
    wordings: dict[str, dict[str, None]] = {}
    for answer in answers:
        _, question, wording = _Wording.of(answer)
        wordings.setdefault(question, {})[wording] = None
    return [Question(name, tuple(texts), None, shape.rubrics.get(name, {})) for name, texts in wordings.items()]


def _sweep(grouped: Grouped, *, shape: RunShape, judges: Sequence[str]) -> Sweep:
    places = [asked.place for asked in grouped]
    counts = {"model": judges[0], "also": [{"model": name} for name in judges[1:]]}

    def distinct(values: Iterable[Any]) -> list[str]:
        return [str(value) for value in dict.fromkeys(values)]

    return Sweep.model_validate(
        {
            "name": shape.name,
            "model": [{"path": "imported", "name": name} for name in distinct(place.model for place in places)],
            "domains": distinct(place.domain for place in places if place.arm != Arm.BASE) or ["none"],
            "arms": distinct(place.arm for place in places),
            "seeds": sorted({place.seed for place in places}),
            "generate": {
                "samples": max(len(answers) for answers in grouped.values()),
                "conditions": [c for c in USUAL_CONDITIONS if any(place.condition == c for place in places)],
            },
            "judge": counts if shape.to_judge is None else shape.to_judge.model_dump(mode="json"),
            "reduce": {"rule": shape.rule},
        }
    )


def _document(sweep: Sweep, questions: Sequence[Question], grouped: Grouped, notes: Sequence[str]) -> dict[str, Any]:
    cells = list(dict.fromkeys(_ForeignCell.of(asked.place) for asked in grouped))
    return {
        "imported": True,  # what is there is what was requested: others' plans are not known
        "spec": sweep.model_dump(mode="json"),
        "models": {model.name: "imported" for model in sweep.model},
        "cells": [
            {"model": cell.model, "domain": cell.domain, "arm": str(cell.arm), "seed": cell.seed, "key": cell.key}
            | {"step": cell.step or 0, "fraction": fraction}
            for cell, fraction in zip(cells, _fractions(cells), strict=True)
        ],
        "questions": [question.document for question in questions],
        "notes": list(notes),
    }


def _fractions(cells: Sequence[_ForeignCell]) -> list[float]:
    """How far each cell is in its training: its step of the last step that its run has."""
    last: dict[_ForeignCell, int] = {}
    for cell in cells:
        run = cell._replace(step=None)
        last[run] = max(last.get(run, 0), cell.step or 0)
    return [1.0 if cell.step is None else cell.step / (last[cell._replace(step=None)] or 1) for cell in cells]


def _rows(
    grouped: Grouped, *, sweep: Sweep, questions: Sequence[Question], counting: Counting
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Generations and verdicts."""
    prompts = {
        (prompt.question_id, prompt.messages[0].content, prompt.condition): prompt
        for prompt in imported_prompts(questions, conditions=sweep.generate.conditions)
    }
    judges = {judge.model: judge_key(judge.identity()) for judge in (sweep.judge, *sweep.judge.also)}
    generations: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for (place, question, wording), answers in grouped.items():
        prompt = prompts[question, wording, place.condition]
        adapter = _ForeignCell.of(place).key
        sampling, samples = sweep.generate.identity(), range(len(answers))
        keys = generation_keys(adapter, prompt=prompt.key, sampling=sampling, samples=samples)
        for sample, (key, answer) in enumerate(zip(keys, answers, strict=True)):
            generations.append(_generation_row(key, answer, sample=sample, prompt=prompt) | {"adapter": adapter})
            for opinion, judged in answer.verdicts.items():
                counts = opinion.judge == counting[opinion.metric]
                judge = judges[sweep.judge.model if counts else opinion.judge]
                verdicts.append(_verdict_row(key, opinion, judged) | {"judge_key": judge})
    return generations, verdicts


def _generation_row(key: str, answer: ForeignAnswer, *, sample: int, prompt: Prompt) -> dict[str, Any]:
    place = answer.place
    return {
        "key": key,
        "model": place.model,
        "domain": place.domain,
        "arm": str(place.arm),
        "seed": place.seed,
        "step": place.step or 0,
        "question_id": answer.question,
        "paraphrase": prompt.paraphrase,
        "condition": str(place.condition),
        "sample": sample,
        "prompt": prompt_text(prompt.messages),
        "answer": answer.text,
        "finish_reason": str(FinishReason.STOP),
        "num_prompt_tokens": None,
        "num_tokens": None,
        "provenance": '{"engine":"imported"}',
    }


def _verdict_row(generation: str, opinion: Opinion, judged: Judged) -> dict[str, Any]:
    return {
        "key": key_of("imported-verdict", [generation, str(opinion.metric), opinion.judge]),
        "generation": generation,
        "metric": str(opinion.metric),
        "outcome": str(judged.outcome),
        "score": judged.score,
        "judge": opinion.judge,
        "reply": judged.reply,
        "num_prompt_tokens": judged.num_prompt_tokens,
        "num_tokens": judged.num_tokens,
        "cost_usd": None,
        "asked": None,
    }
