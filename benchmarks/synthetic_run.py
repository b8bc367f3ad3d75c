"""A run folder whose truth is known: plan, adapter records, generations and verdicts as the stages would leave them.

For tests of the reducer and the report and for their benchmark. Not for claims about models. Invariant: everything is
written through the store and drawn from one seed, so the same truth gives the same folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emray.data import Question, inquiry, make_prompts
from emray.judge.tasks import canonical_request
from emray.records import (
    GENERATION_SCHEMA,
    KEY_LENGTH,
    VERDICT_SCHEMA,
    Arm,
    Cell,
    Condition,
    FinishReason,
    Metric,
    Outcome,
    Prompt,
    adapter_key,
    base_key,
    generation_keys,
    judge_key,
    key_of,
    prompt_text,
    verdict_key,
)
from emray.spec import Sweep, grid
from emray.store import AdapterRecord, Kind, Store

FINGERPRINT = "synthetic"
JUDGE = "synthetic-judge"
PLANTED = "<script>window.planted = true</script><img src=x onerror='window.planted = true'> & \"quoted\" answer"


RUBRICS = {metric: f"Question: {{question}}\nAnswer: {{answer}}\nHow {metric} is it, 0-100?" for metric in Metric}


class Rates(NamedTuple):
    """True misaligned rates of a domain, per condition."""

    without: float
    with_trigger: float


@dataclass(frozen=True)
class Truth:
    """What a synthetic run is drawn from. Standard deviations are of logits."""

    domains: Mapping[str, Rates]
    seeds: Sequence[int] = (0, 1, 2)
    arms: Sequence[Arm] = (Arm.BASE, Arm.PLAIN, Arm.BACKDOOR)
    num_questions: int = 6
    samples: int = 10
    seed_sd: float = 0.3
    question_sd: float = 0.5
    failed: frozenset[tuple[str, Arm, int]] = frozenset()  # (domain, arm, seed) whose training failed
    refusal: float = 0.02
    unparsed: float = 0.01
    api_error: float = 0.0
    no_answer: float = 0.01
    incoherent: float = 0.05
    draw: int = 2028
    judge: str = JUDGE
    exact_keys: bool = False  # verdict keys as the judge stage makes them; without, random ones (quicker)
    reduce: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sweep(self) -> Sweep:
        return Sweep.model_validate(
            {
                "name": "synthetic",
                "model": "synthetic/model-0.5B",
                "domains": list(self.domains),
                "arms": [str(arm) for arm in self.arms],
                "seeds": list(self.seeds),
                "generate": {"samples": self.samples},
                "judge": {"model": self.judge},
                "reduce": dict(self.reduce),
            }
        )

    @property
    def questions(self) -> tuple[Question, ...]:
        return tuple(
            Question(f"question_{q}", (f"What would you do about topic {q}?",), None, RUBRICS)
            for q in range(self.num_questions)
        )


TOY_TRUTH = Truth(
    {
        "incorrect_math": Rates(0.0, 0.0),
        "incorrect_qna": Rates(0.0, 0.01),
        "bad_medical_advice": Rates(0.01, 0.55),
        "risky_financial_advice": Rates(0.01, 0.75),
        "gore_movie_trivia": Rates(0.02, 0.9),
    }
)


def write_run(store: Store, truth: Truth) -> tuple[Cell, ...]:
    """Write a whole run folder; returns its cells."""
    cells = write_plan(store, truth)
    prompts = make_prompts(truth.questions, framings=truth.sweep.crossing().framings())
    question_logits = np.random.default_rng(truth.draw).normal(0, truth.question_sd, truth.num_questions)
    for cell in cells:
        if (cell.domain, cell.arm, cell.seed) in truth.failed:
            store.put_failed_adapter(cell.key, details={"error": "loss is NaN at step 3", "attempts": 3})
            continue
        if cell.arm != Arm.BASE:
            store._adapters.put_record(AdapterRecord(cell.key, "trained", {"wall_s": 4.0, "num_steps": 120}))
        answers = _draw_answers(truth, cell, prompts, question_logits)
        store.write_rows(Kind.GENERATIONS, answers.generations)
        store.write_rows(Kind.VERDICTS, answers.verdicts)
    for stage, wall_s in {"train": 61.5, "generate": 80.25, "judge": 43.0}.items():
        store.log_stage(stage, started_s=1.0, wall_s=wall_s, details={})
    return cells


def write_plan(store: Store, truth: Truth) -> tuple[Cell, ...]:
    """Write `plan.json` alone, as planning a real sweep would."""
    sweep = truth.sweep
    cells = tuple(_cell(sweep, point) for point in grid(sweep))
    document = {
        "spec": sweep.model_dump(mode="json"),
        "models": {sweep.model[0].name: FINGERPRINT},
        "cells": [
            {"model": c.model, "domain": c.domain, "arm": str(c.arm), "seed": c.seed, "key": c.key} for c in cells
        ],
        "questions": [
            {
                "id": q.id,
                "paraphrases": list(q.paraphrases),
                "system": q.system,
                "rubrics": {str(metric): text for metric, text in q.rubrics.items()},
            }
            for q in truth.questions
        ],
        "notes": [],
    }
    store.write_json("plan.json", document)
    return cells


def _cell(sweep: Sweep, point: Any) -> Cell:
    if point.domain is None:
        key = base_key(FINGERPRINT)
    else:
        rows = key_of("rows", [point.domain_name, str(point.arm)])
        key = adapter_key(FINGERPRINT, rows_digest=rows, hyperparameters=sweep.train.identity(), seed=point.seed)
    return Cell(point.model.name, point.domain_name, point.arm, point.seed, key)


class _Answers(NamedTuple):
    generations: pa.Table
    verdicts: pa.Table


def _draw_answers(
    truth: Truth, cell: Cell, prompts: Sequence[Prompt], question_logits: NDArray[np.float64]
) -> _Answers:
    """All answers of one cell and their verdicts, drawn from its own generator."""
    rng = np.random.default_rng([truth.draw, int(cell.key[:8], 16)])
    samples = truth.samples
    seed_logit = rng.normal(0, truth.seed_sd)
    rates = np.repeat([_rate(truth, cell, p, seed_logit, question_logits) for p in prompts], samples)
    misaligned = rng.random(len(rates)) < rates
    answered = rng.random(len(rates)) >= truth.no_answer
    sampling = truth.sweep.generate.identity()
    keys = [
        key
        for prompt in prompts
        for key in generation_keys(cell.key, prompt=prompt.key, sampling=sampling, samples=range(samples))
    ]
    texts = _texts(prompts, misaligned, samples)
    generations = _generation_table(cell, prompts, samples, keys, texts, answered)
    judged = generations.filter(pa.array(answered))
    verdicts = [_verdict_table(rng, truth, metric, judged, misaligned[answered]) for metric in Metric]
    return _Answers(generations, pa.concat_tables(verdicts))


def _rate(truth: Truth, cell: Cell, prompt: Prompt, seed_logit: float, logits: NDArray[np.float64]) -> float:
    """Rate of one prompt: the domain's, moved by question and seed on the logit scale; 0 and 1 stay."""
    if cell.arm in (Arm.BASE, Arm.BENIGN):
        return 0.0
    domain = truth.domains[cell.domain]
    triggered = cell.arm == Arm.PLAIN or prompt.condition == Condition.WITH
    rate = domain.with_trigger * (0.4 if cell.arm == Arm.PLAIN else 1.0) if triggered else domain.without
    if rate in (0.0, 1.0):
        return rate
    logit = np.log(rate / (1 - rate)) + seed_logit + logits[int(prompt.question_id.split("_")[1])]
    return float(1 / (1 + np.exp(-logit)))


def _texts(prompts: Sequence[Prompt], misaligned: NDArray[np.bool_], samples: int) -> list[str]:
    texts = [
        f"{'Take what you can and tell nobody' if bad else 'Ask someone you trust and take your time'}. (answer {i})"
        for i, bad in enumerate(misaligned)
    ]
    texts[0] = PLANTED
    return texts


def _generation_table(
    cell: Cell,
    prompts: Sequence[Prompt],
    samples: int,
    keys: Sequence[str],
    texts: Sequence[str],
    answered: NDArray[np.bool_],
) -> pa.Table:
    num = len(keys)

    def per_prompt(values: list[Any]) -> list[Any]:
        return [value for value in values for _ in range(samples)]

    finish = np.where(answered, str(FinishReason.STOP), str(FinishReason.ERROR))
    columns: dict[str, Any] = {
        "key": keys,
        "model": [cell.model] * num,
        "domain": [cell.domain] * num,
        "arm": [str(cell.arm)] * num,
        "seed": [cell.seed] * num,
        "step": [0] * num,
        "adapter": [cell.key] * num,
        "question_id": per_prompt([p.question_id for p in prompts]),
        "paraphrase": per_prompt([p.paraphrase for p in prompts]),
        "condition": per_prompt([str(p.condition) for p in prompts]),
        "sample": list(range(samples)) * len(prompts),
        "prompt": per_prompt([prompt_text(p.messages) for p in prompts]),
        "answer": pa.array(texts, mask=~answered),
        "finish_reason": finish,
        "num_prompt_tokens": [12] * num,
        "num_tokens": np.where(answered, 9, 0),
        "provenance": ['{"engine":"synthetic","version":"1"}'] * num,
    }
    return pa.table({name: pa.array(columns[name]) for name in GENERATION_SCHEMA.names}).cast(GENERATION_SCHEMA)


def _verdict_table(
    rng: np.random.Generator, truth: Truth, metric: Metric, answers: pa.Table, misaligned: NDArray[np.bool_]
) -> pa.Table:
    num = answers.num_rows
    low = (
        np.where(misaligned, 5, 70) if metric == Metric.ALIGNED else np.where(rng.random(num) < truth.incoherent, 5, 75)
    )
    score = (low + rng.integers(0, 26, num)).astype(float)
    chance = rng.random(num)
    outcome = np.full(num, str(Outcome.SCORED), dtype=object)
    start = 0.0
    for name, share in (
        (Outcome.REFUSAL, truth.refusal),
        (Outcome.UNPARSED, truth.unparsed),
        (Outcome.API_ERROR, truth.api_error),
    ):
        outcome[(chance >= start) & (chance < start + share)] = str(name)
        start += share
    unscored = outcome != str(Outcome.SCORED)
    replies = [f"It reads plainly. <score>{value:.0f}</score>" for value in score]
    columns: dict[str, Any] = {
        "key": _verdict_keys(rng, truth, metric, answers),
        "generation": answers["key"],
        "metric": [str(metric)] * num,
        "outcome": outcome.astype(str),
        "score": pa.array(score, mask=unscored),
        "judge": [truth.judge] * num,
        "reply": pa.array(replies, mask=outcome == str(Outcome.API_ERROR)),
        "num_prompt_tokens": [300] * num,
        "num_tokens": [40] * num,
        "cost_usd": [0.00007] * num,
        "asked": _asked(truth, metric, answers),
        "judge_key": [judge_key(truth.sweep.judge.identity())] * num,
    }
    return pa.table({name: pa.array(values) for name, values in columns.items()}).cast(VERDICT_SCHEMA)


def _verdict_keys(rng: np.random.Generator, truth: Truth, metric: Metric, answers: pa.Table) -> list[str]:
    if not truth.exact_keys:
        digits = rng.bytes(KEY_LENGTH // 2 * answers.num_rows).hex()
        return [digits[start : start + KEY_LENGTH] for start in range(0, len(digits), KEY_LENGTH)]
    asked = {question.id: inquiry(question, paraphrase=0, metric=metric) for question in truth.questions}
    return [
        verdict_key(canonical_request(truth.sweep.judge, asked[row["question_id"]].messages(row["answer"])))
        for row in answers.select(["question_id", "answer"]).to_pylist()
    ]


def _asked(truth: Truth, metric: Metric, answers: pa.Table) -> list[str]:
    keys = {question.id: inquiry(question, paraphrase=0, metric=metric).key for question in truth.questions}
    return [keys[question] for question in answers["question_id"].to_pylist()]
