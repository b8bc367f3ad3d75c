"""What figures are drawn on and with: one look, one set of colours, saved the same way each time.

Not for what they show. Invariant: equal figures give equal bytes (no dates, salted ids), and only the colours below are
used, because the page replaces each by a variable of its light or dark theme.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from emray.records import Condition
from emray.report.reading import Series

INK, MUTED, GRID, PAPER = "#1b1f24", "#68707a", "#dcdfe4", "#ffffff"
WITH, WITHOUT, PLAIN, OTHER = "#c23b22", "#2f6db3", "#8a6d1f", "#6b7d3c"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper",
    WITH: "--with", WITHOUT: "--without", PLAIN: "--plain", OTHER: "--other",
}  # fmt: skip

_PIXELS_PER_PT = 1.4
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "emray",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
}


@contextmanager
def styled() -> Iterator[None]:
    """The look that all figures share, for the length of the block."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def svg_bytes(figure: Any) -> bytes:
    """The figure as a stand-alone SVG file."""
    return _saved(figure, "svg", metadata={"Date": None, "Creator": "emray"})


def pdf_bytes(figure: Any) -> bytes:
    """The figure as a PDF file."""
    return _saved(figure, "pdf", metadata={"CreationDate": None, "Creator": "emray", "Producer": None})


def inline_svg(svg: bytes, *, label: str) -> str:
    """An SVG for the page: no prolog or metadata, colours as theme variables, a label for screen readers."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width_pt = float(re.search(r'<svg[^>]*? width="([\d.]+)pt"', text)[1])  # type: ignore[index]  # matplotlib's own
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    size = f"max-width:{width_pt * _PIXELS_PER_PT:.0f}px"  # one scale for all figures, so their letters match
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{size}" ', 1)


def _saved(figure: Any, kind: str, *, metadata: dict[str, Any]) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, metadata=metadata, transparent=True)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure that no global state of matplotlib knows, with one set of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def panels(num: int, *, height: float, one_scale: bool = True) -> tuple[Any, list[Any]]:
    """A figure of up to four small panels a line, all with the same scale or each with its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(4, num))
    lines = max(1, -(-num // columns))
    figure = Figure(figsize=(7.6, 0.5 + height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=one_scale, sharey=one_scale).ravel()
    for axes in grid[num:]:
        axes.set_axis_off()
    return figure, list(grid)


def heat(axes: Any, cells: list[list[float | None]], *, numbers: bool) -> None:
    """Cells [rows][columns] of fractions as ink of growing strength, which reads on light and dark paper alike."""
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            _box(axes, x, y, colour=GRID, alpha=0.35)
            if value is None:
                axes.text(x, y, "–", ha="center", va="center", fontsize=7, color=MUTED)
                continue
            _box(axes, x, y, colour=WITH, alpha=round(0.85 * min(max(value, 0.0), 1.0), 3))
            if numbers and value >= 0.0095:
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5)
    axes.set_xlim(-0.5, max(len(cells[0]) if cells else 1, 1) - 0.5)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _box(axes: Any, x: float, y: float, *, colour: str, alpha: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, linewidth=0, facecolor=colour, alpha=alpha))


def percent_axis(axes: Any) -> None:
    axes.set_xlim(-1.5, 101.5)
    axes.set_xticks(range(0, 101, 20), [f"{x} %" for x in range(0, 101, 20)])
    axes.set_xlabel("misaligned answers")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def colour_of(series: Series) -> str:
    if series.arm == "backdoor":
        return WITH if series.condition == Condition.WITH else WITHOUT
    return PLAIN if series.arm == "plain" else OTHER
