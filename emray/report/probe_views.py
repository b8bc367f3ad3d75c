"""What the page says of the probes, ready for its templates.

Not for markup or numbers. Invariant: a sentence that claims something says how many units stand behind it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from emray.reduce.study import condition_words
from emray.report import wording
from emray.report.association_words import association_views
from emray.report.canvas import Drawing, for_page
from emray.report.direction_words import agreement_words, steering_words
from emray.report.predictor_figures import associations
from emray.report.probe_figures import CAPTIONS
from emray.report.reading import Row, Summary


def probe_view(summary: Summary, figures: Mapping[str, Drawing]) -> dict[str, Any]:
    """Which probes the sweep has (`named`), their `figures` by name and what to say of them."""
    drawn = {name: caption for name in figures if (caption := CAPTIONS.get(name.partition("-")[0]))}
    probes = dict.fromkeys(row["probe"] for row in summary.tables["associations"])
    return {
        "associations": {probe: association_views(summary, probe) for probe in ("membership", "diversity", *probes)},
        "named": [name for name, fields in (summary.facts["spec"].get("probes") or {}).items() if fields is not None],
        "figures": {
            name: {
                "svg": Markup(for_page(figures[name], label=caption)),
                "caption": caption,
                "file": f"figures/{name}.svg",
            }
            for name, caption in drawn.items()
        },
        "predictors": list(_predictors(summary)),
        "agreement": agreement_words(summary),
        "steering": steering_words(summary),
        "transfer": [_transfer_words(row) | {"row": row} for row in summary.tables["transfer_tests"]],
    }


def _predictors(summary: Summary) -> Iterator[dict[str, Any]]:
    """Series that have predictors, the headline's first, each with its strongest one named and what could be seen."""
    for model in summary.models:
        for series in summary.series(model):
            rows = associations(summary, series)
            if rows:
                yield {"series": series, "rows": rows, "words": _predictor_words(rows)}


def _predictor_words(rows: Sequence[Row]) -> str:
    best = max(rows, key=lambda row: abs(float(row["spearman"])))
    words = (
        f"The strongest of {len(rows)}: {wording.title(best['predictor'])} ({best['probe']}), rho "
        f"{wording.decimal(best['spearman'])}, {wording.p_words(best['p_spearman'])}, after Benjamini-Hochberg "
        f"{wording.p_words(best['p_bh'])}."
    )
    seen = best["smallest_seen"]
    if seen is None:
        return f"{words} With {best['n']} domains no rho can reach p = .05."
    return f"{words} With {best['n']} domains only |rho| of {wording.decimal(seen)} or more can reach p = .05."


def _transfer_words(row: Row) -> dict[str, str]:
    """One series' table as sentences."""
    series = f"{row['arm']}, {condition_words(row['condition'])}"
    if row["difference"] is None:
        return {"series": series, "words": "fewer than two domains have a rate in every place, so nothing is compared."}
    above = " above the base model" if row["above_base"] == "yes" else ""
    own, others = wording.rate_points(row["diagonal"]), wording.rate_points(row["off_diagonal"])
    interval = wording.rate_points_range(row["ci_low"], row["ci_high"])
    over = f" [{interval} over {row['n_seeds']} runs]" if interval != wording.DASH else " (no interval over runs)"
    orders = math.factorial(row["n_domains"])
    least = "" if row["exact"] == "no" else f"; {orders} orders, so no p can be below {wording.p_value(1 / orders)}"
    p = "no p, as all rates are equal" if row["p"] is None else wording.p_words(row["p"])
    return {
        "series": series,
        "words": f"{own} points{above} on a finetune's own domain, {others} on others': a difference of "
        f"{wording.rate_points(row['difference'])}{over}, {p} over the orders of {row['n_domains']} domains{least}.",
    }
