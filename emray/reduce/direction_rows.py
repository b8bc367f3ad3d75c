"""Directions of finetunes and how far they agree: rows of directions.csv and direction_cosines.csv.

Not for the arithmetic (probes/directions.py) or for steering (steering_rows.py). Invariant: a domain whose finetunes
have no direction has a row that says why.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from emray.model.direction_files import Directions, length_of, read_directions
from emray.probes.directions import FEWEST, agreement, random_cosine
from emray.probes.finetune_directions import PROBE
from emray.records import Difference
from emray.reduce.fields import Rows
from emray.reduce.measured import Measured, read_measured
from emray.reduce.study import Study
from emray.store import Store


class DirectionRows(NamedTuple):
    """Rows of the two tables."""

    directions: Rows
    cosines: Rows


class _Domain(NamedTuple):
    """The runs of one model, arm and domain."""

    model: str
    arm: str
    domain: str
    runs: list[Measured]

    @property
    def columns(self) -> dict[str, str]:
        return {"model": self.model, "domain": self.domain, "arm": self.arm}

    def total(self, measure: str) -> int:
        return int(np.nansum([run.value(measure) for run in self.runs]))


def direction_rows(store: Store, study: Study) -> DirectionRows:
    """Everything the directions probe has to say but of steering; no rows where the sweep has none."""
    domains = _domains(read_measured(store, study.measurements, probe=PROBE))
    told = [row for domain in domains for kind in Difference for row in _rows_of(domain, kind)]
    return DirectionRows(told, list(_cosine_rows(store, domains)))


def _domains(measured: Sequence[Measured]) -> list[_Domain]:
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for one in measured:
        found.setdefault((one.of.model, one.of.arm, one.of.domain), []).append(one)
    return [_Domain(*place, runs) for place, runs in found.items()]


def _rows_of(domain: _Domain, kind: Difference) -> Iterator[dict[str, Any]]:
    """A row a layer, means over the runs that have the direction; one without a layer where none has."""
    layers = sorted({int(r.subject) for run in domain.runs for r in run.readings if r.measure == length_of(kind)})
    told: list[int | None] = [*layers] or [None]
    for layer in told:
        values = [
            [run.value(measure, subject=str(layer)) for run in domain.runs]
            for measure in (length_of(kind), f"{kind}_reliability")
        ]
        lengths, reliabilities = (np.array(some)[np.isfinite(some)] for some in values)
        yield {
            **domain.columns,
            "difference": str(kind),
            "layer": layer,
            "n_seeds": len(lengths),
            "n_aligned": domain.total("num_aligned"),
            "n_misaligned": domain.total("num_misaligned"),
            "length": lengths.mean() if len(lengths) else np.nan,
            "reliability": reliabilities.mean() if len(reliabilities) else np.nan,
            "note": _note(domain, kind, num_runs=len(lengths)),
        }


def _note(domain: _Domain, kind: Difference, *, num_runs: int) -> str:
    """Why runs are without the direction; empty where all have it."""
    if num_runs == len(domain.runs):
        return ""
    failures = [run.failure for run in domain.runs if run.failure]
    if failures:
        return failures[0]
    if not any(run.readings for run in domain.runs):
        return "not measured"
    few = f"a run needs {FEWEST} aligned and {FEWEST} misaligned answers" if kind == Difference.DATA else "no answers"
    return f"{len(domain.runs) - num_runs} of {len(domain.runs)} runs without: {few}"


def _cosine_rows(store: Store, domains: Sequence[_Domain]) -> Iterator[dict[str, Any]]:
    for model, arm in dict.fromkeys((domain.model, domain.arm) for domain in domains):
        mine = [domain for domain in domains if (domain.model, domain.arm) == (model, arm)]
        runs = {domain.domain: _read(store, domain) for domain in mine}
        names = list(runs)
        for kind in Difference:
            for number, name in enumerate(names):
                for other in names[number:]:
                    place = {"model": model, "arm": arm, "difference": str(kind), "domain_a": name, "domain_b": other}
                    yield from (place | row for row in _layer_rows(runs[name], runs[other], kind))


def _read(store: Store, domain: _Domain) -> dict[int, Directions]:
    return {run.of.seed: read_directions(store, run.of.key) for run in domain.runs if run.readings}


def _layer_rows(one: dict[int, Directions], other: dict[int, Directions], kind: Difference) -> Iterator[dict[str, Any]]:
    found = agreement(one, other, kind)
    if found is None:
        return
    width = next(runs.whole[kind].shape[1] for runs in one.values() if kind in runs.whole)
    for layer in range(len(found.mean)):
        yield {
            "layer": layer,
            "n_pairs": found.num_pairs,
            "cosine": found.mean[layer],
            "cosine_low": found.lowest[layer],
            "cosine_high": found.highest[layer],
            "ceiling": found.ceiling[layer],
            "chance": random_cosine(width),
        }
