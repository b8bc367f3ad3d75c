"""How a worker reaches the limiter: in its own process, or one Ray actor for the whole cluster.

Not for deciding anything (limiter.py). The invariant: for one endpoint, account and model there is one limiter,
whatever the number of workers and drivers.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from emray.cluster import ON_HEAD
from emray.endpoint.limiter import Grant, Limiter, Report

NAMESPACE = "emray"
IDLE_EXIT_S = 60.0  # a limiter nobody talks to leaves the cluster
LEASE_WAIT_S = 5.0  # longest silence of one `lease` call; the caller asks again


class RateLimits(NamedTuple):
    """What the limiter is told."""

    rpm: float | None
    tpm: float | None
    max_in_flight: int


class LimiterPort(Protocol):
    """What a worker needs of a limiter."""

    async def lease(self, needs: Sequence[float], report: Report) -> Grant | None:
        """Report, and wait for leave to send some of the first requests of these token needs; None: ask again."""
        ...

    async def report(self, report: Report) -> None: ...

    async def leave(self) -> None:
        """Nothing more to send for now."""
        ...


class Turnstile:
    """A limiter with waiting callers, on one event loop."""

    def __init__(self, limits: RateLimits) -> None:
        self._clock = time.monotonic
        self._limiter = Limiter(rpm=limits.rpm, tpm=limits.tpm, max_in_flight=limits.max_in_flight, now_s=self._clock())
        self._waiting: dict[str, asyncio.Future[Grant]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def lease(self, worker: str, needs: Sequence[float], report: Report) -> Grant | None:
        """Wait for a grant, at most LEASE_WAIT_S."""
        if report.finished:
            self._limiter.report(worker, report, now_s=self._clock())
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiting[worker] = future
        self._limiter.ask(worker, needs, now_s=self._clock())
        self._turn()
        done, _ = await asyncio.wait([future], timeout=LEASE_WAIT_S)
        return future.result() if done else None

    def report(self, worker: str, report: Report) -> None:
        self._limiter.report(worker, report, now_s=self._clock())
        self._turn()

    def leave(self, worker: str) -> None:
        self._limiter.leave(worker)
        self._waiting.pop(worker, None)

    def state(self) -> dict[str, Any]:
        """For a person: rates, level, cuts, workers."""
        limiter = self._limiter
        return {
            "rpm": limiter.requests.rate and limiter.requests.rate * 60,
            "tpm": limiter.tokens.rate and limiter.tokens.rate * 60,
            "factor": limiter.factor,
            "cuts": limiter.num_cuts,
            "workers": len(limiter.workers),
            "level_requests": limiter.requests.level,
            "level_tokens": limiter.tokens.level,
        }

    def _turn(self) -> None:
        """Hand out what can be granted and wake up when more can."""
        for worker, grant in self._limiter.grants(now_s=self._clock()):
            future = self._waiting.pop(worker, None)
            if future is not None and not future.done():
                future.set_result(grant)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._limiter.due_s(now_s=self._clock())
        if due_s is not None:
            self._timer = asyncio.get_running_loop().call_later(max(due_s, 0.001), self._turn)


class LocalPort:
    """A limiter of this process alone."""

    def __init__(self, limits: RateLimits) -> None:
        self._turnstile = Turnstile(limits)

    async def lease(self, needs: Sequence[float], report: Report) -> Grant | None:
        return await self._turnstile.lease("", needs, report)

    async def report(self, report: Report) -> None:
        self._turnstile.report("", report)

    async def leave(self) -> None:
        self._turnstile.leave("")


class LimiterActor:
    """The body of the Ray actor; leaves the cluster when idle."""

    def __init__(self, limits: RateLimits, idle_exit_s: float = IDLE_EXIT_S) -> None:
        self._turnstile, self._idle_exit_s = Turnstile(limits), idle_exit_s
        self._touched_s = time.monotonic()
        self._watch = asyncio.get_running_loop().create_task(self._leave_when_idle())

    async def lease(self, worker: str, needs: Sequence[float], report: Report) -> Grant | None:
        self._touched_s = time.monotonic()
        return await self._turnstile.lease(worker, needs, report)

    async def report(self, worker: str, report: Report) -> None:
        self._touched_s = time.monotonic()
        self._turnstile.report(worker, report)

    async def leave(self, worker: str) -> None:
        self._turnstile.leave(worker)

    async def state(self) -> dict[str, Any]:
        return self._turnstile.state()

    async def end(self) -> None:
        """Leave the cluster without the look of a crash, which Ray allows only inside a method call."""
        from ray.actor import exit_actor

        exit_actor()

    async def _leave_when_idle(self) -> None:
        import ray

        while time.monotonic() - self._touched_s < self._idle_exit_s:
            await asyncio.sleep(self._idle_exit_s / 4)
        ray.get_runtime_context().current_actor.end.remote()


class ClusterPort:
    """The cluster's limiter for one endpoint, account and model; started by whoever asks first."""

    def __init__(self, name: str, limits: RateLimits) -> None:
        self._name, self._limits = name, limits
        self._worker = uuid.uuid4().hex
        self._actor = limiter_actor(name, limits)

    async def lease(self, needs: Sequence[float], report: Report) -> Grant | None:
        grant: Grant | None = await self._call("lease", self._worker, tuple(needs), report)
        return grant

    async def report(self, report: Report) -> None:
        await self._call("report", self._worker, report)

    async def leave(self) -> None:
        await self._call("leave", self._worker)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Call the actor; when it died or left, start the next one."""
        from ray.exceptions import RayActorError

        while True:
            with contextlib.suppress(RayActorError):
                return await getattr(self._actor, method).remote(*arguments)
            await asyncio.sleep(0.2)
            self._actor = limiter_actor(self._name, self._limits)


def limiter_name(base_url: str, *, account: str, model: str) -> str:
    """The actor's name; the account's key is hashed, never shown."""
    digest = hashlib.sha256(f"{base_url}\n{account}\n{model}".encode()).hexdigest()[:16]
    return f"limiter-{digest}"


def limiter_actor(name: str, limits: RateLimits) -> Any:
    """The named actor, made if it is not there. It outlives its first driver, since others may share it."""
    import ray

    body = ray.remote(LimiterActor).options(
        name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", max_concurrency=10_000, **ON_HEAD
    )
    return body.remote(limits)
