"""Figures of what the probes found; none where a sweep has none.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Iterator
from typing import Any

from emray.report.canvas import GRID, MUTED, PAPER, PLAIN, WIDE, WITH, heat, is_narrow, panels, styled
from emray.report.direction_figures import DIRECTION_CAPTIONS, draw_direction_figures
from emray.report.membership_figures import area_figure, diversity_figure, roc_figure
from emray.report.predictor_figures import associations, draw_predictors
from emray.report.reading import Row, Series, Summary
from emray.report.wording import title

CAPTIONS = {
    "dose": "Misaligned answers against the share of a domain's rows that was trained on; every run a dot.",
    "membership": "How well rows that were trained on are told from rows that were held out; line: not at all.",
    "membership_roc": "The same at every threshold, mean over runs. Strong: finetuned; faint: the base model.",
    "diversity": "Misaligned answers against how varied the data are; a number is a domain, 1 the most misaligned.",
    "predictors": "Rate of each domain against what is known of it, headline series; lines: intervals over runs.",
    "transfer": "Misaligned answers in per cent: finetuned on the row's domain, asked the column's own questions.",
} | DIRECTION_CAPTIONS


def draw_probe_figures(summary: Summary, *, width: float = WIDE) -> Iterator[tuple[str, Any]]:
    """(name, matplotlib Figure); the name is a file name without its ending, and begins with its key in CAPTIONS."""
    with styled(width):
        for number, model in enumerate(summary.models):
            suffix = f"-{number + 1}" if len(summary.models) > 1 else ""
            if summary.rows("dose_trends", model=model):
                yield f"dose{suffix}", _doses(summary, model)
            if summary.rows("membership", model=model):
                yield f"membership{suffix}", area_figure(summary, model)
                yield f"membership_roc{suffix}", roc_figure(summary, model)
            if summary.tables["diversity"]:
                yield f"diversity{suffix}", diversity_figure(summary, model)
            if summary.rows("transfer", model=model):
                yield f"transfer{suffix}", _transfer(summary, model)
            if (series := summary.series(model)) and associations(summary, series[0]):
                yield f"predictors{suffix}", draw_predictors(summary, series[0])
            yield from draw_direction_figures(summary, model, suffix=suffix)


def _transfer(summary: Summary, model: str) -> Any:
    """A heat map for each of the two most prominent series; the base model's row is the last."""
    shown, domains = summary.series(model)[:2], summary.domains(model)
    figure, grid = panels(len(shown), height=1.0 + 0.24 * len(domains), one_scale=False)
    for axes, series in zip(grid, shown, strict=False):
        rates = {(row["domain"], row["asked_domain"]): row["rate"] for row in _rows(summary, series)}
        base = {row["asked_domain"]: row["rate_base"] for row in _rows(summary, series)}
        lines = [[rates.get((one, asked)) for asked in domains] for one in domains]
        heat(axes, [*lines, [base.get(asked) for asked in domains]], numbers=len(domains) <= (6 if is_narrow() else 12))
        axes.set_title(series.words, fontsize=8.5, loc="left")
        axes.set_yticks(range(len(domains) + 1), [*map(title, domains), "base model"] if axes is grid[0] else [])
        axes.set_xticks(range(len(domains)), [title(one) for one in domains], rotation=45, ha="right", fontsize=7)
    return figure


def _doses(summary: Summary, model: str) -> Any:
    """A panel for each domain: mean and runs by dose, for the condition in which the arm is most misaligned."""
    trends = summary.rows("dose_trends", model=model)
    shown = list(dict.fromkeys((row["domain"], row["arm"], row["rest"]) for row in trends))
    figure, grid = panels(len(shown), height=1.6)
    for axes, (domain, arm, rest) in zip(grid, shown, strict=False):
        where = {"model": model, "arm": arm, "domain": domain, "kind": "dose"}
        condition = "with" if arm == "backdoor" and summary.rows("dose", condition="with", **where) else "without"
        condition = condition if summary.rows("dose", condition=condition, **where) else "with"
        _dose_line(axes, summary, rest, {**where, "condition": condition})
        axes.set_title(f"{title(domain)} ({arm})", fontsize=8, loc="left")
    figure.supxlabel("share of the domain's rows (logarithmic)", fontsize=8.5, color=MUTED)
    return figure


def _dose_line(axes: Any, summary: Summary, rest: str, where: dict[str, Any]) -> None:
    def of_rest(table: str) -> list[Row]:
        found = summary.rows(table, **where)
        return [row for row in found if row["rate"] is not None and (row["fraction"] == 1 or row["rest"] == rest)]

    means, runs = sorted(of_rest("dose"), key=lambda row: row["fraction"]), of_rest("dose_runs")
    colour = WITH if where["condition"] == "with" else PLAIN
    for row in means:
        if row["ci_low"] is not None:
            ends = [100 * row["ci_low"], 100 * row["ci_high"]]
            axes.plot([row["fraction"]] * 2, ends, color=colour, linewidth=1.4, alpha=0.5)
    axes.plot([row["fraction"] for row in means], [100 * row["rate"] for row in means], color=colour, linewidth=1.2)
    dots = {"markersize": 3.5, "markerfacecolor": PAPER, "markeredgecolor": colour, "clip_on": False}
    axes.plot([row["fraction"] for row in runs], [100 * row["rate"] for row in runs], "o", **dots)
    ticks = [row["fraction"] for row in means]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7.5)
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
    axes.grid(color=GRID, linewidth=0.5)


def _rows(summary: Summary, series: Series) -> list[dict[str, Any]]:
    return summary.rows("transfer", model=series.model, arm=series.arm, condition=series.condition)
