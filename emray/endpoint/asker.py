"""From a request to its answer: pacing, retries, timeouts learned from the latencies seen, token estimates.

Not for keeping replies (journal.py), nor for what a failure means (refusals.py). The invariant: `ask` makes at most
`max_attempts` calls (and MOST_REJECTIONS that were turned away unserved), then gives an answer with a reply or with a
reason, or stops the stage.
"""

import asyncio
import json
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from emray.endpoint.client import ChatClient
from emray.endpoint.pacing import Pacer, Permit, Settlement
from emray.endpoint.prices import cost_usd, reply_cost_usd
from emray.endpoint.refusals import MOST_ALIKE, CallFailed, Failure
from emray.endpoint.reply import Answer, Reply, Request, longest_reply
from emray.errors import EndpointUnreachable, StageError
from emray.spec import EndpointSpec

MOST_REJECTIONS = 50  # 429s of one request: others are being served meanwhile, so patience pays
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0  # between attempts, doubling, half of it random
CHARGED = (Failure.TIMEOUT, Failure.BROKEN, Failure.FILTERED)  # the model may have been at work
OWN_FAULTS = (Failure.REJECTED, Failure.REFUSED, Failure.SETTING)
MOST_REFUSED = 2  # prompts refused before anything was served
ADVICE = {
    "max_tokens": "max_tokens_field: max_completion_tokens",
    "max_completion_tokens": "max_tokens_field: max_tokens",
    "reasoning_effort": "reasoning_effort",
}


class Asker:
    """One worker's way to one endpoint. Lives on one event loop."""

    def __init__(
        self,
        client: ChatClient,
        pacer: Pacer,
        spec: EndpointSpec,
        *,
        budget: "Budget | None" = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client, self._pacer, self._spec = client, pacer, spec
        self._budget = budget or Budget(None)
        self._rng = rng or random.Random()
        self._estimates = TokenEstimates()
        self._timeouts = Timeouts(spec.timeout_s)
        self._heard_s = -math.inf  # when the endpoint last answered anything
        self._under_way = 0
        self._record = _Record()
        self._complaint = ""  # the endpoint's last, while nothing was served since

    async def ask(self, request: Request, *, first: bool = False) -> Answer:
        """Ask until there is an answer; with `first`, before those that wait for their turn.

        Raises EndpointUnreachable when nothing answers, StageError when no request would fare better.
        """
        case = _Case(request, time.monotonic())
        self._under_way += 1
        try:
            while True:
                result = await self._attempt(request, case.attempts, retried=first or case.retried)
                if isinstance(result, Reply):
                    self._record.served()
                    self._complaint = ""
                    return Answer((result,), calls=1, paid=(result,))
                if result is None:
                    return Answer(skipped=True)
                case.count(result)
                self._complaint = _told(result)
                if await self._is_final(case, result):
                    return self._ended(case, result)
                await asyncio.sleep(self._wait_s(result, case.attempts))
        finally:
            self._under_way -= 1

    def complaint(self) -> str:
        """Why nothing comes back, in the endpoint's words, or else what is waited for; empty when nobody asks."""
        if self._complaint or not self._under_way:
            return self._complaint
        heard = "" if math.isinf(self._heard_s) else f", the last reply {span(time.monotonic() - self._heard_s)} ago"
        sent = self._pacer.in_flight
        return f"{sent} at the endpoint, {self._under_way - sent} wait for their turn{heard}"

    async def _is_final(self, case: "_Case", failure: CallFailed) -> bool:
        """Whether to stop asking for this one. Raises StageError where the stage has to stop at once."""
        limit_s = self._spec.max_wait_s
        if failure.retry_after_s is not None and failure.retry_after_s > limit_s:
            raise StageError(
                f"{self._client.base_url} asks us to wait {span(failure.retry_after_s)} ({failure.reason}); "
                f"{self._spec.place}.max_wait_s allows {span(limit_s)}: raise it or run again later, all is kept"
            )
        if failure.kind == Failure.DENIED:
            raise StageError(f"{self._client.base_url} refuses us: {failure.reason}")
        if failure.kind == Failure.SETTING and not self._record.ever:
            raise StageError(self._refused(failure))  # no prompt is at fault
        if failure.kind == Failure.REFUSED and not await self._others_are_served(case):
            raise StageError(self._refused(failure))
        if failure.kind in (Failure.REJECTED, Failure.FILTERED, Failure.SETTING):
            return True
        return case.attempts >= self._spec.max_attempts or case.rejections >= MOST_REJECTIONS

    async def _others_are_served(self, case: "_Case") -> bool:
        """Whether a refusal is this prompt's alone, as far as can be told: at first, that takes a second prompt."""
        self._record.refused.add(case.prompt)
        while not self._record.ever and self._under_way > 1 and len(self._record.refused) < MOST_REFUSED:
            await asyncio.sleep(FIRST_WAIT_S / 10)
        return self._record.ever and (case.attempts < self._spec.max_attempts or self._record.since(case.started_s))

    def _ended(self, case: "_Case", failure: CallFailed) -> Answer:
        """The answer without a reply. Raises StageError where the next requests would end alike."""
        unheard = self._heard_s < case.started_s
        if failure.kind == Failure.CONNECTION and unheard:
            raise EndpointUnreachable(_unreachable(self._client.base_url, failure, case.attempts))
        if failure.kind == Failure.RATE_LIMITED and not self._record.since(case.started_s):
            raise StageError(
                f"{self._client.base_url} keeps turning us away: {failure.reason}; run again later to go on"
            )
        if self._record.failed(case.prompt, failure) >= MOST_ALIKE:
            raise StageError(
                f"{self._client.base_url} fails every request alike: {failure.kind}: {failure.reason}; "
                "run again to go on, everything that had arrived is kept"
            )
        filtered = failure.kind == Failure.FILTERED
        return Answer(reason=f"{failure.kind}: {failure.reason}", calls=1, filtered=filtered)

    def _refused(self, failure: CallFailed) -> str:
        """What to tell a person, and which field of the sweep file may help."""
        said = f"{self._client.base_url} refuses us: {failure.reason}"
        if failure.setting is None:
            return said
        place, name = self._spec.place, failure.setting
        advice = ADVICE.get(name, f"omit: [{name}]")
        return f"{said}; change {place}.{advice}" if advice == name else f"{said}; set {place}.{advice}"

    async def _attempt(self, request: Request, attempts: int, *, retried: bool) -> Reply | CallFailed | None:
        """One call under one permit; None when the budget does not allow it."""
        size = Size.of(request)
        permit = await self._pacer.permit(lambda: self._estimates.need(size), first=retried)
        if not self._budget.take(cost_usd(request.body["model"], num_prompt_tokens=permit.need, num_tokens=0) or 0.0):
            self._pacer.settle(permit, Settlement(0.0, charged_request=False), {})
            return None
        reply: Reply | None = None
        try:
            reply = await self._call(request, size, permit, attempts)
        except CallFailed as failure:
            return failure
        finally:
            self._budget.settle(reply)
        return reply

    async def _call(self, request: Request, size: "Size", permit: Permit, attempts: int) -> Reply:
        """Send it and settle its permit, however it ends. Raises CallFailed."""
        sent_s = time.monotonic()
        try:
            async with self._timeouts.guard(attempts):
                reply, headers = await self._client.send(request.body)
        except CallFailed as failure:
            self._pacer.settle(permit, _settlement(failure, permit), failure.headers)
            if failure.kind not in (Failure.CONNECTION, Failure.TIMEOUT):
                self._heard_s = time.monotonic()
            raise
        except asyncio.CancelledError:
            self._pacer.settle(permit, Settlement(permit.need), {})
            raise
        self._heard_s = time.monotonic()
        self._timeouts.saw(self._heard_s - sent_s)
        charged = self._estimates.learn(size, reply, permit.need)
        self._pacer.settle(permit, Settlement(charged), headers)
        return reply

    def _wait_s(self, failure: CallFailed, attempts: int) -> float:
        """How long this request waits before its next attempt (a 429 also pauses the limiter)."""
        if failure.retry_after_s is not None:
            return failure.retry_after_s
        if failure.kind == Failure.RATE_LIMITED:
            return FIRST_WAIT_S
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** max(0, attempts - 1))
        return longest * (0.5 + 0.5 * self._rng.random())


@dataclass
class _Case:
    """One request's way so far."""

    request: Request
    started_s: float
    attempts: int = 0
    rejections: int = 0

    @property
    def retried(self) -> bool:
        return self.attempts + self.rejections > 0

    @property
    def prompt(self) -> int:
        """Tells prompts apart: many samples of one are one."""
        return hash(json.dumps(self.request.body["messages"]))

    def count(self, failure: CallFailed) -> None:
        if failure.kind == Failure.RATE_LIMITED:
            self.rejections += 1
        else:
            self.attempts += 1


@dataclass
class _Record:
    """Whether anything was served, and which prompts have failed alike since."""

    served_s: float = -math.inf
    refused: set[int] = field(default_factory=set)
    alike: dict[Failure, set[int]] = field(default_factory=dict)

    @property
    def ever(self) -> bool:
        return self.since(-math.inf)

    def since(self, at_s: float) -> bool:
        return self.served_s > at_s

    def served(self) -> None:
        self.served_s = time.monotonic()
        self.alike.clear()
        self.refused.clear()

    def failed(self, prompt: int, failure: CallFailed) -> int:
        """How many prompts have come to this since anything was served; 0 for what is the prompt's own fault."""
        own = failure.kind == Failure.FILTERED or (failure.kind in OWN_FAULTS and self.ever) or failure.oversized
        if own:
            return 0
        prompts = self.alike.setdefault(failure.kind, set())
        prompts.add(prompt)
        return len(prompts)


class Budget:
    """Money that may still be spent, counting what is under way at a little more than the highest price so far."""

    HEADROOM = 1.05  # the next request may be a little longer than any before

    def __init__(self, left_usd: float | None) -> None:
        self._left_usd = math.inf if left_usd is None else left_usd
        self._spent_usd = 0.0
        self._highest_usd: float | None = None  # of one request, once one is paid for
        self._under_way = 0

    @property
    def left_usd(self) -> float | None:
        """What may still be spent; None without a limit."""
        return None if math.isinf(self._left_usd) else max(0.0, self._left_usd - self._spent_usd)

    def take(self, guess_usd: float) -> bool:
        """Whether one more request may be sent; if so it is under way. `guess_usd` stands in for the first price."""
        each_usd = guess_usd if self._highest_usd is None else self.HEADROOM * self._highest_usd
        if self._spent_usd + (self._under_way + 1) * each_usd > self._left_usd:
            return False
        self._under_way += 1
        return True

    def commit(self, count: int) -> None:
        """So many requests are under way already, whatever they cost."""
        self._under_way += count

    def settle(self, reply: Reply | None) -> None:
        """One request is no longer under way."""
        self._under_way -= 1
        if reply is not None:
            cost_usd = reply_cost_usd(reply) or 0.0
            self._spent_usd += cost_usd
            self._highest_usd = max(cost_usd, self._highest_usd or 0.0)


class Timeouts:
    """How long to wait for a reply: a multiple of the slow ones seen, never more than the sweep file allows."""

    LEAST_SEEN, KEPT = 50, 1000
    FACTOR, LEAST_S = 4.0, 1.0

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._learned_s = longest_s
        self._seen: deque[float] = deque(maxlen=self.KEPT)
        self._count = 0
        self._running: dict[asyncio.Timeout, tuple[float, int]] = {}  # -> (start on the loop's clock, attempts)

    @asynccontextmanager
    async def guard(self, attempts: int) -> AsyncIterator[None]:
        """Give what runs inside as long as `limit_s` says, also when that is learned on the way.

        Raises CallFailed (timeout).
        """
        start_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(start_s + self.limit_s(attempts)) as running:
                self._running[running] = (start_s, attempts)
                try:
                    yield
                finally:
                    del self._running[running]
        except TimeoutError:
            waited_s = asyncio.get_running_loop().time() - start_s
            raise CallFailed(Failure.TIMEOUT, f"no reply within {waited_s:.1f} s") from None

    def saw(self, latency_s: float) -> None:
        """Learn from one reply; every LEAST_SEEN replies the 99th percentile is taken anew."""
        self._seen.append(latency_s)
        self._count += 1
        if self._count % self.LEAST_SEEN == 0:
            slow_s = sorted(self._seen)[int(0.99 * len(self._seen))]
            self._learned_s = min(self._longest_s, max(self.LEAST_S, self.FACTOR * slow_s))
            waiting = [entry for entry in self._running.items() if not entry[0].expired()]
            for running, (start_s, attempts) in waiting:
                running.reschedule(start_s + self.limit_s(attempts))

    def limit_s(self, attempts: int) -> float:
        """For an attempt after `attempts` failed ones: doubled each time, in case the reply is just slow."""
        return min(self._longest_s, self._learned_s * 2**attempts)


class Size(NamedTuple):
    """What a request's tokens are estimated from."""

    label: str
    chars: int  # of all messages
    max_tokens: int  # the longest reply allowed

    @classmethod
    def of(cls, request: Request) -> "Size":
        body = request.body
        chars = sum(len(message["content"]) for message in body["messages"])
        return cls(request.label, chars, longest_reply(body))


class TokenEstimates:
    """Tokens that a request will be charged, learned per label from `usage`."""

    FIRST_TOKENS_PER_CHAR = 0.3
    WEIGHT = 0.05  # of the newest reply in the running means

    def __init__(self) -> None:
        self._learned: dict[str, tuple[float, float]] = {}  # label -> (prompt tokens per character, reply tokens)

    def need(self, size: Size) -> float:
        per_char, reply_tokens = self._learned.get(size.label, (self.FIRST_TOKENS_PER_CHAR, float(size.max_tokens)))
        return max(1.0, per_char * size.chars + reply_tokens)

    def learn(self, size: Size, reply: Reply, estimate: float) -> float:
        """Take in a reply's usage; returns what was charged (the estimate where usage is missing)."""
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            return estimate
        seen = (reply.prompt_tokens / max(1, size.chars), float(reply.completion_tokens))
        known = self._learned.get(size.label)
        weight = self.WEIGHT if known else 1.0
        old = known or seen
        self._learned[size.label] = (
            old[0] + weight * (seen[0] - old[0]), old[1] + weight * (seen[1] - old[1]),
        )  # fmt: skip
        return float(reply.prompt_tokens + reply.completion_tokens)


def _told(failure: CallFailed) -> str:
    wait = f"wait {span(failure.retry_after_s)}, " if failure.retry_after_s else ""
    return f"{wait}{failure.kind}: {failure.reason}"


def _settlement(failure: CallFailed, permit: Permit) -> Settlement:
    """A request that may have been served is taken to be charged; headers put it right if not."""
    charged = permit.need if failure.kind in CHARGED else 0.0
    if failure.kind == Failure.RATE_LIMITED:
        wait_s = failure.retry_after_s if failure.retry_after_s is not None else 0.0
        return Settlement(charged, charged_request=False, retry_after_s=wait_s)
    return Settlement(charged)


def _unreachable(base_url: str, failure: CallFailed, attempts: int) -> str:
    return f"nothing answers at {base_url} ({attempts} attempts; {failure.reason}); check its base_url"


def span(seconds: float) -> str:
    """A wait as a person says it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
