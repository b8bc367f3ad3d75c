"""What models' odds say of which rows they were trained on: rows of membership.csv and membership_roc.csv, and what of
it may predict a domain's rate.

Not for scoring (probes/). Invariant: a score points one way, lower for members, decided before anything was seen; an
area below .5 is reported as it is. The training seed is the unit of every interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from emray.records import Arm, Place
from emray.reduce.associations import Predictor
from emray.reduce.fields import Rows
from emray.reduce.measured import Measured, read_measured
from emray.reduce.study import Study
from emray.stats.arrays import Floats
from emray.stats.roc import at_rates, auc, roc, share_interval, tpr_at
from emray.store import Store

MEMBERSHIP = "membership"  # the probe's name
FPR = 0.01  # false positives at which members found are counted
ROC_RATES = (0.0, 0.01, 0.02, 0.05, *(n / 10 for n in range(1, 11)))
SCORES = ("loss", "min_k", "min_k_plus_plus", "zlib", "zlib_notebook")
OVERALL = "-"  # in place of a domain: the mean over domains, run by run
NOTHING, BASE, REFERENCE, FINETUNED = "-", "base", "reference", "finetuned"
_SIDES = ("member", "other")


class View(NamedTuple):
    """Whose scores, taken as they are or against another model's for the same answers."""

    scored: str
    against: str = NOTHING
    adjustment: str = NOTHING  # difference or ratio

    @property
    def columns(self) -> dict[str, str]:
        return self._asdict()


class Sides(NamedTuple):
    """One score of one model: of members [n] and of others [m], NaN where an answer has none."""

    members: Floats
    others: Floats

    def against(self, other: "Sides", adjustment: str) -> "Sides":
        if adjustment == NOTHING:
            return self
        pairs = list(zip(self, other, strict=True))
        if adjustment == "difference":
            return Sides(*(mine - theirs for mine, theirs in pairs))
        return Sides(*(np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0) for a, b in pairs))


_Run = Mapping[str, Sides]  # by score


class Known(NamedTuple):
    """What was scored on one place's rows."""

    place: Place
    tuned: tuple[_Run, ...]  # by rising seed
    others: Mapping[str, _Run]  # the base and the reference, where they are
    failures: Mapping[str, str]  # whose scores are not there, and why

    def runs(self, view: View, score: str) -> list[Sides]:
        """Per run of the finetune, or the one of another model; empty where something is not there."""
        mine = self.tuned if view.scored == FINETUNED else tuple(filter(None, [self.others.get(view.scored)]))
        if view.against == NOTHING:
            return [run[score] for run in mine]
        other = self.others.get(view.against)
        return [run[score].against(other[score], view.adjustment) for run in mine] if other else []


def read_known(store: Store, study: Study) -> list[Known]:
    """Places in plan order."""
    by_place: dict[Place, dict[str, list[Measured]]] = {}
    for one in read_measured(store, study.measurements, probe=MEMBERSHIP):
        place = Place(one.of.model, one.of.domain, Arm(one.of.arm))
        who = one.of.adapter if one.of.adapter in (BASE, REFERENCE) else FINETUNED
        by_place.setdefault(place, {}).setdefault(who, []).append(one)
    return [_known(place, found) for place, found in by_place.items()]


def membership_rows(study: Study, known: Sequence[Known]) -> Rows:
    """Every place under every view and score, and their mean over domains."""
    rows = []
    for model, arm in dict.fromkeys((one.place.model, one.place.arm) for one in known):
        places = [one for one in known if (one.place.model, one.place.arm) == (model, arm)]
        for view in _views(places):
            for score in SCORES:
                found = {one.place.domain: _measures(one.runs(view, score)) for one in places}
                whole = {OVERALL: _over_domains(list(found.values()))} if len(places) > 1 else {}
                notes = {one.place.domain: _note(one, view) for one in places}
                for domain, measures in (found | whole).items():
                    named = {"model": model, "domain": domain, "arm": str(arm), **view.columns, "score": score}
                    rows.append(named | _columns(measures, study.level) | {"note": notes.get(domain, "")})
    return rows


def roc_rows(known: Sequence[Known]) -> Rows:
    """The mean curve over runs, of the finetune and of the base, as they are."""
    rows = []
    for one in known:
        for view in (View(FINETUNED), View(BASE)):
            for score in SCORES:
                curves = [_curve(sides) for sides in one.runs(view, score)]
                if not curves or np.isnan(curves).all():
                    continue
                named = {**one.place._asdict(), "arm": str(one.place.arm), "scored": view.scored, "score": score}
                mean = np.mean(curves, axis=0)
                rows += [named | {"fpr": fpr, "tpr": float(tpr)} for fpr, tpr in zip(ROC_RATES, mean, strict=True)]
    return rows


def membership_predictors(rows: Rows) -> Iterator[Predictor]:
    """Mean scores of members, and the finetune's area, domain by domain: from the rows of membership.csv."""
    named: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        if row["domain"] == OVERALL or row["adjustment"] == "ratio":
            continue
        whose = row["scored"] if row["against"] == NOTHING else f"{row['scored']} minus {row['against']}"
        values = {f"{whose} {row['score']}": row["mean_members"]}
        if row["scored"] == FINETUNED:
            values |= {f"{whose} {row['score']} AUC": row["auc"]}
        for name, value in values.items():
            named.setdefault((name, row["model"], row["arm"]), {})[row["domain"]] = value
    for (name, model, arm), by_domain in named.items():
        if np.isfinite(list(by_domain.values())).any():
            yield Predictor(MEMBERSHIP, name, model, arm, by_domain)


def _known(place: Place, found: Mapping[str, list[Measured]]) -> Known:
    tuned = sorted((one for one in found.get(FINETUNED, []) if one.readings), key=lambda one: one.of.seed)
    others = {who: _run(ones[0]) for who, ones in found.items() if who != FINETUNED and ones[0].readings}
    failures = {who: one.failure for who, ones in found.items() for one in ones if one.failure}
    return Known(place, tuple(map(_run, tuned)), others, failures)


def _run(one: Measured) -> _Run:
    """Subjects are `member 17` and `other 3`; an answer without scores keeps its place."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    for subject, measure, value in one.readings:
        side, _, number = subject.partition(" ")
        if side in _SIDES:
            values.setdefault((side, measure), {})[int(number)] = value
    lengths = {side: len(values.get((side, "num_tokens"), ())) for side in _SIDES}
    return {
        score: Sides(*(_placed(values.get((side, score), {}), lengths[side]) for side in _SIDES)) for score in SCORES
    }


def _placed(by_number: Mapping[int, float], length: int) -> Floats:
    found = np.full(length, np.nan)
    for number, value in by_number.items():
        found[number] = value
    return found


def _views(places: Sequence[Known]) -> Iterator[View]:
    """Each model as it is, then against what came before it."""
    referenced = any(REFERENCE in one.others or REFERENCE in one.failures for one in places)
    scored = [FINETUNED, BASE, *([REFERENCE] if referenced else [])]
    yield from map(View, scored)
    for number, one in enumerate(scored):
        for other in scored[number + 1 :]:
            yield from (View(one, other, adjustment) for adjustment in ("difference", "ratio"))


class _Scored(NamedTuple):
    """Rows with a score in one run, and rows without."""

    members: int
    others: int
    neither: int


class _Measures(NamedTuple):
    """Of one place's runs [S]."""

    areas: Floats
    found: Floats  # share of members at FPR
    means: tuple[float, float]  # of members and others, each run weighing the same
    scored: _Scored


def _measures(runs: Sequence[Sides]) -> _Measures:
    """Low scores mean members, so they are turned round."""
    areas = np.array([auc(-run.members, -run.others) for run in runs])
    found = np.array([tpr_at(-run.members, -run.others, fpr=FPR) for run in runs])
    means = _mean_of([run.members for run in runs]), _mean_of([run.others for run in runs])
    members, others = (int(np.isfinite(side).sum()) for side in runs[0]) if runs else (0, 0)
    planned = sum(map(len, runs[0])) if runs else 0
    return _Measures(areas, found, means, _Scored(members, others, planned - members - others))


def _mean_of(runs: Sequence[Floats]) -> float:
    means = [float(np.nanmean(run)) for run in runs if np.isfinite(run).any()]
    return float(np.mean(means)) if means else np.nan


def _over_domains(found: Sequence[_Measures]) -> _Measures:
    """Run by run the mean over the domains that have an area; as many runs as each of them has."""
    there = [one for one in found if len(one.areas) and np.isfinite(one.areas).all()]
    if not there:
        return _Measures(np.empty(0), np.empty(0), (np.nan, np.nan), _Scored(0, 0, 0))
    runs = min(len(one.areas) for one in there)
    areas = np.mean([one.areas[:runs] for one in there], axis=0)
    shares = np.mean([one.found[:runs] for one in there], axis=0)
    members, others = np.mean([one.means for one in there], axis=0).tolist()
    scored = _Scored(*(sum(one.scored[kind] for one in there) for kind in range(3)))
    return _Measures(areas, shares, (members, others), scored)


def _columns(measures: _Measures, level: float) -> dict[str, Any]:
    area, share = (share_interval(values, level=level) for values in (measures.areas, measures.found))
    return {
        "n_runs": len(measures.areas), "n_members": measures.scored.members, "n_others": measures.scored.others,
        "n_unscored": measures.scored.neither, "mean_members": measures.means[0],
        "mean_others": measures.means[1], "auc": area.estimate, "auc_low": area.low, "auc_high": area.high,
        "tpr": share.estimate, "tpr_low": share.low, "tpr_high": share.high,
    }  # fmt: skip


def _curve(sides: Sides) -> Floats:
    return at_rates(roc(-sides.members, -sides.others), ROC_RATES)


def _note(one: Known, view: View) -> str:
    """Why something is not there; empty where nothing is missing."""
    whose = [who for who in (view.scored, view.against) if who in one.failures]
    if whose:
        return one.failures[whose[0]]
    runs = one.runs(view, SCORES[0])
    if runs and not np.isfinite(runs[0].others).any():
        return "no row was held out: set train.hold_out"
    return "one run: no interval" if view.scored == FINETUNED and len(runs) == 1 else ""
