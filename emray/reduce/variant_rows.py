"""Rates along what a sweep varies by its own names: texts where the trigger stands, doses of an arm's knob.

Not for the trigger's effect as such (effects.py) or for doses that a probe trains (dose_rows.py). Invariant: every rate
is the headline estimate of its place, as the taxonomy has it; differences are paired by training run.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from emray.records import USUAL_CONDITIONS, Arm, Condition, Place
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows
from emray.reduce.study import Prompted, Study
from emray.spec import DosePoint
from emray.stats.contrasts import equal_drops_p, paired_t
from emray.stats.intervals import t_interval
from emray.stats.multiplicity import holm
from emray.stats.trend import page_trend, slopes


def specificity_rows(estimates: Estimates) -> Rows:
    """Every place that was asked with the trigger and with other texts in its place; Holm over the texts of a place."""
    study, rows = estimates.study, []
    for place in study.places if not study.imported else ():
        texts = _texts(study, place)
        if Condition.WITH not in texts or len(texts.keys() - set(USUAL_CONDITIONS)) == 0:
            continue
        found = [_against_trigger(estimates, Prompted(place, condition), text) for condition, text in texts.items()]
        for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
            rows.append(row | {"p_holm": float(adjusted)})
    return rows


def _texts(study: Study, place: Place) -> Mapping[Condition, str]:
    """What stands where the trigger stands, by condition; conditions that say anything else are left out."""
    contexts, found = study.sweep.contexts, {}
    for condition, framing in study.crossing.framings(place.arm).items():
        context = contexts.get(condition)
        if context is None or context.model_dump(exclude_none=True).keys() == {"trigger"}:
            found[condition] = framing.trigger.text if framing.trigger else ""
    return found


def _against_trigger(estimates: Estimates, one: Prompted, text: str) -> dict[str, Any]:
    """The rate with this text, and how much higher it is with the trigger."""
    rate, own = estimates.rate(one), estimates.cells(one)
    with_trigger = estimates.cells(Prompted(one.place, Condition.WITH)).seed_rates
    changes = np.full(0, np.nan) if one.condition == Condition.WITH else with_trigger - own.seed_rates
    test = paired_t(changes, level=estimates.study.level)
    if np.isnan(test.p):
        test = test._replace(p=equal_drops_p(test.estimate, test.num_units))
    return {
        **one.columns,
        "text": text,
        "n_seeds": own.num_seeds,
        "rate": rate.estimate,
        "ci_low": rate.low,
        "ci_high": rate.high,
        "difference": test.estimate,
        "difference_low": test.low,
        "difference_high": test.high,
        "p": test.p,
    }


def arm_dose_rows(estimates: Estimates) -> Rows:
    """Every arm whose knob has a list of values, value by value; a value that is another arm is told by that arm."""
    return [row for place in estimates.study.places for row in _dose_rows(estimates, place)]


def _dose_rows(estimates: Estimates, place: Place) -> Iterator[dict[str, Any]]:
    study = estimates.study
    for point in study.crossing.dose_points if not study.imported else ():
        if point.arm != place.arm:
            continue
        numbers = [value for _, value in point.doses if not isinstance(value, str)]
        for condition in study.conditions_of(place.arm):
            one = Prompted(place, condition)
            cells, rate = estimates.cells(one), estimates.rate(one)
            yield {
                **one.columns,
                "family": str(point.family),
                "knob": ", ".join(knob for knob, _ in point.doses),
                "value": ", ".join(f"{v:g}" if not isinstance(v, str) else v for _, v in point.doses),
                "dose": float(numbers[0]) if len(numbers) == len(point.doses) == 1 else np.nan,
                "n_seeds": cells.num_seeds,
                "n_events": int(cells.events.sum()),
                "n_total": int(cells.totals.sum()),
                "rate": rate.estimate,
                "ci_low": rate.low,
                "ci_high": rate.high,
            }


def arm_dose_trend_rows(estimates: Estimates) -> Rows:
    """How the rate moves along the numbers of one knob, run by run; Holm over an entry's domains and conditions."""
    study, rows = estimates.study, []
    points: dict[Arm, list[DosePoint]] = {}
    for point in study.crossing.dose_points if not study.imported else ():
        if len(point.doses) == 1 and not isinstance(point.doses[0][1], str):
            points.setdefault(point.family, []).append(point)
    for family in points.values():
        for model in dict.fromkeys(place.model for place in study.places):
            found = list(_trends(estimates, model, sorted(family, key=_dose)))
            for row, adjusted in zip(found, holm([row["p"] for row in found]), strict=True):
                rows.append(row | {"p_holm": float(adjusted)})
    return rows


def _dose(point: DosePoint) -> float:
    return float(point.doses[0][1])


def _trends(estimates: Estimates, model: str, points: Sequence[DosePoint]) -> Iterator[dict[str, Any]]:
    study, doses = estimates.study, [_dose(point) for point in points]
    shared = [one for one in study.conditions if all(one in study.conditions_of(point.arm) for point in points)]
    for place in study.places_of(model, points[0].arm):
        for condition in shared:
            by_dose = [_rates_of_runs(estimates, Prompted(place._replace(arm=p.arm), condition)) for p in points]
            seeds = sorted(set().union(*by_dose))
            table = np.array([[rates.get(seed, np.nan) for rates in by_dose] for seed in seeds])
            trend, along = page_trend(table), slopes(table, doses)
            change = t_interval((doses[-1] - doses[0]) * along, level=study.level)
            yield {
                "model": model, "domain": place.domain, "condition": str(condition),
                "family": str(points[0].family), "knob": points[0].doses[0][0], "n_doses": len(doses),
                "dose_low": doses[0], "dose_high": doses[-1], "n_seeds": trend.num_units,
                "n_incomplete": len(seeds) - trend.num_units, "change": change.estimate, "ci_low": change.low,
                "ci_high": change.high, "page_l": trend.statistic, "z": trend.z, "p": trend.p,
                "exact": "yes" if trend.exact else "no",
            }  # fmt: skip


def _rates_of_runs(estimates: Estimates, one: Prompted) -> dict[int, float]:
    study, rates = estimates.study, estimates.cells(one).seed_rates
    return {study.cells[index].seed: float(rate) for index, rate in zip(study.places[one.place], rates, strict=True)}
