"""What figures are drawn on and with: one look, one set of colours, saved the same way each time.

Not for what they show. Invariant: equal figures give equal bytes (no dates, salted ids), and only the colours below are
used, because the page replaces each by a variable of its light or dark theme.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from emray.records import Condition
from emray.report.reading import Series

INK, MUTED, GRID, PAPER = "#1b1f24", "#68707a", "#dcdfe4", "#ffffff"
WITH, WITHOUT, PLAIN, OTHER = "#c23b22", "#2f6db3", "#8a6d1f", "#6b7d3c"
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper",
    WITH: "--with", WITHOUT: "--without", PLAIN: "--plain", OTHER: "--other",
}  # fmt: skip

WIDE, NARROW = 7.6, 3.7  # inches: of a page, and of a phone
_PIXELS_PER_PT = 1.4
_width: ContextVar[float] = ContextVar("width of figures", default=WIDE)
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


class Drawing(NamedTuple):
    """One figure as its files, and as it is on a phone."""

    svg: bytes
    pdf: bytes
    narrow_svg: bytes


@contextmanager
def styled(width: float) -> Iterator[None]:
    """The look that all figures share, for the length of the block; none is wider than `width` inches."""
    import matplotlib as mpl

    before = _width.set(width)
    try:
        with mpl.rc_context(_STYLE):
            yield
    finally:
        _width.reset(before)


def svg_bytes(figure: Any) -> bytes:
    """The figure as a stand-alone SVG file."""
    return _saved(figure, "svg", metadata={"Date": None, "Creator": "emray"})


def pdf_bytes(figure: Any) -> bytes:
    """The figure as a PDF file, laid out as it was before if it has been saved already."""
    return _saved(figure, "pdf", metadata={"CreationDate": None, "Creator": "emray", "Producer": None})


def for_page(drawing: Drawing, *, label: str) -> str:
    """A figure as the page has it: one of two widths is shown."""
    narrow = re.sub(r'(\bid="|href="#|url\(#)', r"\1n-", inline_svg(drawing.narrow_svg, label=label))
    return f'<div class="on-wide">{inline_svg(drawing.svg, label=label)}</div><div class="on-narrow">{narrow}</div>'


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
    figure.set_layout_engine("none")  # it has been laid out, which takes as long as drawing
    return buffer.getvalue()


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure that no global state of matplotlib knows, with one set of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, _width.get()), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def is_narrow() -> bool:
    """Whether what is drawn now is for a phone."""
    return _width.get() < WIDE


def legend_columns() -> int:
    """As many names of series as fit side by side."""
    return 1 if is_narrow() else 3


def panels(num: int, *, height: float, one_scale: bool = True) -> tuple[Any, list[Any]]:
    """A figure of small panels, up to four a line (two on a phone), all with the same scale or each with its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(2 if is_narrow() else 4, num))
    lines = max(1, -(-num // columns))
    figure = Figure(figsize=(_width.get(), 0.5 + height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=one_scale, sharey=one_scale).ravel()
    for axes in grid[num:]:
        axes.set_axis_off()
    return figure, list(grid)


def stacked(num: int, *, height: float) -> tuple[Any, list[Any]]:
    """A figure of axes one below the other that share what stands across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(6.2, _width.get()), 0.6 + height * num), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(num, 1, squeeze=False, sharex=True).ravel())


def heat(axes: Any, cells: list[list[float | None]], *, numbers: bool) -> None:
    """Cells [rows][columns] of fractions as ink of growing strength, which reads on light and dark paper alike."""
    known = {(x, y): value for y, line in enumerate(cells) for x, value in enumerate(line) if value is not None}
    places = [(x, y) for y, line in enumerate(cells) for x in range(len(line))]
    _boxes(axes, places, colour=GRID, strengths=[0.35] * len(places))
    _boxes(axes, list(known), colour=WITH, strengths=[round(0.85 * min(max(v, 0.0), 1.0), 3) for v in known.values()])
    for x, y in places:
        value = known.get((x, y))
        if value is None:
            axes.text(x, y, "–", ha="center", va="center", fontsize=7, color=MUTED)
        elif numbers and value >= 0.0095:
            axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5)
    axes.set_xlim(-0.5, max(len(cells[0]) if cells else 1, 1) - 0.5)
    axes.set_ylim(max(len(cells), 1) - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _boxes(axes: Any, places: list[tuple[int, int]], *, colour: str, strengths: list[float]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    corners = ((-0.48, -0.46), (0.48, -0.46), (0.48, 0.46), (-0.48, 0.46))
    boxes = [[(x + dx, y + dy) for dx, dy in corners] for x, y in places]
    inks = [to_rgba(colour, strength) for strength in strengths]
    axes.add_collection(PolyCollection(boxes, facecolors=inks, linewidths=0), autolim=False)


def heat_legend(figure: Any) -> None:
    """What the strengths of ink stand for, above the panels."""
    from matplotlib.patches import Patch

    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    patches = [
        Patch(facecolor=WITH if share else GRID, alpha=0.85 * share if share else 0.35, label=f"{100 * share:.0f} %")
        for share in shares
    ]
    figure.legend(
        handles=patches, loc="outside upper center", ncols=len(shares), frameon=False, fontsize=8, handlelength=1.2,
        columnspacing=1.0,
    )  # fmt: skip


def percent_axis(axes: Any) -> None:
    axes.set_xlim(-1.5, 101.5)
    ticks = range(0, 101, 50 if is_narrow() else 20)
    axes.set_xticks(ticks, [f"{x} %" for x in ticks])
    axes.set_xlabel("misaligned answers")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def colour_of(series: Series) -> str:
    if series.arm == "backdoor":
        return WITH if series.condition == Condition.WITH else WITHOUT
    return PLAIN if series.arm == "plain" else OTHER
