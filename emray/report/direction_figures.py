"""Figures of directions and of steering along them; none where a sweep has none.

Not for numbers: every point is a row of `summary/`. Invariant: equal summaries give equal bytes.
"""

from collections.abc import Iterator
from typing import Any

from emray.report.canvas import GRID, INK, MUTED, OTHER, PAPER, WITH, heat, panels
from emray.report.reading import Row, Summary
from emray.report.wording import title

DIRECTION_CAPTIONS = {
    "cosines": "Cosine of the directions of two domains, layer by layer, a line a pair. Dashed: what noise would leave "
    "of a cosine of 1; grey: where 95 of 100 random pairs lie.",
    "steering": "The base model with a direction added: misaligned answers (filled) and coherent ones (hollow) by "
    "scale; 0 is the model as it is.",
    "projected": "Misaligned answers in per cent of the column's finetunes once the row's direction is projected out; "
    "in the last row nothing is.",
}
_LINES = (("coherent_before", "coherent", PAPER, OTHER), ("rate_before", "rate", WITH, WITH))  # of a panel
_MOST_PANELS = 12  # of one figure: what is beyond stands in the table


def draw_direction_figures(summary: Summary, model: str, *, suffix: str) -> Iterator[tuple[str, Any]]:
    """(name, matplotlib Figure) of one model."""
    if _between(summary, model):
        yield f"cosines{suffix}", _cosines(summary, model)
    if summary.rows("steering", model=model, how="add"):
        yield f"steering{suffix}", _scales(summary, model)
    if len({row["steered"] for row in _projected(summary, model)}) > 1:
        yield f"projected{suffix}", _transferred(summary, model)


def _between(summary: Summary, model: str) -> list[Row]:
    """Rows of two different domains."""
    rows = summary.rows("direction_cosines", model=model)
    return [row for row in rows if row["domain_a"] != row["domain_b"] and row["cosine"] is not None]


def _cosines(summary: Summary, model: str) -> Any:
    """A panel for each arm and difference."""
    rows = _between(summary, model)
    shown = list(dict.fromkeys((row["arm"], row["difference"]) for row in rows))
    figure, grid = panels(len(shown), height=2.2)
    for axes, (arm, difference) in zip(grid, shown, strict=False):
        mine = [row for row in rows if (row["arm"], row["difference"]) == (arm, difference)]
        layers = sorted({row["layer"] for row in mine})
        chance = mine[0]["chance"]
        axes.axhspan(-chance, chance, color=GRID, alpha=0.6, linewidth=0)
        for pair in dict.fromkeys((row["domain_a"], row["domain_b"]) for row in mine):
            line = [row for row in mine if (row["domain_a"], row["domain_b"]) == pair]
            axes.plot(
                [row["layer"] for row in line], [row["cosine"] for row in line], color=WITH, linewidth=0.8, alpha=0.55
            )
        ceilings = [_mean([row["ceiling"] for row in mine if row["layer"] == layer]) for layer in layers]
        if all(value is not None for value in ceilings):
            axes.plot(layers, ceilings, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_ylim(-1.03, 1.03)
        axes.set_title(f"{arm}, {difference} difference", fontsize=8.5, loc="left")
        axes.set_xticks(layers if len(layers) <= 8 else layers[:: len(layers) // 6])
        axes.grid(axis="y", color=GRID, linewidth=0.5)
    figure.supxlabel("layer", fontsize=8.5, color=MUTED)
    return figure


def _scales(summary: Summary, model: str) -> Any:
    """A panel for each domain, layer and difference whose direction is added, those that rise most first."""
    rows = [row for row in summary.rows("steering", model=model, how="add") if row["rate"] is not None]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["domain"], row["difference"], row["layer"]), []).append(row)
    order = sorted(groups, key=lambda place: -max(row["change"] or 0.0 for row in groups[place]))[:_MOST_PANELS]
    figure, grid = panels(len(order), height=1.6)
    for axes, place in zip(grid, order, strict=False):
        _scale_line(axes, sorted(groups[place], key=lambda row: row["scale"]))
        _, domain, difference, layer = place
        axes.set_title(f"{title(domain)}\nlayer {layer}, {difference}", fontsize=7.5, loc="left")
    figure.supxlabel("scale, in lengths of the direction", fontsize=8.5, color=MUTED)
    return figure


def _scale_line(axes: Any, rows: list[Row]) -> None:
    scales = [0.0, *(row["scale"] for row in rows)]
    first = rows[0]
    for before, name, face, colour in _LINES:
        values = [None if value is None else 100 * value for value in (first[before], *(row[name] for row in rows))]
        dots = {"marker": "o", "markersize": 3.5, "markerfacecolor": face, "clip_on": False}
        axes.plot(scales, values, color=colour, linewidth=1.1, **dots)
    for row in rows:
        if row["ci_low"] is not None:
            ends = [100 * row["ci_low"], 100 * row["ci_high"]]
            axes.plot([row["scale"]] * 2, ends, color=WITH, linewidth=1.2, alpha=0.4)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50 %", "100 %"], fontsize=7.5)
    axes.grid(color=GRID, linewidth=0.5)


def _projected(summary: Summary, model: str) -> list[Row]:
    """Of the last layer where directions were projected out, of the first arm and difference that has any."""
    rows = summary.rows("steering", model=model, how="project_out")
    if not rows:
        return []
    arm, difference = rows[0]["arm"], rows[0]["difference"]
    layer = max(row["layer"] for row in rows)
    return [row for row in rows if (row["arm"], row["difference"], row["layer"]) == (arm, difference, layer)]


def _transferred(summary: Summary, model: str) -> Any:
    rows = _projected(summary, model)
    wanted = summary.domains(model)
    sources = [name for name in wanted if any(row["domain"] == name for row in rows)]
    targets = [name for name in wanted if any(row["steered"] == name for row in rows)]
    rates = {(row["domain"], row["steered"]): row["rate"] for row in rows}
    before = {row["steered"]: row["rate_before"] for row in rows}
    figure, grid = panels(1, height=1.2 + 0.24 * len(sources), one_scale=False)
    lines = [[rates.get((source, target)) for target in targets] for source in sources]
    heat(grid[0], [*lines, [before.get(target) for target in targets]], numbers=len(targets) <= 16)
    grid[0].set_yticks(range(len(sources) + 1), [*map(title, sources), "as they are"])
    grid[0].set_xticks(range(len(targets)), [title(one) for one in targets], rotation=45, ha="right", fontsize=7)
    grid[0].set_title(f"after layer {rows[0]['layer']}, {rows[0]['condition']} trigger", fontsize=8.5, loc="left")
    return figure


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
