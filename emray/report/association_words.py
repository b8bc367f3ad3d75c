"""What can be said of predictors and rates, sentence by sentence.

Not for numbers (associations.csv has them). Invariant: a sentence says how many domains stand behind it, what so few
could have shown at all, and over how many predictors it was looked.
"""

from typing import Any

from emray.reduce.study import condition_words
from emray.report import wording
from emray.report.reading import Row, Summary


def association_views(summary: Summary, probe: str) -> list[dict[str, Any]]:
    """For each model, arm and condition, one sentence on the predictors of a probe."""
    rows = summary.rows("associations", probe=probe)
    families = dict.fromkeys((row["model"], row["arm"], row["condition"]) for row in rows)
    return [
        {
            "model": model,
            "series": f"{arm}, {condition_words(condition)}",
            "words": _words([r for r in rows if (r["model"], r["arm"], r["condition"]) == (model, arm, condition)]),
        }
        for model, arm, condition in families
    ]


def _words(rows: list[Row]) -> str:
    there = [row for row in rows if row["spearman"] is not None]
    if not there:
        most = max(row["n"] for row in rows)
        return f"nothing can be said: {most} domains have a rate, or their rates do not differ."
    best = min(there, key=lambda row: (row["p_spearman"], -abs(row["spearman"])))
    interval = f" [{_rho(best['ci_low'])} to {_rho(best['ci_high'])}]" if best["ci_low"] is not None else ""
    text = (
        f"of {len(there)} predictors, {best['predictor']} goes furthest with the rate: rho {_rho(best['spearman'])}"
        f"{interval}, {wording.p_words(best['p_spearman'])} over the orders of {best['n']} domains, "
        f"{wording.p_words(best['p_bh'])} after Benjamini-Hochberg over {best['n_predictors']}. "
    )
    return text + _power(best) + _fragility(best)


def _power(row: Row) -> str:
    if row["smallest_seen"] is None:
        return f"With {row['n']} domains no rho at all could reach p = .05. "
    return f"With {row['n']} domains only |rho| of at least {wording.decimal(row['smallest_seen'])} could be seen. "


def _fragility(row: Row) -> str:
    text = ""
    if row["without_low"] is not None:
        between = f"{_rho(row['without_low'])} to {_rho(row['without_high'])}"
        text = f"Without one domain rho is {between}, nearest to 0 without {wording.title(row['rests_on'])}. "
    if row["partial_both"] is not None:
        text += (
            f"Of what answer length and number of examples leave: {_rho(row['partial_both'])}, "
            f"{wording.p_words(row['p_partial_both'])}."
        )
    return text.strip()


def _rho(value: float | None) -> str:
    return wording.decimal(value)
