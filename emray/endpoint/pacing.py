"""A worker's side of the limiter: who of its waiting requests goes next, and what is told back.

Not for the arithmetic of limits (limiter.py). The invariant: a request is sent only under a permit, each permit is
settled once, and what a worker learns reaches the limiter within REPORT_S.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from emray.endpoint.headers import LimitHeader, limit_header
from emray.endpoint.limiter import Grant, HeaderReading, Refund, Rejection, Report
from emray.endpoint.ports import LimiterPort

REPORT_S = 0.1
MOST_NEEDS = 128  # requests named in one lease call
MOST_READINGS = 8  # headers passed on in one report


class Permit(NamedTuple):
    """Leave to send one request now."""

    need: float  # tokens, as estimated
    granted_s: float  # on the limiter's clock
    level_requests: float  # the mirror when exactly the requests up to this one are sent
    level_tokens: float
    free: bool  # given without a limit in force, so nothing was taken off


class Settlement(NamedTuple):
    """How a permitted request ended, as far as limits are concerned."""

    charged_tokens: float  # what the server took from the token budget
    charged_request: bool = True
    retry_after_s: float | None = None  # set for a 429


class Pacer:
    """The queue of one worker. Lives on one event loop."""

    def __init__(self, port: LimiterPort) -> None:
        self._port = port
        self._waiting: deque[tuple[Callable[[], float], asyncio.Future[Permit]]] = deque()
        self._in_flight = 0
        self._share = 1
        self._free_grant: Grant | None = None
        self._free_until_s = 0.0
        self._wake = asyncio.Event()
        self._learnt = Report()
        self._rejected = asyncio.Event()
        self._broken: BaseException | None = None
        self._tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._tell())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    @property
    def in_flight(self) -> int:
        """Requests under permits."""
        return self._in_flight

    async def permit(self, need: Callable[[], float], *, first: bool = False) -> Permit:
        """Wait until one request may be sent; `first` goes ahead of those who wait.

        `need` tells its tokens as estimated at the time: the wait may be long, and estimates get better.

        Raises what broke the way to the limiter, if anything did.
        """
        if self._broken is not None:
            raise self._broken
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        entry = (need, future)
        if first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.settle(future.result(), Settlement(0.0, charged_request=False), {})  # granted, but never sent
            raise

    def settle(self, permit: Permit, end: Settlement, headers: Mapping[str, str]) -> None:
        """Give back the permit and pass on what was learnt."""
        self._in_flight -= 1
        self._wake.set()
        learnt = self._learnt
        rejections = learnt.rejections
        if end.retry_after_s is not None:
            rejections += (Rejection(permit.granted_s, end.retry_after_s),)
            self._rejected.set()
        self._learnt = Report(
            finished=learnt.finished + 1,
            refunds=learnt.refunds if permit.free else _refunded(learnt.refunds, permit, end),
            rejections=rejections,
            requests=_with(learnt.requests, limit_header(headers, "requests"), permit.level_requests, permit),
            tokens=_with(learnt.tokens, limit_header(headers, "tokens"), permit.level_tokens, permit),
        )

    async def close(self) -> None:
        """Tell the limiter the last news and leave."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._report()
        await self._port.leave()

    async def _pump(self) -> None:
        """Turn grants into permits for as long as the worker lives."""
        while True:
            self._wake.clear()
            room = self._share - self._in_flight
            if not self._waiting or room <= 0:
                await self._wake.wait()
                continue
            if self._free_grant is not None and time.monotonic() < self._free_until_s:
                count = min(room, len(self._waiting))
                self._release(self._free_grant._replace(num_requests=count), self._needs(count))
                await asyncio.sleep(0)
                continue
            needs = self._needs(min(room, MOST_NEEDS, len(self._waiting)))
            learnt, self._learnt = self._learnt, Report()
            grant = await self._port.lease(needs, learnt)
            if grant is not None:
                self._share = grant.max_in_flight
                self._free_grant, self._free_until_s = grant, time.monotonic() + grant.free_s
                self._release(grant, needs)

    def _needs(self, count: int) -> list[float]:
        return [self._waiting[i][0]() for i in range(count)]

    def _release(self, grant: Grant, needs: list[float]) -> None:
        """Let the first `grant.num_requests` waiting requests go, each knowing what is sent after it.

        A permit carries the need that the limiter took off, which is another's if a retry has jumped the queue.
        """
        going = [self._waiting.popleft()[1] for _ in range(min(grant.num_requests, len(self._waiting)))]
        later_tokens = sum(needs[: len(going)])
        for index, future in enumerate(going):
            need = needs[index]
            later_tokens -= need
            permit = Permit(
                need,
                grant.granted_s,
                grant.level_requests + len(going) - 1 - index,
                grant.level_tokens + later_tokens,
                grant.free_s > 0,
            )
            if not future.done():
                self._in_flight += 1
                future.set_result(permit)

    async def _tell(self) -> None:
        """Tell what no lease call has told, and rejections at once."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rejected.wait(), REPORT_S)
            self._rejected.clear()
            await self._report()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody awaits the background tasks: what ends them is told to whoever waits for a permit."""
        if task.cancelled() or task.exception() is None:
            return
        self._broken = task.exception()
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done() and self._broken is not None:
                future.set_exception(self._broken)

    async def _report(self) -> None:
        learnt, self._learnt = self._learnt, Report()
        if learnt.finished:
            await self._port.report(learnt)


def _refunded(refunds: tuple[Refund, ...], permit: Permit, end: Settlement) -> tuple[Refund, ...]:
    """The refunds with one more request's: requests of one grant usually end together."""
    refund = Refund(permit.granted_s, float(not end.charged_request), permit.need - end.charged_tokens)
    if refunds and refunds[-1].granted_s == permit.granted_s:
        last = refunds[-1]
        refund = Refund(last.granted_s, last.requests + refund.requests, last.tokens + refund.tokens)
        refunds = refunds[:-1]
    return (*refunds, refund)


def _with(
    readings: tuple[HeaderReading, ...], header: LimitHeader | None, expected: float, permit: Permit
) -> tuple[HeaderReading, ...]:
    """The readings with one more, thinned to the last MOST_READINGS."""
    if header is None:
        return readings
    reading = HeaderReading(header.limit_per_minute, header.remaining, header.reset_s, expected, permit.granted_s)
    return (*readings[-(MOST_READINGS - 1) :], reading)
