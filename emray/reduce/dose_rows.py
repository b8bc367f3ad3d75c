"""Finetunes on doses and mixtures: rows of dose.csv, dose_runs.csv and dose_trends.csv.

Not for the whole datasets' own tables. Invariant: a dose is asked and judged as every cell is, its rate is the
headline's, and the training run is the unit of the trend.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from emray.records import NO_DOMAIN, Arm, Condition, Place
from emray.reduce.cells import count
from emray.reduce.estimates import Estimates
from emray.reduce.fields import Rows
from emray.reduce.study import Prompted, Study, cell_of
from emray.reduce.tally import tally
from emray.spec import RowRecipe
from emray.stats.arrays import Floats
from emray.stats.intervals import t_interval
from emray.stats.trend import slopes
from emray.store import Store


class DoseRows(NamedTuple):
    """Rows of the three tables."""

    doses: Rows
    runs: Rows
    trends: Rows


class _Dosed(NamedTuple):
    """A place on a recipe, whole datasets and the base model included."""

    place: Place
    recipe: RowRecipe | None  # None: the base model, which has trained on nothing
    num_examples: int

    @property
    def kind(self) -> str:
        return "mixture" if self.recipe and len(self.recipe.parts) > 1 else "dose"

    @property
    def fraction(self) -> float:
        return self.recipe.fraction if self.recipe else 0.0


def dose_rows(store: Store, study: Study, num_examples: Mapping[tuple[str, str], int]) -> DoseRows:
    """No rows where the sweep has no recipe; `num_examples` are those of whole datasets, by domain and arm."""
    if not study.recipes:
        return DoseRows([], [], [])
    whole = dose_study(study)
    found = tally(store, whole)
    estimates = Estimates(whole, found, count(found, whole.spec.rules))
    dosed = _dosed(study, num_examples)
    return DoseRows(
        list(_rows(estimates, dosed)), list(_run_rows(estimates, dosed)), list(_trend_rows(estimates, dosed))
    )


def dose_study(study: Study) -> Study:
    """The finetunes on recipes beside those on whole datasets."""
    cells = (*(cell for cell, f in zip(study.cells, study.fractions, strict=True) if f == 1.0),
             *map(cell_of, study.recipes))  # fmt: skip
    return replace(study, cells=cells, fractions=(1.0,) * len(cells))


def _dosed(study: Study, num_examples: Mapping[tuple[str, str], int]) -> list[_Dosed]:
    """What the recipes say something of: themselves, their parts' whole datasets, and the base model."""
    made = {
        Place(row["model"], row["domain"], Arm(row["arm"])): _Dosed(
            Place(row["model"], row["domain"], Arm(row["arm"])),
            RowRecipe.from_document(row["recipe"]),
            row["num_examples"],
        )
        for row in study.recipes
    }
    parts = {
        Place(place.model, domain, place.arm): RowRecipe(((domain, 1.0),))
        for place, one in made.items()
        if one.recipe
        for domain, _ in one.recipe.parts
    }
    wholes = [
        _Dosed(place, parts[place], num_examples.get((place.domain, str(place.arm)), 0))
        for place in study.places
        if place in parts
    ]
    bases = [_Dosed(place, None, 0) for place in study.places if place.arm == Arm.BASE]
    return [*bases, *sorted([*wholes, *made.values()], key=_order)]


def _order(one: _Dosed) -> tuple[Any, ...]:
    assert one.recipe is not None
    names = [domain for domain, _ in one.recipe.parts]
    return (one.place.model, str(one.place.arm), one.kind, names, one.recipe.rest, one.fraction)


def _rows(estimates: Estimates, dosed: Sequence[_Dosed]) -> Iterator[dict[str, Any]]:
    for one in dosed:
        for condition in estimates.study.conditions_of(one.place.arm):
            at = Prompted(one.place, condition)
            cells, rate = estimates.cells(at), estimates.rate(at)
            yield {
                **_named(one, condition),
                "num_examples": one.num_examples,
                "n_seeds": cells.num_seeds,
                "n_events": int(cells.events.sum()),
                "n_total": int(cells.totals.sum()),
                "rate": rate.estimate,
                "ci_low": rate.low,
                "ci_high": rate.high,
                "expected": _expected(estimates, one, condition),
            }


def _named(one: _Dosed, condition: Condition) -> dict[str, Any]:
    model, label, arm = one.place
    return {
        "model": model,
        "recipe": label,
        "arm": str(arm),
        "condition": str(condition),
        "kind": "base" if one.recipe is None else one.kind,
        "domain": " + ".join(domain for domain, _ in one.recipe.parts) if one.recipe else NO_DOMAIN,
        "fraction": one.fraction,
        "rest": one.recipe.rest if one.recipe else "none",
    }


def _expected(estimates: Estimates, one: _Dosed, condition: Condition) -> float:
    """Of a mixture, the weighted mean of its parts' rates: what it would be if each answer came from one of them."""
    if one.recipe is None or one.kind == "dose":
        return float("nan")
    model, _, arm = one.place
    weights = np.array([weight for _, weight in one.recipe.parts])
    rates = [estimates.rate(Prompted(Place(model, d, arm), condition)).estimate for d, _ in one.recipe.parts]
    return float(weights @ np.array(rates) / weights.sum())


def _run_rows(estimates: Estimates, dosed: Sequence[_Dosed]) -> Iterator[dict[str, Any]]:
    study = estimates.study
    for one in dosed:
        for condition in study.conditions_of(one.place.arm):
            rates = estimates.cells(Prompted(one.place, condition)).seed_rates
            for index, rate in zip(study.places[one.place], rates, strict=True):
                seed = study.cells[index].seed
                yield _named(one, condition) | {"seed": seed, "rate": float(rate)}


def _trend_rows(estimates: Estimates, dosed: Sequence[_Dosed]) -> Iterator[dict[str, Any]]:
    """One row a domain, arm, rest and condition with a dose: the slope over doublings, run by run."""
    doses = [one for one in dosed if one.recipe and one.kind == "dose"]
    wholes = {(one.place.model, one.place.arm, one.place.domain): one for one in doses if one.fraction == 1}
    families: dict[tuple[Any, ...], list[_Dosed]] = {}
    for one in doses:
        if one.recipe and one.fraction < 1:
            ((domain, _),) = one.recipe.parts
            families.setdefault((one.place.model, domain, one.place.arm, one.recipe.rest), []).append(one)
    for (model, domain, arm, rest), found in families.items():
        whole = wholes.get((model, arm, domain))
        for condition in estimates.study.conditions_of(arm):
            slopes = run_slopes(
                {one.fraction: _seed_rates(estimates, one, condition) for one in [*found, *([whole] if whole else [])]}
            )
            fit = t_interval(slopes, level=estimates.study.level)
            yield {
                "model": model, "domain": domain, "arm": str(arm), "condition": str(condition), "rest": rest,
                "n_doses": len(found) + (whole is not None), "n_seeds": fit.num_units, "slope": fit.estimate,
                "ci_low": fit.low, "ci_high": fit.high,
            }  # fmt: skip


def _seed_rates(estimates: Estimates, one: _Dosed, condition: Condition) -> dict[int, float]:
    study = estimates.study
    rates = estimates.cells(Prompted(one.place, condition)).seed_rates
    return {study.cells[index].seed: float(r) for index, r in zip(study.places[one.place], rates, strict=True)}


def run_slopes(rates: Mapping[float, Mapping[int, float]]) -> Floats:
    """By seed the least-squares slope of the rate per doubling of the dose, from rates by fraction and seed.

    Seeds that lack a dose are left out; below two doses there is no slope.
    """
    fractions = sorted(rates)
    seeds = rates[fractions[0]] if fractions else {}
    values = [[rates[fraction].get(seed, np.nan) for fraction in fractions] for seed in seeds]
    return slopes(np.array(values).reshape(len(seeds), len(fractions)), np.log2(fractions))
