"""Finetuning domain x domain of the questions: rows of transfer.csv, transfer_tests.csv and transfer_questions.csv.

Not for the statistics of a table (stats/matrices.py). Invariant: the questions, the samples and the verdicts are the
transfer probe's, the estimand is the headline's: mean over these questions, each weighing the same, over runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from emray.data import Question, arm_prompts
from emray.records import NO_DOMAIN, Arm, Condition, Place
from emray.reduce.cells import Counts, count
from emray.reduce.estimates import RateCells
from emray.reduce.fields import Rows, generator
from emray.reduce.study import Prompted, Study
from emray.reduce.tally import tally
from emray.stats.arrays import Floats
from emray.stats.headline import rate_interval
from emray.stats.intervals import t_interval
from emray.stats.matrices import asymmetry, diagonal_test, difference_of, rank_one
from emray.store import Store


class TransferRows(NamedTuple):
    """Rows of the three tables."""

    matrix: Rows
    tests: Rows
    questions: Rows


def transfer_rows(store: Store, study: Study) -> TransferRows:
    """Everything the transfer probe has to say; no rows where the sweep has none."""
    asked = study.transfer
    if asked is None:
        return TransferRows([], [], [])
    mine = transfer_study(study, asked)
    found = _Transferred(mine, count(tally(store, mine), mine.spec.rules))
    return TransferRows(list(_matrix_rows(found)), list(_test_rows(found)), list(_question_rows(asked)))


def transfer_study(study: Study, asked: Mapping[str, Any]) -> Study:
    """The same cells asked the transfer probe's questions."""
    questions = tuple(map(Question.from_document, asked["questions"]))
    generate = study.sweep.generate.model_copy(update={"samples": asked["samples"]})
    sweep = study.sweep.model_copy(update={"generate": generate})
    return replace(study, sweep=sweep, questions=questions, own=arm_prompts(questions, sweep.crossing()))


@dataclass(frozen=True)
class _Transferred:
    """Counts of the answers to the transfer probe's questions."""

    study: Study
    counts: Counts

    @cached_property
    def columns(self) -> dict[str, list[int]]:
        """Places of each domain's questions, domains in the order of the sweep."""
        of = [question.domain for question in self.study.questions]
        names = [domain.name for domain in self.study.sweep.domains]
        return {name: [q for q, domain in enumerate(of) if domain == name] for name in names}

    def cells(self, one: Prompted, asked: str) -> RateCells:
        """Counts of a place's answers to a domain's questions [S, Q] under the headline rule."""
        groups = self.study.groups_sq(*one)[:, self.columns[asked]]
        events, totals, excluded = (values[groups] for values in self.counts.rules[self.study.spec.rule])
        return RateCells(events, totals, np.maximum(self.counts.requested[groups] - totals - excluded, 0))

    def rates(self, places: Mapping[str, Place], condition: Condition) -> Floats:
        """Rate by run, finetuning domain and asked domain [S, D, D]; NaN where a run has no answer."""
        num_runs = max(len(self.study.places[place]) for place in places.values())
        found = np.full((num_runs, len(places), len(places)), np.nan)
        for row, place in enumerate(places.values()):
            for column, asked in enumerate(places):
                of_runs = self.cells(Prompted(place, condition), asked).seed_rates
                found[: len(of_runs), row, column] = of_runs
        return found


def _matrix_rows(found: _Transferred) -> Iterator[dict[str, Any]]:
    study = found.study
    for one in study.prompted:
        for asked, questions in found.columns.items():
            cells = found.cells(one, asked)
            rate = rate_interval(cells.events, cells.totals, level=study.level)
            (base,) = _base_rates(found, one.place.model, one.condition, (asked,))
            yield {
                **one.columns,
                "asked_domain": asked,
                "n_questions": len(questions),
                "n_seeds": cells.num_seeds,
                "n_events": int(cells.events.sum()),
                "n_total": int(cells.totals.sum()),
                "rate": rate.estimate,
                "ci_low": rate.low,
                "ci_high": rate.high,
                "rate_base": base,
            }


def _base_rates(found: _Transferred, model: str, condition: Condition, asked: Sequence[str]) -> Floats:
    """What the base model does on each domain's questions [D]; NaN where the sweep has none or it has no answer."""
    base = Place(model, NO_DOMAIN, Arm.BASE)
    if base not in found.study.places:
        return np.full(len(asked), np.nan)
    return np.array([found.cells(Prompted(base, condition), one).seed_rates[0] for one in asked])


def _test_rows(found: _Transferred) -> Iterator[dict[str, Any]]:
    """One row a model, arm and condition that has finetunes."""
    study = found.study
    for model, arm in dict.fromkeys((p.model, p.arm) for p in study.places if p.arm != Arm.BASE):
        places = {place.domain: place for place in study.places_of(model, arm)}
        for condition in study.conditions_of(arm):
            runs, base = found.rates(places, condition), _base_rates(found, model, condition, tuple(places))
            rng = generator("transfer", model, arm, condition)
            above = "no" if np.isnan(base).all() else "yes"
            row = {"model": model, "arm": str(arm), "condition": str(condition), "above_base": above}
            yield row | _tested(runs - base if above == "yes" else runs, study.level, rng)


def _tested(runs_sdd: Floats, level: float, rng: np.random.Generator) -> dict[str, Any]:
    there = np.isfinite(runs_sdd)
    mean = np.where(there.any(axis=0), np.nansum(runs_sdd, axis=0) / np.maximum(there.sum(axis=0), 1), np.nan)
    test, factor = diagonal_test(mean, rng=rng), rank_one(mean, rng=rng)
    between = t_interval([difference_of(run) for run in runs_sdd], level=level)
    return {
        "n_domains": test.num_domains,
        "n_seeds": int(there.all(axis=(1, 2)).sum()),
        "diagonal": test.diagonal,
        "off_diagonal": test.off_diagonal,
        "difference": test.difference,
        "ci_low": float(np.clip(between.low, -1, 1)),
        "ci_high": float(np.clip(between.high, -1, 1)),
        "p": test.p,
        "exact": "yes" if test.exact else "no",
        "asymmetry": asymmetry(mean),
        "rank_one": factor.share,
        "rank_one_shuffled": factor.shuffled,
    }


def _question_rows(asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, listed in (("yes", asked["questions"]), ("no", asked["leaked"])):
        for question in listed:
            yield {
                "question_id": question["id"],
                "asked_domain": question["domain"],
                "text": question["paraphrases"][0],
                "likeness": question["likeness"],
                "asked": kind,
            }
