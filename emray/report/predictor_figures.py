"""The misaligned rate of each domain against each of its predictors, one panel each.

Not for numbers: every point is a row of `summary/`. Invariant: a domain is one point, however many runs it has.
"""

from typing import Any

from emray.report.canvas import GRID, MUTED, colour_of, panels
from emray.report.reading import Row, Series, Summary
from emray.report.wording import decimal, p_words, title

MOST_PANELS = 24  # the tables have the rest


def draw_predictors(summary: Summary, series: Series) -> Any:
    """Panels in the order of the table: given values and the data first, then probe by probe."""
    shown = associations(summary, series)[:MOST_PANELS]
    figure, grid = panels(len(shown), height=1.75, one_scale=False)
    for place, (axes, row) in enumerate(zip(grid, shown, strict=False)):
        _panel(axes, summary, series, row)
        if place % 4:
            axes.tick_params(axis="y", labelleft=False)
    figure.supylabel("misaligned answers", fontsize=8.5, color=MUTED)
    return figure


def associations(summary: Summary, series: Series) -> list[Row]:
    """The predictors of a series that have a correlation."""
    rows = summary.rows("associations", model=series.model, arm=series.arm, condition=series.condition)
    return [row for row in rows if row["spearman"] is not None]


def _panel(axes: Any, summary: Summary, series: Series, row: Row) -> None:
    values = predictor_values(summary, series, row)
    rates = {one["domain"]: one for one in summary.rows(
        "taxonomy", model=series.model, arm=series.arm, condition=series.condition
    ) if one["misaligned_rate"] is not None}  # fmt: skip
    colour, there = colour_of(series), [domain for domain in values if domain in rates]
    for domain in there:
        if rates[domain]["ci_low"] is not None:
            ends = [100 * rates[domain]["ci_low"], 100 * rates[domain]["ci_high"]]
            axes.plot([values[domain]] * 2, ends, color=colour, linewidth=0.9, alpha=0.35)
    xs, ys = [values[domain] for domain in there], [100 * rates[domain]["misaligned_rate"] for domain in there]
    axes.plot(xs, ys, "o", color=colour, markersize=3.8, clip_on=False)
    axes.set_title(
        f"{title(row['predictor'])}\nρ {decimal(row['spearman'])}, {p_words(row['p_spearman'])}, n = {row['n']}",
        fontsize=7.5,
        loc="left",
    )
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=3)
    axes.grid(color=GRID, linewidth=0.5)


def predictor_values(summary: Summary, series: Series, row: Row) -> dict[str, float]:
    """By domain; a value that holds for any model or arm is that of each."""
    return {
        one["domain"]: one["value"]
        for one in summary.rows("predictors", probe=row["probe"], predictor=row["predictor"])
        if one["model"] in (series.model, "-") and one["arm"] in (series.arm, "-") and one["value"] is not None
    }
