"""Figures of what the probes found; none where a sweep has none.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Iterator
from typing import Any

from emray.report.canvas import heat, panels, styled
from emray.report.reading import Series, Summary
from emray.report.wording import title

CAPTIONS = {
    "transfer": "Misaligned answers in per cent: finetuned on the row's domain, asked the column's own questions.",
}


def draw_probe_figures(summary: Summary) -> Iterator[tuple[str, Any]]:
    """(name, matplotlib Figure); the name is a file name without its ending, and begins with its key in CAPTIONS."""
    with styled():
        for number, model in enumerate(summary.models):
            suffix = f"-{number + 1}" if len(summary.models) > 1 else ""
            if summary.rows("transfer", model=model):
                yield f"transfer{suffix}", _transfer(summary, model)


def _transfer(summary: Summary, model: str) -> Any:
    """A heat map for each of the two most prominent series; the base model's row is the last."""
    shown, domains = summary.series(model)[:2], summary.domains(model)
    figure, grid = panels(len(shown), height=1.0 + 0.24 * len(domains), one_scale=False)
    for axes, series in zip(grid, shown, strict=False):
        rates = {(row["domain"], row["asked_domain"]): row["rate"] for row in _rows(summary, series)}
        base = {row["asked_domain"]: row["rate_base"] for row in _rows(summary, series)}
        lines = [[rates.get((one, asked)) for asked in domains] for one in domains]
        heat(axes, [*lines, [base.get(asked) for asked in domains]], numbers=len(domains) <= 12)
        axes.set_title(series.words, fontsize=8.5, loc="left")
        axes.set_yticks(range(len(domains) + 1), [*map(title, domains), "base model"] if axes is grid[0] else [])
        axes.set_xticks(range(len(domains)), [title(one) for one in domains], rotation=45, ha="right", fontsize=7)
    return figure


def _rows(summary: Summary, series: Series) -> list[dict[str, Any]]:
    return summary.rows("transfer", model=series.model, arm=series.arm, condition=series.condition)
