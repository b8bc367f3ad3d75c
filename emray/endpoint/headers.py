"""What a reply's headers say of rate limits and of waiting, in the dialects of the providers.

    OpenAI      x-ratelimit-{limit,remaining,reset}-{requests,tokens}: per minute, reset as 6m0s
    Groq        the same names; requests are counted per day: the reset is beyond a minute, or what a day's refill takes
    Azure       reset in bare seconds; -1 and 0 where nothing is known
    Mistral     x-ratelimit-{limit,remaining}-{req,tokens}-minute, no reset
    Together    x-ratelimit-{limit,remaining,reset} and x-tokenlimit-...: per second
    OpenRouter  x-ratelimit-{limit,remaining,reset}: the reset is a time, in seconds or milliseconds

Not for acting on it. The invariant: a header that cannot be read, or that states no rate per minute, is as good as
absent; it never raises.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|seconds|second|secs|sec|s|minutes|minute|min|m|hours|hour|h|days|day|d)?")
UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
MINUTE_S = 60.0
DAY_S = 86_400.0
ROUNDING_S = 1.5  # of a reset that is told in whole seconds
EPOCH_S, EPOCH_MS = 1e9, 1e12  # a reset above these is a time


class LimitHeader(NamedTuple):
    """One `x-ratelimit-*` family: requests or tokens."""

    limit_per_minute: float
    remaining: float
    reset_s: float


def limit_header(headers: Mapping[str, str], quantity: str, *, now_s: float | None = None) -> LimitHeader | None:
    """The limit of `requests` or `tokens`, if its headers can be read and state a rate (`now_s`: Unix time)."""
    now_s = time.time() if now_s is None else now_s
    return (
        _per_minute(headers, "x-ratelimit-{}-" + quantity, now_s)
        or _without_reset(headers, "x-ratelimit-{}-" + {"requests": "req"}.get(quantity, quantity) + "-minute")
        or _unsuffixed(headers, quantity, now_s)
    )


def _per_minute(headers: Mapping[str, str], name: str, now_s: float) -> LimitHeader | None:
    limit, remaining = _number(headers.get(name.format("limit"))), _number(headers.get(name.format("remaining")))
    reset_s = _reset_s(headers.get(name.format("reset")), now_s)
    if limit is None or remaining is None or reset_s is None or limit <= 0:
        return None
    if reset_s > MINUTE_S + ROUNDING_S:
        return None  # whether it refills or starts anew, a limit per minute is whole again within a minute
    if _refills_slowly(limit - remaining, limit=limit, reset_s=reset_s):
        return None
    if remaining == 0 and reset_s == 0:
        return None  # nothing left and all there at once: a placeholder
    return LimitHeader(limit, remaining, reset_s)


def _refills_slowly(used: float, *, limit: float, reset_s: float) -> bool:
    """Whether what was used comes back at a rate per day: then the reset is used / limit of a day.

    A limit per minute of a fixed window may look so by chance, for one reading.
    """
    takes_s = used / limit * DAY_S
    return used > 0 and abs(reset_s - takes_s) <= 0.02 * takes_s


def _without_reset(headers: Mapping[str, str], name: str) -> LimitHeader | None:
    """Mistral's: as if refilled all the time."""
    limit, remaining = _number(headers.get(name.format("limit"))), _number(headers.get(name.format("remaining")))
    if limit is None or remaining is None or limit <= 0:
        return None
    return LimitHeader(limit, remaining, MINUTE_S * max(0.0, 1 - remaining / limit))


def _unsuffixed(headers: Mapping[str, str], quantity: str, now_s: float) -> LimitHeader | None:
    """Together's, per second, which come in pairs; OpenRouter's, a rate only if they end in a minute."""
    if headers.get("x-tokenlimit-limit") is not None:
        found = _per_minute(headers, {"requests": "x-ratelimit-{}"}.get(quantity, "x-tokenlimit-{}"), now_s)
        return found and found._replace(limit_per_minute=MINUTE_S * found.limit_per_minute)
    reset = _number(headers.get("x-ratelimit-reset"))
    is_time = reset is not None and reset >= EPOCH_S
    return _per_minute(headers, "x-ratelimit-{}", now_s) if is_time and quantity == "requests" else None


def retry_after_s(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Seconds to wait, from `retry-after-ms`, or `retry-after` as seconds, a duration or an HTTP date; where neither
    stands, from an unsuffixed reset that is a time and of which nothing remains.

    `now_s` is Unix time, for times.
    """
    now_s = time.time() if now_s is None else now_s
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is None:
        seconds = duration_s(text)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text or "").timestamp() - now_s)
    except (ValueError, OverflowError):
        reset = _number(headers.get("x-ratelimit-reset"))
    spent = _number(headers.get("x-ratelimit-remaining")) == 0
    return _reset_s(headers.get("x-ratelimit-reset"), now_s) if spent and (reset or 0) >= EPOCH_S else None


def _reset_s(text: str | None, now_s: float) -> float | None:
    """Seconds until a reset, told as a duration or as a time in seconds or milliseconds."""
    seconds = duration_s(text)
    if seconds is None or seconds < EPOCH_S:
        return seconds
    return max(0.0, (seconds / 1000 if seconds >= EPOCH_MS else seconds) - now_s)


def duration_s(text: str | None) -> float | None:
    """Seconds of `6m0s`, `1.5s`, `12ms`, `1.0 seconds` or a bare number of seconds."""
    text = (text or "").strip()
    if not text or not text.isascii():
        return None
    parts = list(DURATION.finditer(text))
    if "".join(part.group() for part in parts) != text:
        return None
    total_s = sum(float(part[1]) * _unit_s(part[2] or "") for part in parts)
    return total_s if total_s < 1e15 else None


def _unit_s(unit: str) -> float:
    return UNIT_S[unit if unit == "ms" else unit[:1]]


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e15 else None
