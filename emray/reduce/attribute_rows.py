"""What the sweep file says of its domains (critical, stealth, anything): predictors, and whether groups differ in rate.

Not for what was measured of domains. Invariant: a domain is one observation; an attribute that does not tell domains
apart makes no row.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from emray.records import Arm, Condition, Place
from emray.reduce.associations import ANY, Predictor
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, generator
from emray.reduce.study import Prompted
from emray.spec import Sweep
from emray.stats.grouping import group_difference
from emray.stats.multiplicity import benjamini_hochberg

ATTRIBUTE = "attribute"
_YES_NO = ("yes", "no")


class Grouping(NamedTuple):
    """Domains by whether an attribute has one value; those that do not say are in neither."""

    attribute: str
    value: str
    inside: Mapping[str, bool]


def attribute_words(sweep: Sweep) -> dict[str, str]:
    """What is said of each domain, as one text."""
    return {
        domain.name: "; ".join(f"{name}={value}" for name, value in sorted(domain.attributes.items())) or ANY
        for domain in sweep.domains
    }


def attribute_predictors(sweep: Sweep) -> Iterator[Predictor]:
    """Numbers as they are, anything else as 1 for one value and 0 for the others."""
    for name, values in _said(sweep).items():
        numbers = _numbers(values)
        if numbers:
            yield Predictor(ATTRIBUTE, name, ANY, ANY, numbers)
    for grouping in _groupings(sweep):
        coded = {domain: float(inside) for domain, inside in grouping.inside.items()}
        yield Predictor(ATTRIBUTE, f"{grouping.attribute}={grouping.value}", ANY, ANY, coded)


def attribute_rows(estimates: Estimates) -> Rows:
    """The difference of misaligned rates between domains with a value and the others, of every series."""
    groupings, rows = list(_groupings(estimates.study.sweep)), []
    for places in _series(estimates):
        for condition in estimates.study.conditions_of(places[0].arm):
            found = [_row(estimates, places, condition, grouping) for grouping in groupings]
            adjusted = benjamini_hochberg([row["p"] for row in found])
            rows += [row | {"p_bh": p} for row, p in zip(found, adjusted, strict=True)]
    return rows


def _series(estimates: Estimates) -> Iterator[Sequence[Place]]:
    """The places of each model and finetuned arm, a place a domain."""
    places = sorted(
        (place for place in estimates.study.places if place.arm != Arm.BASE), key=lambda one: (one.model, one.arm)
    )
    for _, group in groupby(places, key=lambda one: (one.model, one.arm)):
        yield list(group)


def _row(estimates: Estimates, places: Sequence[Place], condition: Condition, grouping: Grouping) -> dict[str, Any]:
    among = [place for place in places if place.domain in grouping.inside]
    rates = np.array([estimates.rate(Prompted(place, condition)).estimate for place in among], dtype=float)
    inside = np.array([grouping.inside[place.domain] for place in among], dtype=bool)
    rng = generator(ATTRIBUTE, grouping.attribute, grouping.value, *places[0], condition)
    found = group_difference(rates, inside, rng=rng)
    return {
        "model": places[0].model,
        "arm": str(places[0].arm),
        "condition": str(condition),
        "attribute": grouping.attribute,
        "value": grouping.value,
        "n_with": found.num_in,
        "n_without": found.num_out,
        "rate_with": _mean(rates[inside]),
        "rate_without": _mean(rates[~inside]),
        "difference": found.estimate,
        "p": found.p,
        "least_p": found.least_p,
        "exact": ANY if np.isnan(found.estimate) else "yes" if found.exact else "no",
    }


def _mean(rates: np.ndarray) -> float:
    there = rates[np.isfinite(rates)]
    return float(there.mean()) if len(there) else np.nan


def _groupings(sweep: Sweep) -> Iterator[Grouping]:
    """One for an attribute of two values, one a value where there are more; none where all are numbers."""
    for name, values in _said(sweep).items():
        levels = sorted(set(values.values()))
        if len(levels) < 2 or _numbers(values):
            continue
        shown = ["yes"] if tuple(levels) == tuple(sorted(_YES_NO)) else levels[:1] if len(levels) == 2 else levels
        for level in shown:
            yield Grouping(name, level, {domain: value == level for domain, value in values.items()})


def _numbers(values: Mapping[str, str]) -> dict[str, float]:
    """An attribute whose values are all numbers, by domain; empty for any other."""
    try:
        return {domain: float(value) for domain, value in values.items()}
    except ValueError:
        return {}


def _said(sweep: Sweep) -> dict[str, dict[str, str]]:
    """Values by attribute and domain."""
    names = sorted({name for domain in sweep.domains for name in domain.attributes})
    return {
        name: {domain.name: domain.attributes[name] for domain in sweep.domains if name in domain.attributes}
        for name in names
    }
