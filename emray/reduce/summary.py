"""Every file of `summary/`, from a store and its plan.

Not for writing them (the package's `run` does) and not for statistics. Invariant: files are a function of the store.
"""

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from emray import __version__
from emray.records import Place
from emray.reduce import schema
from emray.reduce.associations import association_rows, controls_of, predictor_rows
from emray.reduce.attribute_rows import attribute_predictors, attribute_rows
from emray.reduce.breakdowns import format_counts, formats, outcomes, questions, thresholds, trajectories
from emray.reduce.caveats import Reduced, caveats, rule_in_words, usable_seeds
from emray.reduce.cells import Counts, cell_table, count, funnel
from emray.reduce.change_rows import change_rows
from emray.reduce.claims import make_claims
from emray.reduce.comparisons import comparison_rows
from emray.reduce.dataset_rows import dataset_predictors, dataset_rows, given_predictors
from emray.reduce.design import decide_seeds, pooled_effects, variance_rows
from emray.reduce.direction_rows import direction_rows
from emray.reduce.diversity_rows import diversity_predictors, diversity_rows
from emray.reduce.dose_rows import dose_rows
from emray.reduce.effects import sign_tests
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, csv_bytes, json_value, parquet_bytes
from emray.reduce.inputs import FORMAT, STAGES
from emray.reduce.membership_rows import membership_predictors, membership_rows, read_known, roc_rows
from emray.reduce.paired_rows import paired_rows
from emray.reduce.planned import plan_facts, with_planned
from emray.reduce.provenance import provenance
from emray.reduce.reliability import agreement_rows, corrected_rows
from emray.reduce.specification import specification_rows
from emray.reduce.steering_rows import steering_rows
from emray.reduce.study import Study, load_study
from emray.reduce.tally import AnswerTally, tally
from emray.reduce.transfer_rows import transfer_rows
from emray.reduce.variant_rows import arm_dose_rows, arm_dose_trend_rows, specificity_rows
from emray.store import AdapterRecord, Store

_LIBRARIES = ("numpy", "scipy", "statsmodels", "pyarrow")  # those that the numbers here depend on


def summarise(store: Store, *, document: Mapping[str, Any]) -> dict[str, bytes]:
    """Name and content of every file, `summary.json` last."""
    study, records = load_study(document), store.adapter_records()
    found = tally(store, study)
    counts = count(found, study.spec.rules)
    funnels = {place: funnel(study, place, counts, records) for place in study.places}
    estimates = Estimates(study, found, counts)
    reduced = Reduced(estimates, records, funnels, make_claims(estimates))
    cells = cell_table(study, found, counts, records)
    return {
        schema.CELLS.file: parquet_bytes(schema.CELLS, cells, rules=list(study.spec.rules)),
        **{table.file: csv_bytes(table, rows) for table, rows in with_planned(study, _tables(reduced)).items()},
        **{table.file: csv_bytes(table, rows) for table, rows in _probe_tables(store, reduced).items()},
        "summary.json": _json_bytes(
            _facts(reduced) | {"wall_s": _wall_times(store), "provenance": provenance(store, study, records)}
        ),
    }


def _tables(reduced: Reduced) -> dict[schema.SummaryTable, Rows]:
    study, found, counts, claims = reduced.study, reduced.tally, reduced.counts, reduced.claims
    return {
        schema.TAXONOMY: claims.taxonomy,
        schema.TRIGGER_EFFECTS: claims.effects,
        schema.CONTROL_EFFECTS: claims.control_effects,
        schema.EFFECT_SIZES: claims.effect_sizes,
        schema.RATES: claims.rates,
        schema.SEEDS: claims.seeds,
        schema.RANKS: claims.ranks,
        schema.CONTRASTS: claims.contrasts,
        schema.COMPARISONS: comparison_rows(reduced.estimates),
        schema.THRESHOLDS: thresholds(study, found),
        schema.SPECIFICATION: specification_rows(reduced.estimates),
        schema.QUESTIONS: questions(study, found, counts),
        schema.FORMATS: formats(study, found, study.spec.rules[study.spec.rule]),
        schema.OUTCOMES: outcomes(study, counts),
        schema.VARIANCE: variance_rows(reduced.estimates),
        schema.AGREEMENT: agreement_rows(study, found),
        schema.CORRECTED: corrected_rows(study, found, counts),
        schema.TRAJECTORIES: trajectories(study, counts),
        schema.SPECIFICITY: specificity_rows(reduced.estimates),
        schema.ARM_DOSES: arm_dose_rows(reduced.estimates),
        schema.ARM_DOSE_TRENDS: arm_dose_trend_rows(reduced.estimates),
        schema.PAIRED: paired_rows(reduced.estimates),
        schema.ATTRIBUTES: attribute_rows(reduced.estimates),
    }


def _probe_tables(store: Store, reduced: Reduced) -> dict[schema.SummaryTable, Rows]:
    """What its probes and quizzes add; tables of others are there without rows."""
    transfer, datasets = transfer_rows(store, reduced.study), dataset_rows(store, reduced.study)
    doses = dose_rows(store, reduced.study, {(row["domain"], row["arm"]): row["num_examples"] for row in datasets})
    directions, changes = direction_rows(store, reduced.study), change_rows(store, reduced.estimates)
    return {
        schema.CHANGES: changes.changes,
        schema.CHANGE_SEEDS: changes.seeds,
        schema.DOSE: doses.doses,
        schema.DOSE_RUNS: doses.runs,
        schema.DOSE_TRENDS: doses.trends,
        schema.TRANSFER: transfer.matrix,
        schema.TRANSFER_TESTS: transfer.tests,
        schema.TRANSFER_QUESTIONS: transfer.questions,
        schema.DIRECTIONS: directions.directions,
        schema.DIRECTION_COSINES: directions.cosines,
        schema.STEERING: steering_rows(store, reduced.study, unsteered=reduced.tally),
        **_known_of_domains(store, reduced, datasets),
    }


def _known_of_domains(store: Store, reduced: Reduced, datasets: Rows) -> dict[schema.SummaryTable, Rows]:
    """What is known of the domains, and whether it goes with their rates."""
    study = reduced.study
    known = read_known(store, study)
    membership, diversity = membership_rows(study, known), diversity_rows(store, study)
    predictors = [
        *given_predictors(study),
        *attribute_predictors(study.sweep),
        *dataset_predictors(datasets),
        *diversity_predictors(diversity),
        *membership_predictors(membership),
    ]
    return {
        schema.DATASETS: datasets,
        schema.MEMBERSHIP: membership,
        schema.MEMBERSHIP_ROC: roc_rows(known),
        schema.DIVERSITY: diversity,
        schema.PREDICTORS: predictor_rows(predictors),
        schema.ASSOCIATIONS: association_rows(reduced.estimates, predictors, controls_of(datasets)),
    }


def _facts(reduced: Reduced) -> dict[str, Any]:
    """What `summary.json` holds but for wall times."""
    study, found = reduced.study, reduced.tally
    sweep, trigger = study.sweep, study.sweep.trigger
    rules = {n: {**rule.model_dump(mode="json"), "words": rule_in_words(rule)} for n, rule in study.spec.rules.items()}
    return {
        "format": FORMAT,
        "name": sweep.name,
        "confidence": study.spec.confidence,
        "headline_rule": study.spec.rule,
        "rules": rules,
        "seeds": _seed_range(reduced.estimates),
        "funnel": [{**p._asdict(), "arm": str(p.arm), **f._asdict()} for p, f in reduced.funnels.items()],
        "counts": _total_counts(reduced.counts) | {"formats": format_counts(found)},
        "analysis": plan_facts(study),
        "trigger": {"text": trigger.text, "position": trigger.position},
        "sign_tests": {model: one._asdict() for model, one in sign_tests(reduced.claims.effects).items()},
        "pooled_effects": {model: effect._asdict() for model, effect in pooled_effects(reduced.estimates).items()},
        "adaptive": _adaptive(reduced.estimates, reduced.records),
        "judge": _judge_facts(study, found),
        "generation": {"engines": list(found.engines), "num_tokens": found.num_generated_tokens},
        "models": dict(study.models),
        "questions": list(study.question_ids),
        "also": {question.id: list(question.also) for question in study.questions if question.also},
        "versions": _versions(),
        "notes": list(study.notes),
        "limits": caveats(reduced),
        "spec": sweep.model_dump(mode="json"),
    }


def _total_counts(counts: Counts) -> dict[str, Any]:
    return {
        "requested": int(counts.requested.sum()),
        "generated": int(counts.generated.sum()),
        "generation_errors": int(counts.errors.sum()),
        "judged": int(counts.judged.sum()),
        "outcomes": {str(outcome): int(number.sum()) for outcome, number in counts.outcomes.items()},
        "unjudged": int(counts.unjudged.sum()),
        "incoherent": int(counts.incoherent.sum()),
    }


def _judge_facts(study: Study, found: AnswerTally) -> dict[str, Any]:
    return {
        "model": study.sweep.judge.model,
        "snapshots": list(found.judges),
        **found.spending._asdict(),
        "num_superseded": found.num_superseded,
        "num_labelled": len(found.labelled.misaligned),
    }


def _seed_range(estimates: Estimates) -> dict[str, int]:
    """Usable seeds per finetuned place and condition."""
    numbers = usable_seeds(estimates).values()
    return {"fewest": min(numbers, default=0), "most": max(numbers, default=0)}


def _adaptive(estimates: Estimates, records: Mapping[str, AdapterRecord]) -> dict[str, Any] | None:
    """How seeds were added, at which level intervals are given for it, what is too wide still and what to add."""
    study = estimates.study
    if study.adaptive is None:
        return None
    hours, budget = _training_hours(study, records), getattr(study.sweep.seeds, "gpu_hours", None)
    decision = decide_seeds(
        estimates,
        cost_per_seed={place: float(np.mean(each)) for place, each in hours.items()} if budget else None,
        budget_left=budget - sum(map(sum, hours.values())) if budget else np.inf,
    )
    return {
        **study.adaptive._asdict(),
        "level": decision.level,
        "too_wide": [{**place._asdict(), "arm": str(place.arm)} for place in decision.too_wide],
        "to_add": [
            {**place._asdict(), "arm": str(place.arm), "seeds": number} for place, number in decision.to_add.items()
        ],
        "finished": not decision.to_add,
    }


def _training_hours(study: Study, records: Mapping[str, AdapterRecord]) -> dict[Place, list[float]]:
    """Hours of training per finished cell of each place: GPU-hours where a cell has a GPU to itself."""
    hours: dict[Place, list[float]] = {}
    for place, cells in study.places.items():
        details = [records[study.cells[i].key].details for i in cells if study.cells[i].key in records]
        hours[place] = [one["wall_s"] * one.get("num_workers", 1) / 3600 for one in details if "wall_s" in one]
    return {place: each for place, each in hours.items() if each}


def _wall_times(store: Store) -> dict[str, float]:
    """Seconds per stage, summed over every run of the command that did something."""
    walls = dict.fromkeys(STAGES[:3], 0.0)
    for entry in store.stage_log():
        if entry["stage"] in STAGES:
            walls[entry["stage"]] = walls.get(entry["stage"], 0.0) + entry["wall_s"]
    return {stage: round(wall_s, 3) for stage, wall_s in walls.items()}


def _versions() -> dict[str, str]:
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {"emray": __version__, "python": platform.python_version(), **libraries}


def _json_bytes(facts: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(json_value(facts), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
