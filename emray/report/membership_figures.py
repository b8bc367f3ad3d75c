"""Figures of the membership and diversity probes.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Sequence
from typing import Any

from emray.records import NO_DOMAIN
from emray.report.canvas import GRID, INK, MUTED, PAPER, PLAIN, WITH, WITHOUT, new_figure, panels
from emray.report.reading import Row, Series, Summary
from emray.report.wording import title

_SCORE = "loss"
_PARTS = ("questions", "answers", "both")
_LOOKS = (  # of a scored model, and of what it is taken against
    ("finetuned", "-", WITH, "o", "finetuned"),
    ("finetuned", "base", WITHOUT, "D", "finetuned minus base"),
    ("base", "-", MUTED, "|", "base, which saw neither"),
)


def area_figure(summary: Summary, model: str) -> Any:
    """Areas under the ROC by domain for the headline arm, the mean over domains below."""
    arm = summary.series(model)[0].arm
    domains = [*summary.domains(model), NO_DOMAIN]
    figure, axes = new_figure(7.6, 1.0 + 0.27 * len(domains))
    for number, (scored, against, colour, marker, label) in enumerate(_LOOKS):
        where = {"model": model, "arm": arm, "scored": scored, "against": against, "score": _SCORE}
        rows = [row for row in summary.rows("membership", **where) if row["adjustment"] != "ratio"]
        _areas(axes, rows, domains, at=0.2 * (number - 1), look=(colour, marker, label))
    axes.axvline(0.5, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(domains)), [*map(title, domains[:-1]), "mean over domains"])
    axes.set_ylim(len(domains) - 0.5, -0.5)
    axes.set_xlabel(f"area under the ROC, members against rows held out (loss, arm {arm})")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    return figure


def _areas(axes: Any, rows: Sequence[Row], domains: Sequence[str], *, at: float, look: tuple[str, str, str]) -> None:
    colour, marker, label = look
    there = [row for row in rows if row["auc"] is not None and row["domain"] in domains]
    for row in there:
        if row["auc_low"] is not None:
            y = domains.index(row["domain"]) + at
            axes.plot([row["auc_low"], row["auc_high"]], [y, y], color=colour, linewidth=1.2, alpha=0.6)
    places = [domains.index(row["domain"]) + at for row in there]
    axes.plot([row["auc"] for row in there], places, marker, color=colour, markersize=5, label=label)


def roc_figure(summary: Summary, model: str) -> Any:
    """A panel for each domain: the mean curve of the headline arm's finetunes, and the base's."""
    arm, domains = summary.series(model)[0].arm, summary.domains(model)
    figure, grid = panels(len(domains), height=1.7)
    for axes, domain in zip(grid, domains, strict=False):
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=0.8)
        for scored, colour in (("base", MUTED), ("finetuned", WITH)):
            where = {"model": model, "arm": arm, "domain": domain, "scored": scored, "score": _SCORE}
            curve = summary.rows("membership_roc", **where)
            axes.plot([row["fpr"] for row in curve], [row["tpr"] for row in curve], color=colour, linewidth=1.3)
        axes.set_title(title(domain), fontsize=8, loc="left")
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
    figure.supxlabel("share of the rows held out taken for members", fontsize=8.5, color=MUTED)
    figure.supylabel("share of members found", fontsize=8.5, color=MUTED)
    return figure


def diversity_figure(summary: Summary, model: str) -> Any:
    """Vendi scores of questions, answers and both against the rate of the headline series; a domain a point."""
    series = summary.series(model)[0]
    figure, grid = panels(len(_PARTS), height=2.3, one_scale=False)
    colour = WITH if series.arm == "backdoor" else PLAIN
    for axes, part in zip(grid, _PARTS, strict=False):
        for number, (x, y) in enumerate(_points(summary, series, part), 1):
            axes.plot([x], [100 * y], "o", markersize=9, color=colour, markerfacecolor=PAPER, clip_on=False)
            axes.text(x, 100 * y, str(number), ha="center", va="center", fontsize=6, color=INK)
        axes.set_title(part, fontsize=8.5, loc="left")
        axes.set_ylim(-6, 106)
        axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"] if axes is grid[0] else [], fontsize=7.5)
        axes.grid(color=GRID, linewidth=0.5)
    figure.supxlabel("texts that are different in effect (Vendi score of order 1)", fontsize=8.5, color=MUTED)
    return figure


def _points(summary: Summary, series: Series, part: str) -> list[tuple[float, float]]:
    """In the order of the domains, so that a number means the same domain in every panel."""
    rows = summary.rows("diversity", arm=series.arm, part=part)
    scores = {row["domain"]: row["vendi_1"] for row in rows}
    found = []
    for domain in summary.domains(series.model):
        row = summary.at("taxonomy", series, domain)
        if scores.get(domain) is not None and row and row["misaligned_rate"] is not None:
            found.append((scores[domain], row["misaligned_rate"]))
    return found
