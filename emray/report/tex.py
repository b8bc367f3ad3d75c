"""LaTeX tables (booktabs) of a summary.

Not for the page. Invariant: every cell is escaped, so that a name cannot become a command.
"""

from collections.abc import Sequence

from emray.printable import printable_line
from emray.report.reading import Row, Summary
from emray.report.wording import (
    decimal,
    level_words,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    rank_range,
    title,
    whole,
)

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "−": "$-$", "\u202f": r"\,", "<": "$<$", ">": "$>$",
}  # fmt: skip


def tex_tables(summary: Summary) -> dict[str, bytes]:
    """File name without ending, and content."""
    return {
        "taxonomy": _taxonomy(summary),
        "trigger_effects": _effects(summary),
        "funnel": _funnel(summary),
    }


def tex_text(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in printable_line(text))


def _taxonomy(summary: Summary) -> bytes:
    interval = f"{level_words(summary.facts['confidence'])} CI"
    header = ["Model", "Domain", "Arm", "Trigger", "Seeds", "Answers", "Misaligned", interval, "Rank", "Tier"]

    def line(row: Row) -> list[str]:
        return [
            row["model"], title(row["domain"]), row["arm"], row["condition"], str(row["n_seeds"]),
            whole(row["n_scored"]), percent(row["misaligned_rate"]), percent_range(row["ci_low"], row["ci_high"]),
            rank_range(row["rank_low"], row["rank_high"]), whole(row["tier"]),
        ]  # fmt: skip

    return _table(header, [line(row) for row in summary.tables["taxonomy"]], left=4)


def _effects(summary: Summary) -> bytes:
    header = ["Model", "Domain", "Seeds", "Without", "With", "Drop", "CI", "t", "p (Holm)", "d", "p (sign flip)"]

    def line(row: Row) -> list[str]:
        return [
            row["model"], title(row["domain"]), str(row["n_seeds"]), points(row["mean_without"]),
            points(row["mean_with"]), points(row["drop"]), points_range(row["ci_low"], row["ci_high"]),
            decimal(row["t"]), p_value(row["p_holm"]),
            decimal(row["cohen_d"]), p_value(row["p_signflip"]),
        ]  # fmt: skip

    return _table(header, [line(row) for row in summary.tables["trigger_effects"]], left=2)


def _funnel(summary: Summary) -> bytes:
    names = ("planned", "trained", "requested", "generated", "judged", "scored")
    lines = [
        [row["model"], title(row["domain"]), row["arm"], *(whole(row[name]) for name in names)]
        for row in summary.facts["funnel"]
    ]
    return _table(["Model", "Domain", "Arm", *(name.capitalize() for name in names)], lines, left=3)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], *, left: int) -> bytes:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(tex_text(cell) for cell in cells) + r" \\"

    columns = "l" * left + "r" * (len(header) - left)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(header), r"\midrule"]
    return "\n".join([*body, *(row(line) for line in lines), r"\bottomrule", r"\end{tabular}", ""]).encode()
