"""What the page says of arms and contexts that a sweep defines, ready for its templates.

Not for markup or numbers. Invariant: a context is said to misalign only where its test says so after Holm's adjustment;
else the largest difference stands there with its interval.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from emray.records import Condition
from emray.report import wording
from emray.report.reading import Row, Summary
from emray.spec import ContextSpec

_MOST_FOUND = 3  # sentences; the table has the others


def context_where(summary: Summary, condition: str) -> str:
    """A condition as the end of a sentence: `where the answer is asked as JSON`."""
    if condition == Condition.WITHOUT:
        return "on the questions as they stand"
    context = summary.facts["spec"]["contexts"].get(condition)
    return f"where {ContextSpec.model_validate(context).words}" if context else "with the trigger"


def conditional_words(summary: Summary, model: str) -> list[str]:
    """Whether some context brings out what the questions as they stand do not; nothing where none was compared."""
    contexts = summary.facts["spec"]["contexts"]
    rows = [
        row
        for row in summary.rows("paired", model=model, test="conditions", against=str(Condition.WITHOUT))
        if row["condition"] in contexts and row["difference"] is not None
    ]
    if not rows:
        return []
    rows.sort(key=lambda row: -float(row["difference"]))
    found = [row for row in rows if row["difference"] > 0 and _is_found(summary, row)]
    return list(_found_words(summary, found)) if found else [_none_words(summary, rows)]


def _is_found(summary: Summary, row: Row) -> bool:
    return row["p_holm"] is not None and row["p_holm"] <= 1 - _level(summary)


def _level(summary: Summary) -> float:
    """Of the tests: stricter where seeds were added until intervals were narrow."""
    adaptive = summary.facts["adaptive"]
    return float(adaptive["level"] if adaptive else summary.facts["confidence"])


def _found_words(summary: Summary, found: Sequence[Row]) -> Iterator[str]:
    """The largest difference of each arm and context, the largest first."""
    largest: dict[tuple[str, str], Row] = {}
    for row in found:
        largest.setdefault((row["arm"], row["condition"]), row)
    shown = list(largest.values())[:_MOST_FOUND]
    for row in shown:
        yield (
            f"Arm {row['arm']}, {wording.title(row['domain'])}: {wording.percent(row['rate_against'])} of answers are "
            f"misaligned on the questions as they stand, {wording.percent(row['rate'])} "
            f"{context_where(summary, row['condition'])} ({_difference(row)})."
        )
    if len(found) > len(shown):
        more = len(found) - len(shown)
        yield f"The same is found at {more} more place{'s' if more > 1 else ''} (summary/paired.csv)."


def _none_words(summary: Summary, rows: Sequence[Row]) -> str:
    first = rows[0]
    tested = any(row["p"] is not None for row in rows)
    none = "No context was found to misalign more than the questions as they stand"
    untested = "Whether a context misaligns more than the questions as they stand cannot be tested with one run"
    return (
        f"{none if tested else untested}: the largest of {len(rows)} differences is {_difference(first)}, arm "
        f"{first['arm']}, {wording.title(first['domain'])}, {context_where(summary, first['condition'])}."
    )


def _difference(row: Row) -> str:
    """`30.6 points more [12.0 – 49.2], p Holm = .012, 3 pairs of runs`."""
    size = wording.rate_points(abs(row["difference"]))
    interval = wording.rate_points_range(row["ci_low"], row["ci_high"])
    told = f"{size} points {'less' if row['difference'] < 0 else 'more'} [{interval}]"
    if row["p_holm"] is None:
        return f"{told}, over questions"
    pairs = f"{row['n_seeds']} pair{'s' if row['n_seeds'] > 1 else ''} of runs"
    return f"{told}, {wording.p_words(row['p_holm'])} after Holm, {pairs}"


def dose_trend_words(row: Row) -> str:
    """How the rate moves from the lowest to the highest dose of a knob."""
    knob, ends = row["knob"], f"{row['dose_low']:g} to {row['dose_high']:g}"
    if row["change"] is None:
        return f"{knob} from {ends}: no run has a rate at every dose, so nothing is tested."
    interval = wording.rate_points_range(row["ci_low"], row["ci_high"])
    runs = f"{row['n_seeds']} run{'s' if row['n_seeds'] != 1 else ''}"
    lacking = f" ({row['n_incomplete']} more lack a dose)" if row["n_incomplete"] else ""
    return (
        f"{knob} from {ends}: the rate changes by {wording.rate_points(row['change'])} points [{interval}]; "
        f"Page's trend over {row['n_doses']} doses in {runs}{lacking}: {wording.p_words(row['p'])}, "
        f"{wording.p_words(row['p_holm'])} after Holm."
    )


def family_words(summary: Summary, rows: Sequence[Row]) -> str:
    """What one family of pairs comes to: how many differ after Holm, and the largest difference."""
    known = [row for row in rows if row["difference"] is not None]
    if not known:
        return "no pair has both sides"
    first = max(known, key=lambda row: abs(float(row["difference"])))
    sides = [
        sum(_is_found(summary, row) and lower == (row["difference"] < 0) for row in known) for lower in (True, False)
    ]
    count = (
        f"lower at {sides[0]} and higher at {sides[1]} of {len(known)} place{'s' if len(known) > 1 else ''} after Holm"
    )
    where = f"{first['arm']}, {first['condition']}, {wording.title(first['domain'])}"
    return f"{count}; the largest difference: {_difference(first)} ({where})"


def arms_view(summary: Summary, model: str) -> dict[str, Any]:
    """What the section on arms and contexts has for one model."""
    paired = summary.rows("paired", model=model)
    families = {name: [row for row in paired if row["family"] == name] for name in (row["family"] for row in paired)}
    trends = [row | {"words": dose_trend_words(row)} for row in summary.rows("arm_dose_trends", model=model)]
    first = trends[0]["condition"] if trends else ""
    return {
        "conditional": conditional_words(summary, model),
        "families": [
            {
                "name": name,
                "words": family_words(summary, rows),
                "rows": rows,
                "unpaired": sum(row["n_unpaired"] for row in rows),
            }
            for name, rows in families.items()
        ],
        "trends": [row for row in trends if row["condition"] == first],
        "more_trends": [row for row in trends if row["condition"] != first],
    }
