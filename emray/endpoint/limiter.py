"""Who may send now: one budget of requests and tokens for every worker that shares an account.

Pure: no Ray, no sockets, the clock is passed in as seconds. Not for retrying (asker.py) or for carrying grants between
processes (ports.py). The invariant: what is granted in any span of t seconds is at most rate * t plus what the server's
own headers said was there to take.

How it works. The limiter keeps a mirror of the server's token buckets. Workers name the token needs of the requests at
the head of their queue; a grant covers a prefix of them, so there is no unused rest to hand back, and leases follow the
work: an idle worker asks for nothing. Grants come in slices of at most SLICE_S of budget, in turn to whoever waits.

Headers. A reply's `remaining` is compared with the mirror's level at the time of its grant. The smallest difference of
the last second, less a margin, corrects the mirror: down whenever the server has less than thought, up only when the
headers behave like a bucket: there, remaining + rate * reset stays the same, while in a fixed window, whose rest is not
refilled before it ends, it falls by at least the rate.

429. One multiplicative cut per episode: rejections of requests granted before the cut belong to it. The rate recovers
linearly. Other failures never cut. Where nobody states a limit there is none until the first 429, which makes the
throughput seen so far a guess, from which the rate goes on to grow and to be cut.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

SLICE_S = 0.1  # budget in one grant: small against any server's burst, large against a message between processes
IDLE_S = 0.25  # how much unused budget is kept while nobody asks
CUT = 0.8  # factor of the rate after a 429 episode
RECOVERY_PER_S = 0.05  # of the stated rate, each second
GROWTH_PER_S = 0.2  # the same for a rate that is our own guess
WORKER_TTL_S = 10.0  # silence after which a worker counts as gone
FREE_S = 0.5  # how long a grant without limits holds
SLOW_START = 16  # requests in flight of a worker before any reply, when no limit is known; grows by one a reply
MARGIN_S = 0.02  # of budget left with the server, beside two requests
WINDOW_S = 1.0  # how far back headers count
MOST_READINGS = 128  # headers that count at once
LEAST_SPAN = 8  # requests' worth of time that headers must span before they tell a bucket from a window
LONGEST_WINDOW_S = 60.0
WINDOW_CARE = 0.995  # of the rate, where the last requests of a window would otherwise meet a closed door


class Shape(StrEnum):
    """How a server counts, as far as its headers have shown."""

    UNKNOWN = "unknown"
    BUCKET = "bucket"  # refilled all the time
    WINDOW = "window"  # a count that starts again at fixed times


class HeaderReading(NamedTuple):
    """What one reply's `x-ratelimit-*` headers said of one quantity."""

    limit_per_minute: float
    remaining: float
    reset_s: float
    expected: float  # the mirror's level when this request was sent, as its grant said
    granted_s: float  # when its request was granted, on the limiter's clock


class Rejection(NamedTuple):
    """One 429."""

    granted_s: float  # when its request was granted, on the limiter's clock
    retry_after_s: float


class Refund(NamedTuple):
    """What was taken off in excess (or, negative, too little) for the requests of one grant."""

    granted_s: float
    requests: float  # those that were turned away and so not charged
    tokens: float  # estimated minus charged


class Report(NamedTuple):
    """What a worker learnt since its last report."""

    finished: int = 0
    refunds: tuple[Refund, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    requests: tuple[HeaderReading, ...] = ()
    tokens: tuple[HeaderReading, ...] = ()


class Grant(NamedTuple):
    """Leave to send the first `num_requests` of the requests asked for."""

    num_requests: int
    granted_s: float
    level_requests: float  # the mirror after this grant, before header corrections
    level_tokens: float
    max_in_flight: int  # this worker's share
    free_s: float = 0.0  # without limits: no need to ask again for this long


@dataclass
class _Difference:
    """How much more the server had than the mirror, by one reply's headers."""

    at_s: float
    granted_s: float
    value: float  # remaining - expected, less what has been refunded since to grants before


@dataclass
class Quantity:
    """The mirror of one of the server's buckets. Rates are per second; `rate` is None while no limit is known."""

    rate: float | None
    guessed: bool = False  # the rate is ours, after a 429 without headers
    mirror: float = 0.0  # what grants, refills and refunds leave
    correction: float = 0.0  # what headers say must be added
    updated_s: float = 0.0
    since_s: float = -math.inf  # when the mirror began
    typical: float = 1.0  # need of one request
    shape: Shape = Shape.UNKNOWN
    differences: deque["_Difference"] = field(default_factory=lambda: deque(maxlen=MOST_READINGS))
    full: deque[tuple[float, float]] = field(default_factory=deque)  # (time, remaining + rate * reset)

    @property
    def level(self) -> float:
        """What may be granted now."""
        return self.mirror + self.correction

    def begin(self, rate: float, *, now_s: float, guessed: bool) -> None:
        """Start anew, empty, with a rate learnt on the way."""
        self.rate, self.guessed = rate, guessed
        self.mirror = self.correction = 0.0
        self.updated_s = self.since_s = now_s
        self.differences.clear()
        self.full.clear()

    def advance(self, now_s: float, *, factor: float, keep: float) -> None:
        """Refill, up to a level of `keep` (what an idle limiter holds on to)."""
        if self.rate is not None:
            care = WINDOW_CARE if self.shape == Shape.WINDOW else 1.0
            refill = self.rate * factor * care * (now_s - self.updated_s)
            self.mirror += max(0.0, min(refill, keep - self.level))
        self.updated_s = now_s

    def refund(self, amount: float, *, granted_s: float) -> None:
        """Put back what a grant took off in excess. Differences seen since that grant then no longer contain it."""
        if not amount:
            return
        self.mirror += amount
        for difference in self.differences:
            if difference.granted_s >= granted_s:
                difference.value -= amount

    def empty(self) -> None:
        """The server has just said that nothing is left."""
        self.mirror -= max(0.0, self.level)

    def spend(self, amount: float) -> None:
        if self.rate is not None:
            self.mirror -= amount

    def slice(self) -> float:
        """How much of it goes into one grant."""
        if self.rate is None:
            return math.inf
        size = self.rate * SLICE_S
        return size if self.capacity is None else min(size, self.capacity / 4)

    @property
    def capacity(self) -> float | None:
        """The server's burst, if the headers have shown it."""
        return min(level for _, level in self.full) if self.full else None

    def read(self, reading: HeaderReading, *, now_s: float) -> None:
        """Take in one reply's headers."""
        stated = reading.limit_per_minute / 60
        if self.rate is None or self.guessed:
            self.begin(stated, now_s=now_s, guessed=False)
        self.rate = min(self.rate or stated, stated)
        if reading.granted_s < self.since_s:
            return  # sent before there was a mirror to compare with
        self.differences.append(_Difference(now_s, reading.granted_s, reading.remaining - reading.expected))
        self.full.append((now_s, reading.remaining + self.rate * reading.reset_s))

    def correct(self, *, now_s: float) -> None:
        """Move the level to what the last second of headers says, never far below empty: no server owes."""
        if self.rate is None:
            return
        oldest_s = now_s - min(LONGEST_WINDOW_S, max(WINDOW_S, 2 * LEAST_SPAN / self.rate))
        while self.differences and self.differences[0].at_s < oldest_s:
            self.differences.popleft()
        while self.full and self.full[0][0] < oldest_s:
            self.full.popleft()
        if not self.differences:
            return
        self._tell_bucket_from_window(self.rate)
        margin = 2 * self.typical + MARGIN_S * self.rate
        target = min(difference.value for difference in self.differences) - margin
        if self.shape != Shape.BUCKET:
            target = min(target, 0.0)
        self.correction = max(target, -self.typical - self.mirror)

    def _tell_bucket_from_window(self, rate: float) -> None:
        """Decide when the headers span enough time; keep the last decision otherwise."""
        due = rate * (self.full[-1][0] - self.full[0][0])
        if due >= LEAST_SPAN * max(1.0, self.typical):
            levels = [level for _, level in self.full]
            self.shape = Shape.BUCKET if max(levels) - min(levels) <= 0.5 * due else Shape.WINDOW


@dataclass
class _Lessee:
    seen_s: float
    granted: int = 0
    finished: int = 0


class Limiter:
    """The state machine. Call `ask` when a worker waits, `report` when it learnt something, then `grants`."""

    def __init__(self, *, rpm: float | None, tpm: float | None, max_in_flight: int, now_s: float) -> None:
        self.requests = Quantity(rpm / 60 if rpm else None, updated_s=now_s)
        self.tokens = Quantity(tpm / 60 if tpm else None, updated_s=now_s)
        self.max_in_flight = max_in_flight
        self.factor = 1.0
        self.paused_until_s = -math.inf
        self.last_cut_s = -math.inf
        self.num_cuts = 0
        self.workers: dict[str, _Lessee] = {}
        self.waiting: OrderedDict[str, tuple[float, ...]] = OrderedDict()
        self._advanced_s = now_s
        self._untouched = True
        self._num_finished = 0
        self._throughput = 0.0  # finished requests a second, smoothed
        self._finished_since = 0
        self._throughput_s = now_s
        for quantity in (self.requests, self.tokens):
            quantity.mirror = quantity.slice() if quantity.rate else 0.0

    def ask(self, worker: str, needs: Sequence[float], *, now_s: float) -> None:
        """A worker waits to send requests of these token needs, in this order. Asking again replaces its needs."""
        self._seen(worker, now_s)
        self.waiting[worker] = tuple(needs)
        self.tokens.typical = max(needs)
        if self._untouched:  # a server that can serve anything can serve the first request at once
            self._untouched = False
            self.requests.mirror, self.tokens.mirror = max(self.requests.mirror, 1.0), max(self.tokens.mirror, needs[0])

    def leave(self, worker: str) -> None:
        """A worker has nothing more to send."""
        self.waiting.pop(worker, None)
        self.workers.pop(worker, None)

    def report(self, worker: str, report: Report, *, now_s: float) -> None:
        """Take in what a worker learnt."""
        self._advance(now_s)
        entry = self._seen(worker, now_s)
        entry.finished += report.finished
        self._measure(report.finished, now_s)
        for refund in report.refunds:
            self.requests.refund(refund.requests, granted_s=refund.granted_s)
            self.tokens.refund(refund.tokens, granted_s=refund.granted_s)
        for quantity, readings in ((self.requests, report.requests), (self.tokens, report.tokens)):
            for reading in readings:
                quantity.read(reading, now_s=now_s)
        for rejection in report.rejections:
            self._rejected(rejection, now_s)
        for quantity in (self.requests, self.tokens):
            quantity.correct(now_s=now_s)

    def grants(self, *, now_s: float) -> list[tuple[str, Grant]]:
        """Everything that can be granted now, to the waiting workers in turn."""
        self._advance(now_s)
        self._forget_the_silent(now_s)
        granted: list[tuple[str, Grant]] = []
        while self.waiting and now_s >= self.paused_until_s:
            worker, needs = next(iter(self.waiting.items()))
            grant = self._grant(worker, needs, now_s)
            if grant is None:
                break
            del self.waiting[worker]
            granted.append((worker, grant))
        return granted

    def due_s(self, *, now_s: float) -> float | None:
        """Seconds until `grants` can have something new; None when nobody waits."""
        if not self.waiting:
            return None
        if now_s < self.paused_until_s:
            return self.paused_until_s - now_s
        needs = next(iter(self.waiting.values()))
        count = self._slice_count(needs)
        missing = ((self.requests, count), (self.tokens, sum(needs[:count])))
        waits = [
            (amount - quantity.level) / (quantity.rate * self.factor)
            for quantity, amount in missing
            if quantity.rate is not None
        ]
        return max(0.0, *waits) if waits else 0.0

    # ---------------------------------------------------------------------------------------------------------

    def _grant(self, worker: str, needs: tuple[float, ...], now_s: float) -> Grant | None:
        """A grant to this worker, or None while a whole slice is not there yet."""
        share = max(1, self.max_in_flight // max(1, len(self.workers)))
        if self.requests.rate is None and self.tokens.rate is None:
            share = min(share, SLOW_START + self._num_finished // max(1, len(self.workers)))
            return self._counted(worker, needs, now_s, share, free_s=FREE_S)
        count = self._slice_count(needs)
        tokens = sum(needs[:count])
        lacking = (self.requests.rate is not None and self.requests.level < count - 1e-9) or (
            self.tokens.rate is not None and self.tokens.level < tokens - 1e-6
        )
        return None if lacking else self._counted(worker, needs[:count], now_s, share)

    def _counted(self, worker: str, needs: tuple[float, ...], now_s: float, share: int, free_s: float = 0.0) -> Grant:
        self.requests.spend(len(needs))
        self.tokens.spend(sum(needs))
        self.workers[worker].granted += len(needs)
        return Grant(len(needs), now_s, self.requests.mirror, self.tokens.mirror, share, free_s)

    def _slice_count(self, needs: tuple[float, ...]) -> int:
        """How many of these requests make up one slice: at least one."""
        most = int(min(len(needs), max(1, self.requests.slice())))
        budget, count, total = self.tokens.slice(), 0, 0.0
        while count < most and (count == 0 or total + needs[count] <= budget):
            total += needs[count]
            count += 1
        return count

    def _advance(self, now_s: float) -> None:
        elapsed = max(0.0, now_s - self._advanced_s)
        self._advanced_s = max(now_s, self._advanced_s)
        if self.factor < 1 or self.requests.guessed:  # above a guess there may be more; a 429 will tell
            most, step = (math.inf, GROWTH_PER_S) if self.requests.guessed else (1.0, RECOVERY_PER_S)
            self.factor = min(most, self.factor + step * elapsed)
        head = next(iter(self.waiting.values()), ())
        count = self._slice_count(head) if head else 1
        for quantity, need in ((self.requests, float(count)), (self.tokens, sum(head[:count]))):
            keep = max((quantity.rate or 0) * IDLE_S, need)
            quantity.advance(self._advanced_s, factor=self.factor, keep=keep)

    def _rejected(self, rejection: Rejection, now_s: float) -> None:
        """Cut once per episode, and wait as long as the server asks."""
        self.paused_until_s = max(self.paused_until_s, now_s + rejection.retry_after_s)
        if rejection.granted_s <= self.last_cut_s:
            return
        if self.requests.rate is None and self.tokens.rate is None:
            served = self._throughput or self._num_finished / max(WINDOW_S, now_s - self._throughput_s)
            self.requests.begin(max(1.0, served), now_s=now_s, guessed=True)
        self.factor = max(0.05, self.factor * CUT)
        self.last_cut_s = now_s
        self.num_cuts += 1
        self.requests.empty()
        self.tokens.empty()

    def _measure(self, finished: int, now_s: float) -> None:
        """Keep the throughput of about the last second: the first guess at a limit nobody stated."""
        self._num_finished += finished
        self._finished_since += finished
        elapsed = now_s - self._throughput_s
        if elapsed >= WINDOW_S:
            self._throughput = self._finished_since / elapsed
            self._finished_since, self._throughput_s = 0, now_s

    def _seen(self, worker: str, now_s: float) -> _Lessee:
        entry = self.workers.setdefault(worker, _Lessee(now_s))
        entry.seen_s = now_s
        return entry

    def _forget_the_silent(self, now_s: float) -> None:
        """A worker that died holds no share of what may be in flight."""
        for name, worker in list(self.workers.items()):
            if now_s - worker.seen_s > WORKER_TTL_S and name not in self.waiting:
                self.leave(name)
