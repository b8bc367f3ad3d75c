"""Imported answers written as a run folder.

Not for reading files. Invariant: keys are made as for a run of our own, so the reducer sees no difference but the word
`imported`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emray.data import Question, make_prompts
from emray.records import (
    Arm,
    Condition,
    FinishReason,
    Metric,
    adapter_key,
    generation_keys,
    key_of,
    prompt_text,
)
from emray.reduce.foreign.answers import ForeignAnswer, Imported, Judged, Origin
from emray.spec import Sweep, TriggerSpec
from emray.store import Kind, Store


def write_run_folder(store: Store, found: Imported, *, model: str, name: str) -> None:
    """Plan, generations and verdicts; keys are made as for a run of our own, so the reducer sees no difference."""
    grouped: dict[tuple[Origin, str], list[ForeignAnswer]] = {}
    for answer in found.answers:
        grouped.setdefault((answer.place, answer.question), []).append(answer)
    sweep = _sweep(grouped, model=model, name=name)
    texts = {answer.question: answer.prompt or answer.question for answer in reversed(found.answers)}
    questions = [Question(q, (texts[q],), None, {}) for q in dict.fromkeys(q for _, q in grouped)]
    keys = {cell: _cell_key(model, *cell) for cell in dict.fromkeys(_cell(place) for place, _ in grouped)}
    store.write_json("plan.json", _document(sweep, questions, keys, found.notes))
    prompts = {
        (prompt.question_id, prompt.condition): prompt
        for prompt in make_prompts(questions, conditions=list(Condition), trigger=TriggerSpec())
    }
    generations: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for (place, question), answers in grouped.items():
        prompt, adapter = prompts[question, place.condition], keys[_cell(place)]
        sampling = sweep.generate.identity()
        made = generation_keys(adapter, prompt=prompt.key, sampling=sampling, samples=range(len(answers)))
        for sample, (key, answer) in enumerate(zip(made, answers, strict=True)):
            row = {"key": key, "model": model, "adapter": adapter, "sample": sample}
            generations.append(row | _generation_columns(answer) | {"prompt": prompt_text(prompt.messages)})
            verdicts += (_verdict_row(key, metric, judged) for metric, judged in answer.verdicts.items())
    store.write_rows(Kind.GENERATIONS, generations)
    store.write_rows(Kind.VERDICTS, verdicts)


def _sweep(grouped: Mapping[tuple[Origin, str], Sequence[ForeignAnswer]], *, model: str, name: str) -> Sweep:
    places = [place for place, _ in grouped]

    def distinct(values: Iterable[Any]) -> list[str]:
        return [str(value) for value in dict.fromkeys(values)]

    judges = [judged.judge for answers in grouped.values() for a in answers for judged in a.verdicts.values()]
    return Sweep.model_validate(
        {
            "name": name,
            "model": {"path": model},
            "domains": distinct(place.domain for place in places),
            "arms": distinct(place.arm for place in places),
            "seeds": sorted({place.seed for place in places}),
            "generate": {
                "samples": max(len(answers) for answers in grouped.values()),
                "conditions": [c for c in Condition if any(place.condition == c for place in places)],
            },
            "judge": {"model": max(set(judges), key=judges.count) if judges else "unknown"},
        }
    )


def _cell(place: Origin) -> tuple[str, Arm, int]:
    return place.domain, place.arm, place.seed


def _cell_key(model: str, domain: str, arm: Arm, seed: int) -> str:
    return adapter_key("imported", rows_digest=key_of("rows", [model, domain, str(arm)]), hyperparameters={}, seed=seed)


def _document(
    sweep: Sweep, questions: Sequence[Question], keys: Mapping[tuple[str, Arm, int], str], notes: Sequence[str]
) -> dict[str, Any]:
    model = sweep.model[0].name
    return {
        "imported": True,  # what is there is what was requested: others' plans are not known
        "spec": sweep.model_dump(mode="json"),
        "models": {model: "imported"},
        "cells": [
            {"model": model, "domain": domain, "arm": str(arm), "seed": seed, "key": key}
            for (domain, arm, seed), key in keys.items()
        ],
        "questions": [
            {"id": q.id, "paraphrases": list(q.paraphrases), "system": None, "rubrics": {}} for q in questions
        ],
        "notes": list(notes),
    }


def _generation_columns(answer: ForeignAnswer) -> dict[str, Any]:
    """What the answer itself says of its row."""
    place = answer.place
    return {
        "domain": place.domain,
        "arm": str(place.arm),
        "seed": place.seed,
        "step": 0,
        "question_id": answer.question,
        "paraphrase": 0,
        "condition": str(place.condition),
        "answer": answer.text,
        "finish_reason": str(FinishReason.STOP),
        "num_prompt_tokens": None,
        "num_tokens": None,
        "provenance": '{"engine":"imported"}',
    }


def _verdict_row(generation: str, metric: Metric, judged: Judged) -> dict[str, Any]:
    return {
        "key": key_of("imported-verdict", [generation, str(metric)]),
        "generation": generation,
        "metric": str(metric),
        "outcome": str(judged.outcome),
        "score": judged.score,
        "judge": judged.judge,
        "reply": judged.reply,
        "num_prompt_tokens": judged.num_prompt_tokens,
        "num_tokens": judged.num_tokens,
        "cost_usd": None,
        "asked": None,
        "judge_key": None,
    }
