"""Numbers and names as a reader sees them.

Not for markup. Invariant: what is undefined is a dash, never 0, and no number shows more digits than it has meaning.
"""

from emray.records import NO_DOMAIN

DASH = "–"
THIN = "\u202f"  # narrow no-break space
_Number = float | int | None


def percent(rate: _Number) -> str:
    """A fraction as per cent: `87.6 %`, `0 %`, `<0.1 %`, with a thin space that does not break."""
    if rate is None:
        return DASH
    return f"{_per_cent(rate) if 0 < rate < 1 else f'{100 * rate:.0f}'}{THIN}%"


def percent_range(low: _Number, high: _Number) -> str:
    """`76.6 – 91.0`, in per cent without the sign."""
    return DASH if low is None or high is None else f"{_per_cent(low)} – {_per_cent(high)}"


def _per_cent(rate: float) -> str:
    """One decimal; what is not exactly 0 or 1 never reads as if it were."""
    value = 100 * rate
    return "<0.1" if 0 < value < 0.05 else ">99.9" if 99.95 <= value < 100 else f"{value:.1f}"


def points(value: _Number) -> str:
    """A score or a difference of scores, one decimal, a true minus sign."""
    return DASH if value is None else f"{value:.1f}".replace("-", "−")


def points_range(low: _Number, high: _Number) -> str:
    """`9.6 – 51.4`; a word instead of the dash where a minus sign would stand beside it: `−1.8 to 3.8`."""
    if low is None or high is None:
        return DASH
    return f"{points(low)} {'to' if low < 0 else '–'} {points(high)}"


def rate_points_range(low: _Number, high: _Number) -> str:
    """A difference of rates in points: `−1.8 to 3.8`."""
    return DASH if low is None or high is None else points_range(100 * low, 100 * high)


def decimal(value: _Number) -> str:
    """Two decimals: effect sizes, t values."""
    return DASH if value is None else f"{value:.2f}".replace("-", "−")


def p_value(p: _Number) -> str:
    """Three decimals, `<.001` below, no leading zero."""
    if p is None:
        return DASH
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"


def p_words(p: _Number) -> str:
    """`p = .018`, `p < .001`, for running text."""
    found = p_value(p)
    return f"p {found[0]} {found[1:]}" if found.startswith("<") else f"p = {found}"


def whole(value: _Number) -> str:
    """A count with thin spaces between thousands."""
    return DASH if value is None else f"{value:,}".replace(",", THIN)


def rank_range(low: _Number, high: _Number) -> str:
    if low is None or high is None:
        return DASH
    return str(low) if low == high else f"{low} – {high}"


def duration(seconds: _Number) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds is None:
        return DASH
    total = round(seconds)
    if total < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(total, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(value: _Number) -> str:
    return "unknown" if value is None else f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.4f}"


def plain(value: _Number) -> str:
    """A number with no more digits than it has: `5`, `2.5`, `3.87` degrees of freedom."""
    return DASH if value is None else f"{value:.3g}"


def rate_points(value: _Number) -> str:
    """A fraction as points of a rate: `4.2`."""
    return DASH if value is None else f"{100 * value:.1f}".replace("-", "−")


def share(part: _Number, parts: list[_Number]) -> str:
    """A variance as a share of a sum, at most all of it: `37 %`; a dash where any is unknown or all are 0."""
    known = [value for value in parts if value is not None]
    if part is None or len(known) < len(parts) or not sum(known) > 0:
        return DASH
    return f"{min(100.0, 100 * part / sum(known)):.0f}{THIN}%"


def title(name: str) -> str:
    """`risky_financial_advice` as `risky financial advice`; a base cell has no domain."""
    return "base model" if name == NO_DOMAIN else name.replace("_", " ")


def level_words(confidence: float) -> str:
    """A confidence level: `95 %`, `97.8 %`."""
    return f"{100 * confidence:.3g}{THIN}%"
