"""How a run was made, as its log and its records tell: commands, software, machines, and what other runs gave.

Not for what came out. The invariant: it says what was written down when the work was done, nothing of the process that
reads it; what an older run folder did not write down is None.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from emray.data import inquiries
from emray.judge.tasks import judges
from emray.records import canonical_json, key_of
from emray.reduce.inputs import ADOPT, COMMAND, datasets, read_plan
from emray.reduce.study import Study, load_study
from emray.spec import Sweep
from emray.store import AdapterRecord, Store


def provenance(store: Store, study: Study, records: Mapping[str, AdapterRecord]) -> dict[str, Any]:
    """As `summary.json` holds it."""
    log = store.stage_log()
    return {
        "plan": plan_digest(study),
        "commands": _details(log, COMMAND),
        "adopted": _details(log, ADOPT),
        "last": _last(store),
        "machines": _machines(log),
        "versions": versions_of(log, records.values()),
        "datasets": datasets(store),
        "training_usd": _training_usd(records.values()),
    }


def of_earlier_plan(store: Store) -> str | None:
    """In one line, that the summary is not of plan.json, and what to do; None where it is, or there is none.

    Raises StoreError for a folder without a plan.
    """
    if not store.exists("summary/summary.json"):
        return None
    made_of = (store.read_json("summary/summary.json").get("provenance") or {}).get("plan")
    if made_of is None or made_of == plan_digest(load_study(read_plan(store))):
        return None
    return (
        f"the summary and the report in {store.root} are of an earlier plan, not of plan.json; its sweep to the end, "
        "or python -m emray.reduce on what is there, makes them anew"
    )


def _last(store: Store) -> str | None:
    """The day (UTC) on which the last thing was done, by the names of the log's entries."""
    times = [int(name.rpartition("/")[2].partition("-")[0]) for name in store.names("log", suffix=".json")]
    return datetime.fromtimestamp(max(times) / 1000, UTC).date().isoformat() if times else None


def plan_digest(study: Study) -> str:
    """SHA-256 of what was planned, the name by which a run is cited: the cells, what they are asked and how often, who
    judges by which rubrics, what is made of it. Paths, names of files and machines are not in it.
    """
    sweep, asked = study.sweep, inquiries(study.questions, study.prompts)
    judged = [[metric, one.key] for by_metric in asked.values() for metric, one in by_metric.items()]
    planned = {
        "cells": [[cell.model, cell.domain, cell.arm, cell.seed, cell.key] for cell in study.cells],
        "recipes": [recipe["key"] for recipe in study.recipes],
        "asked": {arm: [study.prompts[i].key for i in places] for arm, places in study.own.of_arm.items()},
        "generate": {**sweep.generate.identity(), "samples": sweep.generate.samples},
        "rubrics": sorted(judged),
        "judges": [[one.identity(), one.metrics, one.share] for one in judges(sweep.judge)],
        "reduce": sweep.reduce.model_dump(mode="json"),
        "analysis": study.analysis_hash,
        "measurements": [vars(one) for one in study.measurements],
    }
    if study.quizzes:
        planned["quizzes"] = [quiz.document for quiz in study.quizzes]
    return hashlib.sha256(canonical_json(planned).encode()).hexdigest()


def sweep_key(sweep: Sweep) -> str:
    """Of everything that a sweep file with its overrides says."""
    return key_of("sweep", sweep.model_dump(mode="json"))


def _machines(log: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By stage, every kind of machine with the most of it that one command had; stages that told none are left out."""
    most: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in log:
        for kind in entry["details"].get("machines", ()):
            of_stage = most.setdefault(entry["stage"], {})
            name = canonical_json({key: value for key, value in kind.items() if key != "count"})
            if name not in of_stage or of_stage[name]["count"] < kind["count"]:
                of_stage[name] = kind
    return {stage: [kinds[name] for name in sorted(kinds)] for stage, kinds in most.items()}


def _details(log: Sequence[Mapping[str, Any]], stage: str) -> list[Any]:
    return [entry["details"] for entry in log if entry["stage"] == stage]


def versions_of(log: Sequence[Mapping[str, Any]], records: Iterable[AdapterRecord]) -> dict[str, list[str]]:
    """Every version that had a hand in it, by name: of this run's commands, of runs it took over from, of trainings."""
    everyone = [*_details(log, COMMAND), *(command for one in _details(log, ADOPT) for command in one["commands"])]
    told = [one["versions"] for one in everyone] + [record.details.get("versions", {}) for record in records]
    found: dict[str, dict[str, None]] = {}
    for versions in told:
        for name, version in versions.items():
            found.setdefault(name, {})[version] = None
    return {name: sorted(some) for name, some in found.items()}


def _training_usd(records: Iterable[AdapterRecord]) -> float | None:
    """What services billed for finetuning; None where nothing was trained there, or a price is not known."""
    hosted = [record.details for record in records if "fine_tuned_model" in record.details]
    costs = [details.get("cost_usd") for details in hosted]
    return None if not costs or None in costs else round(sum(cost for cost in costs if cost is not None), 6)
