"""One process: requests in, answers out, each asked for once and journaled on the way.

Not for deciding what to ask (the stage does), nor for spreading work (pool.py). Batches may
come from several threads; they share one event loop, so the next batch's requests fill the gaps that the last one's
stragglers leave. The invariant: a key is asked for at most once, and a batch returns when its replies are on the store.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Container, Coroutine, Sequence
from typing import Any, TypeVar

from emray.endpoint.asker import Asker, Budget
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.client import ChatClient
from emray.endpoint.journal import Journal
from emray.endpoint.kept import KeptReplies
from emray.endpoint.open_files import make_room
from emray.endpoint.pacing import Pacer
from emray.endpoint.ports import LimiterPort
from emray.endpoint.refusals import MOST_ALIKE
from emray.endpoint.reply import Answer, Reply, Request, Useless
from emray.errors import StageError
from emray.spec import EndpointSpec
from emray.store import Store

BATCH = 128  # requests of one worker's part of a batch: small enough for progress, large enough for Ray
RECENT = 5000  # replies held in memory until the index of the journal has them

T = TypeVar("T")


class Worker:
    """An event loop in a thread, with a client, a pacer and a journal on it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        store: Store,
        port: Callable[[], LimiterPort],
        wanted: Container[str] | None = None,
        terms: Terms | None = None,
    ) -> None:
        """`wanted`: the keys that it may be asked for; None: whatever they are."""
        terms = terms or Terms()
        make_room(endpoint.spec.max_in_flight)
        self._endpoint, self._follow_up = endpoint, terms.follow_up
        self._first = _FirstAnswers(terms.useless)
        self._failed: StageError | None = None
        self._journal = Journal(store)
        self._kept = KeptReplies(store, wanted=wanted)
        self._recent: dict[str, Reply] = {}  # came since the last look at our own files
        self._looking = threading.Lock()
        self._asking: dict[str, asyncio.Future[Answer]] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="endpoint-loop", daemon=True).start()
        self._client, self._pacer, self._asker = self._on_loop(self._open(port, Budget(terms.budget_usd)))

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers, in order, when all replies are on the store. Blocks; safe to call from several threads.

        Raises what `Asker.ask` raises, and then the same for every later batch.
        """
        if self._failed is not None:
            raise self._failed
        try:
            answers = self._on_loop(self._ask_all(requests))
        except StageError as error:
            self._failed = error
            raise
        self._journal.flush()
        if len(self._recent) >= RECENT:
            self._look()
        return answers

    def complaint(self) -> str:
        """See Asker.complaint."""
        return self._asker.complaint()

    def close(self) -> None:
        """Flush the journal, leave the limiter, stop the loop."""
        self._on_loop(self._shut())
        self._journal.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _look(self) -> None:
        """Have what came lately by the index, and no longer in memory. For one thread at a time."""
        with self._looking:
            if len(self._recent) >= RECENT:
                self._kept.look(self._journal.writer)
                self._on_loop(self._forget_recent())

    async def _forget_recent(self) -> None:
        self._recent = {key: reply for key, reply in self._recent.items() if key not in self._kept}

    async def _open(self, port: Callable[[], LimiterPort], budget: Budget) -> tuple[ChatClient, Pacer, Asker]:
        client = ChatClient(self._endpoint.spec, self._endpoint.access)
        pacer = Pacer(port())
        return client, pacer, Asker(client, pacer, self._endpoint.spec, budget=budget)

    async def _shut(self) -> None:
        await self._pacer.close()
        await self._client.close()

    async def _ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        """All answers of a batch, in order. On the first exception the rest is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(request)) for request in requests]
        except BaseExceptionGroup as raised:
            raise raised.exceptions[0] from None  # the others say the same or were cancelled
        return [task.result() for task in tasks]

    async def _answer(self, request: Request) -> Answer:
        """The answer to a request. Raises StageError when the first ones are all of no use."""
        answer = await self._whole_answer(request)
        self._first.look_at(request, answer)
        return answer

    async def _whole_answer(self, request: Request) -> Answer:
        """With the reply to its follow-up where the first one calls for one."""
        first = await self._reply(request)
        follow_up = self._follow_up(request, first.replies[0]) if first.replies and self._follow_up else None
        if follow_up is None:
            return first
        second = await self._reply(follow_up, first=True)
        return Answer(
            first.replies + second.replies, calls=first.calls + second.calls, paid=first.paid + second.paid
        )  # a follow-up without a reply leaves the first to stand

    async def _reply(self, request: Request, *, first: bool = False) -> Answer:
        """The reply that is known, on its way, or now asked for."""
        reply = self._recent.get(request.key)
        if reply is not None:
            return Answer((reply,))
        under_way = self._asking.get(request.key)
        if under_way is not None:
            await asyncio.wait([under_way])
            if under_way.cancelled():
                raise StageError("asking stops because another batch failed")
            return under_way.result()._replace(calls=0, paid=())
        asking = self._asking[request.key] = asyncio.ensure_future(self._ask(request, first=first))
        try:
            return await asking
        finally:
            del self._asking[request.key]

    async def _ask(self, request: Request, *, first: bool) -> Answer:
        """Read the reply, or send for it and journal it. Nothing is awaited between its arrival and its place in the
        journal, so what is paid for and not kept is never more than what is in flight."""
        if request.key in self._kept:
            kept = await asyncio.to_thread(self._kept.reply, request.key)
            if kept is not None:
                return Answer((kept,))
        answer = await self._asker.ask(request, first=first)
        for reply in answer.replies:
            self._journal.add(request.key, reply)
            self._recent[request.key] = reply
        return answer

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _FirstAnswers:
    """Whether it is worth going on: MOST_ALIKE paid answers of no use, and none yet that is of any, say no."""

    def __init__(self, useless: Useless | None) -> None:
        self._useless, self._num_useless = useless, 0

    def look_at(self, request: Request, answer: Answer) -> None:
        if self._useless is None or not answer.replies:
            return
        complaint = self._useless(request, answer)
        if complaint is None:
            self._useless = None  # one is enough
            return
        self._num_useless += bool(answer.paid)
        if self._num_useless >= MOST_ALIKE:
            raise StageError(f"the first {self._num_useless} replies are all of no use: {complaint}")


def batches_at_once(spec: EndpointSpec) -> int:
    """Batches under way so that the requests in flight always fill what is allowed."""
    return 2 + math.ceil(spec.max_in_flight / BATCH)
