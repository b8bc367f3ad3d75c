"""What the page says of directions and of steering, as sentences.

Not for markup or numbers. Invariant: where the most striking place of many is told, the sentence says of how many.
"""

import statistics
from collections.abc import Iterator, Sequence

from emray.report import wording
from emray.report.reading import Row, Summary

COHERENT_ENOUGH = 0.7  # of a steered model's answers: below, it is broken rather than misaligned


def agreement_words(summary: Summary) -> list[dict[str, str]]:
    """A sentence for each model, arm and difference, about the last layer."""
    rows = [row for row in summary.tables["direction_cosines"] if row["domain_a"] != row["domain_b"]]
    places = dict.fromkeys((row["model"], row["arm"], row["difference"]) for row in rows)
    return [{"model": model, "words": _agreement(_last_layer(rows, model, arm, kind))} for model, arm, kind in places]


def _last_layer(rows: Sequence[Row], *place: str) -> list[Row]:
    mine = [row for row in rows if (row["model"], row["arm"], row["difference"]) == place]
    last = max(row["layer"] for row in mine)
    return [row for row in mine if row["layer"] == last and row["cosine"] is not None]


def _agreement(rows: Sequence[Row]) -> str:
    if not rows:
        return "no two domains have a direction."
    first, values = rows[0], sorted(row["cosine"] for row in rows)
    domains = {name for row in rows for name in (row["domain_a"], row["domain_b"])}
    above = sum(value > first["chance"] for value in values)
    ceilings = [row["ceiling"] for row in rows if row["ceiling"] is not None]
    limit = f"{statistics.median(ceilings):.2f}" if ceilings else wording.DASH
    return (
        f"{first['arm']}, {first['difference']} difference, layer {first['layer']}: the directions of {len(domains)} "
        f"domains have a median cosine of {statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f}); "
        f"{above} of {len(values)} pairs lie above {first['chance']:.2f}, which 95 of 100 random pairs stay below, and "
        f"noise alone would leave {limit} of a cosine of 1. Pairs that share a domain are not independent."
    )


def steering_words(summary: Summary) -> list[dict[str, str]]:
    """The largest rise of the base model and the largest fall of a finetune, for each model."""
    found = []
    for model in summary.models:
        for how, sign in (("add", 1), ("project_out", -1)):
            rows = [row for row in summary.rows("steering", model=model, how=how) if row["change"] is not None]
            if how == "project_out":
                rows = [row for row in rows if row["steered"] == row["domain"]]
            if rows:
                found.append({"model": model, "words": _most(rows, sign)})
    return found


def _most(rows: Sequence[Row], sign: int) -> str:
    fit = [row for row in rows if row["coherent"] is not None and row["coherent"] >= COHERENT_ENOUGH]
    did = "adding a direction to the base model" if sign > 0 else "projecting a finetune's own direction out of it"
    if not fit:
        return f"{did} left no place of {len(rows)} with {wording.percent(COHERENT_ENOUGH)} coherent answers."
    best = max(fit, key=lambda row: sign * row["change"])
    return "".join(_place_words(best, did, num_places=len(rows)))


def _place_words(row: Row, did: str, *, num_places: int) -> Iterator[str]:
    scale = f", scale {row['scale']:g}" if row["how"] == "add" else ""
    yield (
        f"{did} took misaligned answers from {wording.percent(row['rate_before'])} to {wording.percent(row['rate'])} "
        f"where it changed them most ({wording.title(row['domain'])}, {row['difference']} difference, layer "
        f"{row['layer']}{scale}; {wording.percent(row['coherent'])} of answers coherent, "
        f"{wording.percent(row['coherent_before'])} before)"
    )
    interval = wording.rate_points_range(row["change_low"], row["change_high"])
    runs = f"{row['n_seeds']} run{'s' if row['n_seeds'] != 1 else ''}"
    yield f", a change of {wording.rate_points(row['change'])} points"
    yield f" [{interval} over {runs}]" if interval != wording.DASH else f" ({runs}, so no interval)"
    yield f". It is the largest of {num_places} places that were tried, and so likely to be smaller in new answers."
