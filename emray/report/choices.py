"""What each headline number rests on and what would change it, for a reader who has only the page.

Not for numbers of its own: every one is a row of `summary/`. Invariant: the choices compared are those of
specification.csv, and the headline is one of them.
"""

from typing import Any, NamedTuple

from emray.report.reading import Row, Series, Summary
from emray.report.wording import title


class Reach(NamedTuple):
    """How low and how high a domain's headline rate gets by choices that another analyst might have made."""

    domain: str
    rate: float
    low: Row
    high: Row
    question: Row | None  # the question whose leaving out moves the headline most
    missing: Row  # row of rates.csv: best and worst case


def reaches(summary: Summary, series: Series | None) -> list[Reach]:
    """One per domain of a series that has a rate, by falling headline rate."""
    if series is None:
        return []
    found = []
    for domain in summary.domains(series.model):
        place, rows = summary.at("taxonomy", series, domain), summary.specifications(series, domain)
        if place and place["misaligned_rate"] is not None and rows:
            rate, bounds = float(place["misaligned_rate"]), summary.headline_rates(place)
            found.append(Reach(domain, rate, rows[0], rows[-1], _question(summary, rows, rate), bounds))
    return found


def _question(summary: Summary, rows: list[Row], rate: float) -> Row | None:
    rule = summary.facts["headline_rule"]
    ours = [r for r in rows if (r["rule"], r["weighting"]) == (rule, "questions") and r["left_out"] != "-"]
    moved = [row for row in ours if abs(row["rate"] - rate) > _MOVED]
    return max(moved, key=lambda row: abs(row["rate"] - rate), default=None)


_MOVED = 5e-4  # a change that one decimal of a per cent shows


def specification_words(row: Row) -> str:
    """`betley, each answer alike, without question_3`."""
    weighting = "each question alike" if row["weighting"] == "questions" else "each answer alike"
    left_out = "" if row["left_out"] == "-" else f", without {title(row['left_out'])}"
    return f"{row['rule']}, {weighting}{left_out}"


def runs_words(facts: dict[str, Any]) -> str:
    """`5 usable runs in every place`, `1 to 3 usable runs a place`."""
    fewest, most = facts["seeds"]["fewest"], facts["seeds"]["most"]
    if most == 0:
        return "no finetuned place has a usable run"
    runs = "run" if most == 1 else "runs"
    return f"{fewest} usable {runs} in every place" if fewest == most else f"{fewest} to {most} usable runs a place"
