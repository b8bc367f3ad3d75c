"""What steered models answer, beside what they answer unsteered: rows of steering.csv.

Not for the directions (direction_rows.py). Invariant: a row for everything that was planned; rates are the headline's
estimand under its rule, and coherence stands beside each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Arm, Cell, Condition
from emray.reduce.cells import Counts, count
from emray.reduce.fields import Rows
from emray.reduce.study import Study
from emray.reduce.tally import AnswerTally, tally
from emray.stats.arrays import Floats, Ints
from emray.stats.headline import rate_interval
from emray.stats.intervals import t_interval
from emray.stats.standard import seed_means
from emray.store import Store

_PLACE = ("model", "source_arm", "source", "kind", "layer", "domain", "how", "scale", "condition")


def steering_rows(store: Store, study: Study, *, unsteered: AnswerTally) -> Rows:
    """A row for what was done along the directions of one domain to one kind of cell; none where nothing was."""
    if study.steering is None:
        return []
    mine = steering_study(study, study.steering)
    before, after = _CellCounts.of(study, unsteered), _CellCounts.of(mine, tally(store, mine))
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in study.steering["cells"]:
        groups.setdefault(tuple(one[name] for name in _PLACE), []).append(one)
    return [_row(dict(zip(_PLACE, place, strict=True)), cells, before, after) for place, cells in groups.items()]


def steering_study(study: Study, told: Mapping[str, Any]) -> Study:
    """The steered cells, asked as they were."""
    cells = tuple(Cell(one["model"], one["domain"], Arm(one["arm"]), one["seed"], one["key"]) for one in told["cells"])
    generate = study.sweep.generate.model_copy(update={"samples": told["samples"]})
    sweep = study.sweep.model_copy(update={"generate": generate})
    return replace(study, sweep=sweep, cells=cells, fractions=(1.0,) * len(cells))


class _Run(NamedTuple):
    """One cell under one condition, by question [Q]."""

    events: Ints
    totals: Ints
    coherent: Ints
    judged: Ints  # answers with a score for coherence


@dataclass(frozen=True)
class _CellCounts:
    """Counts of some cells' answers."""

    study: Study
    counts: Counts
    num_coherence: Ints  # by group, answers with a score for coherence
    position: Mapping[str, int]  # of a cell, by its key

    @classmethod
    def of(cls, study: Study, found: AnswerTally) -> "_CellCounts":
        position = {cell.key: number for number, cell in enumerate(study.cells)}
        return cls(study, count(found, study.spec.rules), found.coherent.num, position)

    def run(self, key: str, condition: str) -> _Run:
        num_questions = len(self.study.question_ids)
        place = self.position[key] * len(self.study.conditions) + self.study.conditions.index(Condition(condition))
        groups = place * num_questions + np.arange(num_questions)
        events, totals, _ = (values[groups] for values in self.counts.rules[self.study.spec.rule])
        judged = self.num_coherence[groups]
        return _Run(events, totals, judged - self.counts.incoherent[groups], judged)


def _row(
    place: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], before: _CellCounts, after: _CellCounts
) -> dict[str, Any]:
    runs = [after.run(one["key"], one["condition"]) for one in cells]
    unsteered = [before.run(one["of"], one["condition"]) for one in cells]
    events, totals = (np.stack([run[column] for run in runs]) for column in (0, 1))
    found = rate_interval(events, totals, level=after.study.level)
    rates, rates_before = _seed_rates(runs), _seed_rates(unsteered)
    change = t_interval(rates - rates_before, level=after.study.level)
    return {
        "model": place["model"],
        "arm": place["source_arm"],
        "domain": place["source"],
        "difference": place["kind"],
        "layer": place["layer"],
        "steered": place["domain"] if place["domain"] != NO_DOMAIN else "base",
        "how": place["how"],
        "scale": place["scale"],
        "condition": place["condition"],
        "n_seeds": int(np.isfinite(rates).sum()),
        "n_events": int(events.sum()),
        "n_total": int(totals.sum()),
        "rate": found.estimate,
        "ci_low": found.low,
        "ci_high": found.high,
        "coherent": _share(runs),
        "rate_before": _mean(rates_before),
        "coherent_before": _share(unsteered),
        "change": change.estimate,
        "change_low": change.low,
        "change_high": change.high,
    }


def _seed_rates(runs: Sequence[_Run]) -> Floats:
    """Of every run [S]; NaN for one without an answer that counts."""
    return seed_means(np.stack([run.events for run in runs]), np.stack([run.totals for run in runs]))


def _share(runs: Sequence[_Run]) -> float:
    """Coherent answers over answers with a score for coherence."""
    judged = sum(int(run.judged.sum()) for run in runs)
    return sum(int(run.coherent.sum()) for run in runs) / judged if judged else np.nan


def _mean(rates: Floats) -> float:
    there = rates[np.isfinite(rates)]
    return float(there.mean()) if len(there) else np.nan
