"""Does what is known of a domain go with its misaligned rate? Rows of predictors.csv and associations.csv.

Not for what the predictors are (membership_rows.py and others make them). Invariant: a domain is one observation with
one value, whatever number of samples that came from; a value broadcast to samples cannot be said here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from emray.records import Arm, Condition, Place
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows, generator
from emray.reduce.study import Prompted
from emray.stats.association import (
    Correlation,
    correlation,
    leave_one_out,
    one_value_each,
    partial,
    rho_interval,
    smallest_seen,
)
from emray.stats.multiplicity import benjamini_hochberg

ANY = "-"  # in place of a model or an arm: the value holds for each


class Predictor(NamedTuple):
    """One number for every domain, of one model and arm."""

    probe: str
    name: str
    model: str
    arm: str
    by_domain: Mapping[str, float]

    def of(self, model: str, arm: str) -> bool:
        return self.model in (model, ANY) and self.arm in (arm, ANY)


class Controls(NamedTuple):
    """What a correlation is adjusted for, by arm and domain."""

    answer_length: Mapping[tuple[str, str], float]  # words
    dataset_size: Mapping[tuple[str, str], float]  # examples


def controls_of(dataset_rows: Rows) -> Controls:
    """From the rows of datasets.csv."""
    lengths = {(row["arm"], row["domain"]): row["answer_words"] for row in dataset_rows}
    return Controls(lengths, {(row["arm"], row["domain"]): row["num_examples"] for row in dataset_rows})


def predictor_rows(predictors: Sequence[Predictor]) -> Rows:
    """Every value, one row each."""
    return [
        {
            "probe": one.probe,
            "predictor": one.name,
            "model": one.model,
            "arm": one.arm,
            "domain": domain,
            "value": value,
        }
        for one in predictors
        for domain, value in one.by_domain.items()
    ]


def association_rows(estimates: Estimates, predictors: Sequence[Predictor], controls: Controls) -> Rows:
    """Each predictor against the rates of each model, arm and condition; p adjusted over all predictors of those."""
    rows: Rows = []
    for (model, arm), places in _series(estimates):
        chosen = [one for one in predictors if one.of(model, str(arm))]
        for condition in estimates.study.conditions_of(arm) if chosen else ():
            family = _Family(estimates, places, condition, controls)
            found = [_row(family, one) | {"arm": str(arm), "model": model} for one in chosen]
            adjusted = benjamini_hochberg([row["p_spearman"] for row in found])
            rows += [row | {"p_bh": p, "n_predictors": len(found)} for row, p in zip(found, adjusted, strict=True)]
    return rows


def _series(estimates: Estimates) -> Iterator[tuple[tuple[str, Arm], list[Place]]]:
    """The places of each model and finetuned arm, a place a domain."""
    places = sorted((place for place in estimates.study.places if place.arm != Arm.BASE), key=_model_and_arm)
    for key, group in groupby(places, key=_model_and_arm):
        yield key, list(group)


def _model_and_arm(place: Place) -> tuple[str, Arm]:
    return place.model, place.arm


class _Family(NamedTuple):
    """Rates of one model, arm and condition, which many predictors are held against."""

    estimates: Estimates
    places: Sequence[Place]
    condition: Condition
    controls: Controls

    @property
    def rates(self) -> list[float]:
        return [self.estimates.rate(Prompted(place, self.condition)).estimate for place in self.places]

    def control(self, values: Mapping[tuple[str, str], float]) -> list[float]:
        return [values.get((str(place.arm), place.domain), np.nan) for place in self.places]


def _row(family: _Family, one: Predictor) -> dict[str, Any]:
    domains = [place.domain for place in family.places]
    one_value_each(domains)
    x, y = [one.by_domain.get(domain, np.nan) for domain in domains], family.rates
    rng = generator("association", one.probe, one.name, *domains)
    spearman, pearson = (correlation(x, y, ranks=ranks, rng=rng) for ranks in (True, False))
    low, high = rho_interval(spearman.estimate, spearman.num_units, level=family.estimates.study.spec.confidence)
    return {
        "condition": str(family.condition), "probe": one.probe, "predictor": one.name, "n": spearman.num_units,
        "spearman": spearman.estimate, "ci_low": low, "ci_high": high, "p_spearman": spearman.p,
        "pearson": pearson.estimate, "p_pearson": pearson.p, "exact": _yes(spearman),
        "smallest_seen": smallest_seen(spearman.num_units),
    } | _left_out(x, y, domains) | _adjusted(family, x, y)  # fmt: skip


def _yes(found: Correlation) -> str:
    return ANY if np.isnan(found.estimate) else "yes" if found.exact else "no"


def _left_out(x: Sequence[float], y: Sequence[float], domains: Sequence[str]) -> dict[str, Any]:
    """The range of rho without one domain, and the domain without which it is nearest to 0."""
    there = [d for d, a, b in zip(domains, x, y, strict=True) if np.isfinite(a) and np.isfinite(b)]
    without = leave_one_out(x, y, ranks=True)
    if not np.isfinite(without).any():
        return {"without_low": np.nan, "without_high": np.nan, "rests_on": ANY}
    weakest = int(np.nanargmin(np.abs(without)))
    return {
        "without_low": float(np.nanmin(without)),
        "without_high": float(np.nanmax(without)),
        "rests_on": there[weakest],
    }


def _adjusted(family: _Family, x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Rank correlations of what answer length, dataset size and both leave."""
    length, size = map(family.control, family.controls)
    found: dict[str, float] = {}
    for name, given in (("length", [length]), ("size", [size]), ("both", [length, size])):
        left = partial(x, y, given, ranks=True)
        found |= {f"partial_{name}": left.estimate, f"p_partial_{name}": left.p}
    return found
