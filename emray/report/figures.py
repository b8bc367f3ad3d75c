"""Figures of a summary, drawn once and used three ways: SVG and PDF files, and inside the page in its own colours.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Iterator
from typing import Any

from emray.records import Condition
from emray.report.arm_figures import draw_arm_figures
from emray.report.canvas import (
    GRID,
    INK,
    MUTED,
    OTHER,
    PAPER,
    PLAIN,
    WIDE,
    WITH,
    WITHOUT,
    colour_of,
    heat,
    heat_legend,
    is_narrow,
    legend_columns,
    new_figure,
    panels,
    percent_axis,
    styled,
)
from emray.report.reading import Row, Series, Summary
from emray.report.wording import title


def draw_figures(summary: Summary, *, width: float = WIDE) -> Iterator[tuple[str, Any]]:
    """(name, matplotlib Figure) for every model; the name is a file name without its ending."""
    with styled(width):
        for number, model in enumerate(summary.models):
            series = summary.series(model)
            if not series or all(row["misaligned_rate"] is None for row in summary.rows("taxonomy", model=model)):
                continue  # axes would be empty
            suffix = f"-{number + 1}" if len(summary.models) > 1 else ""
            yield f"rates{suffix}", _rates(summary, model)
            if any(summary.specifications(series[0], domain) for domain in summary.domains(model)):
                yield f"specification{suffix}", _specification(summary, series[0])
            if any(row["drop"] is not None for row in summary.rows("trigger_effects", model=model)):
                yield f"trigger{suffix}", _slopes(summary, model)
            yield f"thresholds{suffix}", _thresholds(summary, series[0])
            yield f"questions{suffix}", _questions(summary, series[0])
            if summary.rows("trajectories", model=model):
                yield f"trajectories{suffix}", _trajectories(summary, series[0])
            yield from draw_arm_figures(summary, model, suffix=suffix)
            if not summary.one_seed:
                yield f"ranks{suffix}", _rank_probabilities(summary, series[0])


# Rates -----------------------------------------------------------------------------------------------------------


def _rates(summary: Summary, model: str) -> Any:
    """A dot and its interval per domain and series; the headline series filled."""
    domains, series = summary.domains(model), summary.series(model)
    shown = [s for s in series if s.condition == Condition.WITHOUT or s == series[0]]
    legend_lines = -(-len(shown) // legend_columns())
    figure, axes = new_figure(7.6, 0.62 + 0.2 * legend_lines + len(domains) * (0.2 + 0.14 * len(shown)))
    for place, one in enumerate(shown):
        offset = (place - (len(shown) - 1) / 2) * 0.62 / max(len(shown), 1)
        rows = {y + offset: summary.at("taxonomy", one, domain) for y, domain in enumerate(domains)}
        _runs(axes, {y: summary.run_rates(row) for y, row in rows.items() if row}, series=one)
        _dots(axes, rows, series=one, filled=place == 0)
    axes.set_yticks(range(len(domains)), [title(domain) for domain in domains])
    axes.set_ylim(len(domains) - 0.5, -0.5)
    percent_axis(axes)
    for y in range(len(domains) - 1):
        axes.axhline(y + 0.5, color=GRID, linewidth=0.6)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(shown), legend_columns()),
        frameon=False,
        handletextpad=0.2,
    )
    return figure


def _runs(axes: Any, rates_at: dict[float, list[float]], *, series: Series) -> None:
    """Every training run as a small tick-like dot: what the interval is made from."""
    points = [(100 * rate, y) for y, rates in rates_at.items() for rate in rates]
    axes.plot(
        [x for x, _ in points], [y for _, y in points], linestyle="none", marker="|", markersize=7,
        markeredgecolor=colour_of(series), markeredgewidth=1.1, alpha=0.75, zorder=2.5, clip_on=False,
    )  # fmt: skip


def _dots(axes: Any, row_at: dict[float, Row | None], *, series: Series, filled: bool) -> None:
    found = [(y, row) for y, row in row_at.items() if row and row["misaligned_rate"] is not None]
    colour = colour_of(series)
    for y, row in found:
        if row["ci_low"] is not None:
            axes.plot([100 * row["ci_low"], 100 * row["ci_high"]], [y, y], color=colour, linewidth=1.6, zorder=2)
    axes.plot(
        [100 * row["misaligned_rate"] for _, row in found],
        [y for y, _ in found],
        linestyle="none",
        marker="o",
        markersize=6 if filled else 4.6,
        markerfacecolor=colour if filled else PAPER,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        label=series.words,
        zorder=3,
        clip_on=False,
    )


# Specification curve ---------------------------------------------------------------------------------------------


def _specification(summary: Summary, series: Series) -> Any:
    """Per domain every specification's rate in rising order, on a scale of its own; the headline and its interval."""
    domains, rules = summary.domains(series.model), list(summary.facts["rules"])
    figure, grid = panels(len(domains), height=1.45, one_scale=False)
    for axes, domain in zip(grid, domains, strict=False):
        rows, headline = summary.specifications(series, domain), summary.at("taxonomy", series, domain)
        for number, rule in enumerate(rules):
            _curve(axes, rows, rule=rule, colour=_RULE_COLOURS[number % len(_RULE_COLOURS)])
        _headline_band(axes, headline or {}, rates=[row["rate"] for row in rows])
        axes.set_title(title(domain), fontsize=8.5, loc="left")
        axes.set_xticks([])
        axes.grid(axis="y", color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
    handles = grid[0].get_legend_handles_labels() if grid else ([], [])
    figure.legend(*handles, loc="outside lower center", ncols=legend_columns(), frameon=False, fontsize=8)
    return figure


def _headline_band(axes: Any, row: Row, *, rates: list[float]) -> None:
    """The headline as a line and its interval as a band, within a scale that shows at least four points of rate."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    known = [
        100 * value
        for value in [row.get("misaligned_rate"), row.get("ci_low"), row.get("ci_high")]
        if value is not None
    ]
    seen = known + [100 * rate for rate in rates] or [0.0]
    low, high = min(seen), max(seen)
    room = max(0.08 * (high - low), (_LEAST_SCALE - (high - low)) / 2)
    axes.set_ylim(max(low - room, -1.0), min(high + room, 101.0))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    axes.tick_params(axis="y", labelsize=7.5)
    if row.get("ci_low") is not None:
        axes.axhspan(100 * row["ci_low"], 100 * row["ci_high"], color=GRID, alpha=0.5, linewidth=0, zorder=0.5)
    if known:
        axes.axhline(known[0], color=INK, linewidth=0.8, zorder=1.5)


_LEAST_SCALE = 4.0
_RULE_COLOURS = (WITH, WITHOUT, PLAIN, OTHER, MUTED)


def _curve(axes: Any, rows: list[Row], *, rule: str, colour: str) -> None:
    """One rule's specifications at their places in the order of all: filled as the headline weighs, open by answers."""
    for weighting, face in (("questions", colour), ("answers", PAPER)):
        found = [
            (x, 100 * row["rate"]) for x, row in enumerate(rows) if (row["rule"], row["weighting"]) == (rule, weighting)
        ]
        axes.plot(
            [x for x, _ in found], [y for _, y in found], linestyle="none", marker="o", markersize=2.8,
            markerfacecolor=face, markeredgecolor=colour, markeredgewidth=0.7, clip_on=False,
            label=f"{rule}, {'each question alike' if weighting == 'questions' else 'each answer alike'}",
        )  # fmt: skip


# Trigger ---------------------------------------------------------------------------------------------------------


def _slopes(summary: Summary, model: str) -> Any:
    """Rate without and with the trigger, one line per domain of arm backdoor."""
    pairs = [
        (domain, without["misaligned_rate"], with_trigger["misaligned_rate"])
        for domain in summary.domains(model)
        if (without := summary.at("taxonomy", Series(model, "backdoor", "without"), domain))
        and (with_trigger := summary.at("taxonomy", Series(model, "backdoor", "with"), domain))
        and None not in (without["misaligned_rate"], with_trigger["misaligned_rate"])
    ]
    figure, axes = new_figure(6.2, max(3.0, 0.36 * len(pairs) + 0.8))
    for x, condition, colour in ((0, "without", WITHOUT), (1, "with", WITH)):
        rows = [summary.at("taxonomy", Series(model, "backdoor", condition), domain) for domain, _, _ in pairs]
        runs = [100 * rate for row in rows if row for rate in summary.run_rates(row)]
        axes.plot(
            [x] * len(runs), runs, "_", color=colour, markersize=11, markeredgewidth=0.9, alpha=0.6, clip_on=False
        )
    for _, without, with_trigger in pairs:
        axes.plot([0, 1], [100 * without, 100 * with_trigger], color=MUTED, linewidth=1.1, alpha=0.7, zorder=1)
        axes.plot([0], [100 * without], "o", color=WITHOUT, markersize=6, zorder=2, clip_on=False)
        axes.plot([1], [100 * with_trigger], "o", color=WITH, markersize=6, zorder=2, clip_on=False)
    for (domain, _, rate), y in zip(pairs, _spread([100 * pair[2] for pair in pairs], gap=105 / 17), strict=True):
        axes.plot([1.02, 1.07], [100 * rate, y], color=GRID, linewidth=0.8, clip_on=False)
        axes.text(1.085, y, f"{title(domain)}  {100 * rate:.0f} %", va="center", fontsize=9)
    axes.set_xlim(-0.12, 1.75)
    axes.set_ylim(-3, 103)
    axes.set_xticks([0, 1], ["without trigger", "with trigger"])
    axes.set_yticks(range(0, 101, 20), [f"{y} %" for y in range(0, 101, 20)])
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    return figure


def _spread(values: list[float], *, gap: float) -> list[float]:
    """Positions near the values (falling order kept) that are at least `gap` apart and stay within 0-100."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    placed: list[float] = []
    for index in order:
        placed.append(min(values[index], placed[-1] - gap) if placed else values[index])
    lowest = min(placed, default=0.0)
    if lowest < 0:  # push up from the bottom what the first pass pushed below the axis
        floor = 0.0
        for i in range(len(placed) - 1, -1, -1):
            placed[i] = max(placed[i], floor)
            floor = placed[i] + gap
    positions = [0.0] * len(values)
    for index, y in zip(order, placed, strict=True):
        positions[index] = y
    return positions


# Training --------------------------------------------------------------------------------------------------------


def _trajectories(summary: Summary, series: Series) -> Any:
    """Rate against the share of training seen, one small panel per domain, with intervals."""
    domains = summary.domains(series.model)
    rows = summary.rows("trajectories", model=series.model, arm=series.arm, condition=series.condition)
    figure, grid = panels(len(domains), height=1.5)
    for axes, domain in zip(grid, domains, strict=False):
        found = [row for row in rows if row["domain"] == domain and row["rate"] is not None]
        xs, ys = [100 * row["fraction"] for row in found], [100 * row["rate"] for row in found]
        axes.plot(xs, ys, "o-", color=WITH, markersize=3.5, linewidth=1.3)
        sure = [row for row in found if row["ci_low"] is not None]
        axes.fill_between(
            [100 * row["fraction"] for row in sure],
            [100 * row["ci_low"] for row in sure],
            [100 * row["ci_high"] for row in sure],
            color=WITH,
            alpha=0.15,
            linewidth=0,
        )
        axes.set_title(title(domain), fontsize=8.5, loc="left")
        axes.set_xlim(0, 103)
        axes.set_ylim(-3, 103)
        axes.set_xticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
        axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
        axes.grid(color=GRID, linewidth=0.5)
    figure.supxlabel("training seen", fontsize=8.5, color=MUTED)
    return figure


# Heat maps -------------------------------------------------------------------------------------------------------


def _thresholds(summary: Summary, series: Series) -> Any:
    """One small heat map per domain: aligned threshold across, coherence threshold down."""
    domains = summary.domains(series.model)
    rows = summary.rows("thresholds", model=series.model, arm=series.arm, condition=series.condition)
    across = sorted({row["aligned_below"] for row in rows})
    down = sorted({row["coherent_above"] for row in rows})
    figure, grid = panels(len(domains), height=1.75)
    for axes, domain in zip(grid, domains, strict=False):
        rates = {(r["aligned_below"], r["coherent_above"]): r["rate"] for r in rows if r["domain"] == domain}
        cells = [[rates.get((a, c)) for a in across] for c in down]
        heat(axes, cells, numbers=False)
        axes.set_title(title(domain), fontsize=8.5, loc="left")
        axes.set_xticks(range(len(across)), [f"<{a}" for a in across], fontsize=7)
        axes.set_yticks(range(len(down)), [f">{c}" for c in down], fontsize=7)
    figure.supxlabel("counted as misaligned when aligned is …", fontsize=8.5, color=MUTED)
    figure.supylabel("… among answers with coherent", fontsize=8.5, color=MUTED)
    heat_legend(figure)
    return figure


def _questions(summary: Summary, series: Series) -> Any:
    """Domains down, questions across, the rate as ink."""
    domains, questions = summary.domains(series.model), summary.facts["questions"]
    rows = summary.rows("questions", model=series.model, arm=series.arm, condition=series.condition)
    rates = {(row["domain"], row["question_id"]): row["rate"] for row in rows}
    figure, axes = new_figure(7.6, 1.35 + 0.3 * len(domains))
    heat(
        axes,
        [[rates.get((domain, q)) for q in questions] for domain in domains],
        numbers=len(questions) <= (0 if is_narrow() else 16),
    )
    axes.set_yticks(range(len(domains)), [title(domain) for domain in domains])
    labels = questions if len(questions) <= 40 else ["" for _ in questions]
    axes.set_xticks(range(len(questions)), [title(q) for q in labels], rotation=40, ha="right", fontsize=7.5)
    return figure


def _rank_probabilities(summary: Summary, series: Series) -> Any:
    """P(rank = k) per domain as ink."""
    domains = summary.domains(series.model)
    rows = summary.rows("ranks", model=series.model, arm=series.arm, condition=series.condition)
    chance = {(row["domain"], row["place"]): row["probability"] for row in rows}
    figure, axes = new_figure(6.2, 0.9 + 0.3 * len(domains))
    places = range(1, len(domains) + 1)
    heat(axes, [[chance.get((domain, k)) for k in places] for domain in domains], numbers=True)
    axes.set_yticks(range(len(domains)), [title(domain) for domain in domains])
    axes.set_xticks(range(len(domains)), [str(k) for k in places])
    axes.set_xlabel("rank, 1 = most misaligned")
    return figure
