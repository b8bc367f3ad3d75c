"""Which tests the sweep's analysis plan had predicted, and what is to be said of that plan.

Not for testing. Invariant: every test is said to be planned or not, and only `families: predicted` changes a
number: the Holm adjustment of the planned rows, which are one family a model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from emray.records import Arm, Condition
from emray.reduce import schema
from emray.reduce.comparisons import Comparison
from emray.reduce.fields import Rows
from emray.reduce.study import Study
from emray.spec import Contrast, Tested
from emray.stats.multiplicity import holm

_Row = Mapping[str, Any]


def _drop(row: _Row) -> Tested:
    return Tested(Contrast.DROP, Arm(row.get("arm", Arm.BACKDOOR)), None, frozenset({row["domain"]}))


def _pair(row: _Row) -> Tested:
    domains = frozenset({row["domain_a"], row["domain_b"]})
    return Tested(Contrast.PAIR, Arm(row["arm"]), Condition(row["condition"]), domains)


_COMPARED = {
    Comparison.BASE: Contrast.BASE, Comparison.BENIGN: Contrast.BENIGN, Comparison.TRIGGER: Contrast.TRIGGER,
    Comparison.ARM: Contrast.ARM, Comparison.NONE: Contrast.NONE,
}  # fmt: skip


def _comparison(row: _Row) -> Tested:
    test = _COMPARED[Comparison(row["comparison"])]
    return Tested(test, Arm(row["arm"]), Condition(row["condition"]), frozenset({row["domain"]}))


def _paired(row: _Row) -> Tested:
    where = Arm(row["arm"]), Condition(row["condition"]), frozenset({row["domain"]})
    return Tested(Contrast(row["test"]), *where, against=row["against"])


def _no_drop(row: _Row) -> Tested:
    return _drop(row)._replace(test=Contrast.NO_DROP)


_SAID: dict[schema.SummaryTable, dict[str, Callable[[_Row], Tested]]] = {
    schema.EFFECT_SIZES: {"planned_drop": _drop, "planned_no_drop": _no_drop},
    schema.CONTRASTS: {"planned": _pair},
    schema.COMPARISONS: {"planned": _comparison},
    schema.PAIRED: {"planned": _paired},
}
_ADJUSTED: dict[schema.SummaryTable, Callable[[_Row], Tested]] = {
    schema.TRIGGER_EFFECTS: _drop,
    schema.CONTROL_EFFECTS: _drop,
    schema.CONTRASTS: _pair,
    schema.COMPARISONS: _comparison,
    schema.PAIRED: _paired,
}  # what has a column p_holm


def with_planned(study: Study, tables: Mapping[schema.SummaryTable, Rows]) -> dict[schema.SummaryTable, Rows]:
    """The same tables; every test is said to be planned or not, that of a drop in effect_sizes.csv."""
    found = {table: [row | _said(study, table, row) for row in rows] for table, rows in tables.items()}
    analysis = study.sweep.analysis
    if analysis is not None and analysis.families == "predicted":
        rows = ((row, tested) for table, tested in _ADJUSTED.items() for row in found[table])
        _one_family([row for row, tested in rows if _was_predicted(study, tested(row))])
    return found


def _said(study: Study, table: schema.SummaryTable, row: _Row) -> dict[str, str]:
    columns = _SAID.get(table, {})
    return {name: "yes" if _was_predicted(study, tested(row)) else "no" for name, tested in columns.items()}


def _one_family(planned: Rows) -> None:
    """Holm over all planned rows of a model, in place."""
    for model in dict.fromkeys(row["model"] for row in planned):
        family = [row for row in planned if row["model"] == model]
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = float(adjusted)


def _was_predicted(study: Study, asked: Tested) -> bool:
    return any(one.covers(asked) for one in (study.sweep.analysis.predicted if study.sweep.analysis else []))


def plan_facts(study: Study) -> dict[str, Any]:
    """What summary.json says of the analysis plan."""
    over_domains = Tested(Contrast.ALL_DOMAINS, Arm.BACKDOOR, None, frozenset())
    return {
        "hash": study.analysis_hash,
        "plans": [dict(one) for one in study.analysis_plans],
        "margins": study.sweep.margins.model_dump(mode="json"),
        "all_domains_planned": _was_predicted(study, over_domains),
        "words": list(_sentences(study)),
    }


def _sentences(study: Study) -> Iterator[str]:
    analysis = study.sweep.analysis
    current = [one for one in study.analysis_plans if one["hash"] == study.analysis_hash]
    others = [one for one in study.analysis_plans if one["hash"] != study.analysis_hash]
    if analysis is None:
        yield "No analysis plan was written (analysis: in the sweep file): every test here is exploratory."
    for one in current:
        yield f"Analysis plan {one['hash'][:8]}, first written {_when(one)}."
    if analysis is not None and not current:
        yield "When the analysis plan was written is not known: it was not planned in this run folder."
    if analysis is not None:
        num = len(analysis.predicted)
        family = {
            "domains": "Holm is over the domains of each test",
            "predicted": "Holm is over all planned tests of a model together, and elsewhere over domains",
        }[analysis.families]
        yield (
            f"It fixes the headline rule {study.spec.rule!r}, the margins below which an effect is none (a drop of "
            f"{analysis.margins.drop:g} points, a rate of {analysis.margins.rate:g} %), and "
            f"{num} prediction{'' if num == 1 else 's'}; {family}. What it does not predict is exploratory."
        )
    for one in others:
        yield f"The run folder has known another plan: {one['hash'][:8]}, first written {_when(one)}."


def _when(one: Mapping[str, Any]) -> str:
    day, _, time = one["first_written"].partition("T")
    seen = "when answers were already stored" if one["answers_stored"] else "before any answer was stored"
    return f"{day} {time[:5]} UTC, {seen}"
