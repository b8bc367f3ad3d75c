"""Contrasts of rates beside the score's drop: against base and benign, by the trigger, by the arm.

Not for pairs of domains (claims.py) or scores (effects.py). Invariant: the unit is the training run, a family is every
domain of one model, arm, condition and kind, and a claim of "none" names its margin.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import numpy as np

from emray.records import Arm, Condition, Place
from emray.reduce.effects import both_asked
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows
from emray.reduce.study import Prompted
from emray.stats.arrays import Floats
from emray.stats.contrasts import TTest, against_one, equal_drops_p, paired_t, runs_test
from emray.stats.intervals import difference_interval
from emray.stats.multiplicity import holm


class Comparison(StrEnum):
    """What is compared, first minus second."""

    BASE = "minus base"  # the same model before finetuning: one model, whose rate has the error of its answers
    BENIGN = "minus benign"  # finetuned on correct answers of the domain
    TRIGGER = "with minus without"  # paired by run
    ARM = "backdoor minus plain, with minus without"  # difference in differences
    NONE = "none"  # is the rate below the margin?


def comparison_rows(estimates: Estimates) -> Rows:
    """Every contrast that the study's arms and conditions allow, Holm-adjusted within its family."""
    rows = [row for one in estimates.study.prompted for row in _of_place(estimates, one)]
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["model"], row["arm"], row["condition"], row["comparison"]), []).append(row)
    for family in families.values():
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(adjusted)
    return rows


def _of_place(estimates: Estimates, one: Prompted) -> Iterator[dict[str, Any]]:
    place, study = one.place, estimates.study
    if place.arm == Arm.BASE:
        return
    rates, level, asked = estimates.cells(one).seed_rates, study.level, set(study.prompted)
    base = [p for p in study.places if p.model == place.model and p.arm == Arm.BASE]
    if base and one.condition in study.conditions_of(Arm.BASE):
        yield _row(estimates, one, Comparison.BASE, _against_base(estimates, one, Prompted(base[0], one.condition)))
    benign = place._replace(arm=Arm.BENIGN)
    if place.arm != Arm.BENIGN and Prompted(benign, one.condition) in asked:
        other = estimates.cells(Prompted(benign, one.condition)).seed_rates
        yield _row(estimates, one, Comparison.BENIGN, runs_test(rates, other, level=level))
    if one.condition == Condition.WITH and both_asked(study, place.arm):
        changes = _changes(estimates, place)
        yield _row(estimates, one, Comparison.TRIGGER, _paired(changes, level=level))
        plain = place._replace(arm=Arm.PLAIN)
        if place.arm == Arm.BACKDOOR and plain in study.places and both_asked(study, Arm.PLAIN):
            yield _row(estimates, one, Comparison.ARM, runs_test(changes, _changes(estimates, plain), level=level))
    yield _none_row(estimates, one)


def _changes(estimates: Estimates, place: Place) -> Floats:
    """Rate with the trigger minus rate without, per run; NaN where either is missing."""
    with_trigger, without = (
        estimates.cells(Prompted(place, c)).seed_rates for c in (Condition.WITH, Condition.WITHOUT)
    )
    return with_trigger - without


def _paired(changes: Floats, *, level: float) -> TTest:
    test = paired_t(changes, level=level)
    return test if np.isfinite(test.p) else test._replace(p=equal_drops_p(test.estimate, test.num_units))


def _against_base(estimates: Estimates, one: Prompted, base: Prompted) -> TTest:
    cells = estimates.cells(base)
    return against_one(
        estimates.cells(one).seed_rates,
        estimates.rate(base).estimate,
        num_answers=int(cells.totals.sum()),
        level=estimates.study.level,
    )


def _row(estimates: Estimates, one: Prompted, kind: Comparison, test: TTest) -> dict[str, Any]:
    low, high = test.low, test.high
    if np.isnan(low) and kind == Comparison.TRIGGER:
        without = estimates.rate(Prompted(one.place, Condition.WITHOUT))
        low, high = difference_interval(estimates.rate(one), without)
    return {
        **one.columns,
        "comparison": str(kind),
        "n_seeds": estimates.cells(one).num_seeds,
        "difference": test.estimate,
        "ci_low": low,
        "ci_high": high,
        "p": test.p,
        "margin": np.nan,
        "p_equivalent": np.nan,
    }


def _none_row(estimates: Estimates, one: Prompted) -> dict[str, Any]:
    """The probability, given the runs, that the rate over runs is not below the margin: small speaks for "none"."""
    rate, found = estimates.rate(one), estimates.posterior(one)
    row = _row(estimates, one, Comparison.NONE, TTest(rate.estimate, rate.low, rate.high, np.nan, np.nan, np.nan, 0))
    margin = estimates.study.sweep.margins.rate / 100
    return row | {"margin": margin, "p_equivalent": np.nan if found is None else found.above(margin)}
