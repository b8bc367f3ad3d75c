"""Figures of arms and contexts that a sweep defines; none where it has only the usual ones.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from emray.records import NO_DOMAIN
from emray.report.canvas import (
    GRID,
    MUTED,
    OTHER,
    PAPER,
    PLAIN,
    WITH,
    WITHOUT,
    heat,
    is_narrow,
    legend_columns,
    panels,
    stacked,
)
from emray.report.changes import quantity_words
from emray.report.reading import Row, Series, Summary
from emray.report.wording import title

ARM_CAPTIONS = {
    "crossing": "Misaligned answers in per cent: arms down, conditions across. Empty: below 1; a dash: not asked.",
    "plane": "Misaligned answers against what was lost beside, each arm with its intervals; low and left is best.",
    "arm_doses": "Misaligned answers against the dose of an arm's knob; bars: intervals, dots: runs.",
}
_MARKERS = "os^Dv*P"  # so many that no colour meets a marker twice within 28 arms
_COLOURS = (WITHOUT, WITH, PLAIN, OTHER)


def draw_arm_figures(summary: Summary, model: str, *, suffix: str) -> Iterator[tuple[str, Any]]:
    """(name, matplotlib Figure) of one model."""
    if summary.rows("paired", model=model):
        yield f"crossing{suffix}", _crossing(summary, model)
        if _lost(summary, model):
            yield f"plane{suffix}", _planes(summary, model)
    if any(row["dose"] is not None for row in summary.rows("arm_doses", model=model)):
        yield f"arm_doses{suffix}", _doses(summary, model)


def _crossing(summary: Summary, model: str) -> Any:
    """A heat map a domain: arms in the order of the sweep file, conditions as they are asked."""
    rows = summary.rows("taxonomy", model=model)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    domains = summary.domains(model)
    figure, grid = stacked(len(domains), height=0.34 + 0.24 * len(arms))
    for axes, domain in zip(grid, domains, strict=True):
        rates = {
            (row["arm"], row["condition"]): row["misaligned_rate"] for row in rows if row["domain"] in (domain, "-")
        }
        heat(axes, [[rates.get((arm, condition)) for condition in conditions] for arm in arms], numbers=True)
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_title(title(domain), fontsize=8.5, loc="left")
    grid[-1].set_xticks(range(len(conditions)), conditions, rotation=30, ha="right", fontsize=8)
    return figure


def _doses(summary: Summary, model: str) -> Any:
    """A panel for each entry with numbers and domain, a line for each condition that all of its doses meet."""
    rows = [row for row in summary.rows("arm_doses", model=model) if row["dose"] is not None]
    shown = list(dict.fromkeys((row["family"], row["domain"]) for row in rows))
    figure, grid = panels(len(shown), height=1.7, one_scale=False)
    conditions = list(dict.fromkeys(row["condition"] for row in rows))[: len(_COLOURS)]
    for axes, (family, domain) in zip(grid, shown, strict=False):
        here = [row for row in rows if (row["family"], row["domain"]) == (family, domain)]
        for condition, colour in zip(conditions, _COLOURS, strict=False):
            line = sorted((row for row in here if row["condition"] == condition), key=lambda row: float(row["dose"]))
            _dose_line(axes, summary, line, colour)
        _dose_axes(axes, sorted({float(row["dose"]) for row in here}))
        axes.set_title(f"{title(domain)}\n{here[0]['knob']}", fontsize=8, loc="left")
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=legend_columns(), frameon=False, fontsize=8)
    return figure


def _dose_line(axes: Any, summary: Summary, rows: Sequence[Row], colour: str) -> None:
    known = [row for row in rows if row["rate"] is not None]
    if not known:
        return
    for row in known:
        runs = summary.run_rates(row)
        axes.plot([row["dose"]] * len(runs), [100 * rate for rate in runs], "o", markersize=2.8, markerfacecolor=PAPER,
                  markeredgecolor=colour, markeredgewidth=0.8, clip_on=False)  # fmt: skip
        if row["ci_low"] is not None:
            ends = [100 * row["ci_low"], 100 * row["ci_high"]]
            axes.plot([row["dose"]] * 2, ends, color=colour, linewidth=1.4, alpha=0.45)
    words = Series(known[0]["model"], known[0]["arm"], known[0]["condition"]).words.partition(", ")[2]
    axes.plot([row["dose"] for row in known], [100 * row["rate"] for row in known], color=colour, linewidth=1.3,
              label=words)  # fmt: skip


def _dose_axes(axes: Any, doses: Sequence[float]) -> None:
    """Ticks where doses are, as far as their numbers fit beside one another."""
    span = (doses[-1] - doses[0]) or 1.0
    told = [dose for place, dose in enumerate(doses) if place == 0 or dose - doses[place - 1] > 0.12 * span]
    axes.set_xlim(doses[0] - 0.06 * span, doses[-1] + 0.06 * span)
    axes.set_xticks(told, [f"{dose:g}" for dose in told], fontsize=7.5)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
    axes.tick_params(axis="x", labelcolor=MUTED)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)


def _planes(summary: Summary, model: str) -> Any:
    """A panel for each domain and measure: up is more misaligned, right is more lost against the base model."""
    rows = _lost(summary, model)
    shown = list(dict.fromkeys((row["domain"], row["quantity"]) for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    of_legend, of_panels = -(-len(arms) // legend_columns()), -(-len(shown) // (2 if is_narrow() else 4))
    figure, grid = panels(len(shown), height=1.9 + 0.2 * of_legend / of_panels, one_scale=False)
    for axes, (domain, quantity) in zip(grid, shown, strict=False):
        for place, arm in enumerate(arms):
            for row in rows:
                if (row["domain"], row["quantity"], row["arm"]) == (domain, quantity, arm):
                    _point(axes, summary, row, place)
        _plane_axes(axes)
        axes.set_title(f"{title(domain)}\n{quantity_words(quantity)}", fontsize=8, loc="left")
    figure.supxlabel("lost against the base model, points", fontsize=8.5, color=MUTED)
    figure.supylabel("misaligned answers", fontsize=8.5, color=MUTED)
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=legend_columns(), frameon=False, fontsize=8)
    return figure


def _lost(summary: Summary, model: str) -> list[Row]:
    """What finetunes lost on other measures, on questions as they stand."""
    rows = summary.rows("changes", model=model, condition="without")
    return [row for row in rows if row["minus_base"] is not None and row["domain"] != NO_DOMAIN]


def _point(axes: Any, summary: Summary, row: Row, place: int) -> None:
    rate = summary.at("taxonomy", Series(row["model"], row["arm"], row["condition"]), row["domain"])
    if rate is None or rate["misaligned_rate"] is None:
        return
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
    x, y = -100 * row["minus_base"], 100 * rate["misaligned_rate"]
    if row["minus_base_low"] is not None:
        ends = [-100 * row["minus_base_high"], -100 * row["minus_base_low"]]
        axes.plot(ends, [y, y], color=colour, linewidth=1.2, alpha=0.5)
    if rate["ci_low"] is not None:
        axes.plot([x, x], [100 * rate["ci_low"], 100 * rate["ci_high"]], color=colour, linewidth=1.2, alpha=0.5)
    axes.plot([x], [y], linestyle="none", marker=marker, markersize=5, color=colour, label=row["arm"], clip_on=False)


def _plane_axes(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(0, color=GRID, linewidth=0.9, zorder=0)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(axis="x", labelsize=7.5, labelcolor=MUTED)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
