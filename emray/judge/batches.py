"""Judging by an endpoint's batch API: waves of batches until every request is decided.

Not for files and batches as such (emray.endpoint.batches). The first wave holds every request, the next ones what is
left: requests without a reply, and follow-ups to replies that cannot be read. When few are left, they are handed back
to be asked online: a day is long for three of them. The invariant: a request is decided once, and one that the endpoint
refused for its content is not asked again.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from emray.endpoint.batches import BatchQueue, Collected, Unanswered
from emray.endpoint.client import Failure
from emray.endpoint.prices import reply_cost_usd
from emray.endpoint.reply import Answer, Reply, Request
from emray.judge.tasks import AGAIN, follow_up
from emray.judge.verdicts import BatchResult, Judge, JudgeRequest, write_verdicts
from emray.spec import JudgeSpec
from emray.store import Store


class Waves:
    """The requests that are not decided yet, and what is known of them."""

    def __init__(
        self, requests: Sequence[JudgeRequest], *, known: Mapping[str, Reply], spec: JudgeSpec, store: Store
    ) -> None:
        """`known` are first replies that cannot be read."""
        self._spec, self._store = spec, store
        self._follow_up = follow_up(spec)
        self._open = {one.key: one for one in requests}
        self._first = dict(known)
        self._reasons: dict[str, str] = {}

    def run(self, queue: BatchQueue) -> Iterator[BatchResult]:
        """Wave after wave; yields as batches end. What is `left` then is to be asked online."""
        for _ in range(self._spec.max_attempts):
            for collected in queue.collect([self._next(one) for one in self._open.values()]):
                yield self._decide(collected)
            if not self._open or len(self._open) < self._spec.batch.online_below:
                return
        yield self._write((one, self._unanswered(key)) for key, one in list(self._open.items()))

    @property
    def left(self) -> list[JudgeRequest]:
        """What no wave decided."""
        return list(self._open.values())

    @property
    def first_replies(self) -> Mapping[str, Reply]:
        """Replies that cannot be read, of what is left."""
        return self._first

    def _next(self, one: JudgeRequest) -> Request:
        """What to ask for it now: the question, or its follow-up."""
        first = self._first.get(one.key)
        again = self._follow_up(one.request, first) if first and self._follow_up else None
        return again or one.request

    def _decide(self, collected: Collected) -> BatchResult:
        """Write what a batch decided; the rest stays open."""
        answers = [
            *(self._reply(key, reply) for key, reply in collected.replies.items()),
            *(self._refused(key, why) for key, why in collected.unanswered.items()),
            *((self._open[_root(request.key)], Answer(skipped=True)) for request in collected.skipped),
        ]
        written = self._write(filter(None, answers))
        costs = [reply_cost_usd(reply) for reply in collected.replies.values()]
        spent_usd = math.fsum(math.nan if cost is None else cost for cost in costs)
        return written._replace(num_asked=len(collected.replies) + len(collected.unanswered), cost_usd=spent_usd)

    def _reply(self, key: str, reply: Reply) -> tuple[JudgeRequest, Answer] | None:
        """The answer that a reply completes; None if it has to be followed up."""
        root = _root(key)
        one = self._open[root]
        if key != root:
            return one, Answer((self._first[root], reply))
        if self._follow_up and self._follow_up(one.request, reply):
            self._first[root] = reply
            return None
        return one, Answer((reply,))

    def _refused(self, key: str, why: Unanswered) -> tuple[JudgeRequest, Answer] | None:
        """The answer where there will be no reply; None if it is worth another wave."""
        root = _root(key)
        self._reasons[root] = str(why)
        return (self._open[root], self._unanswered(root)) if why.kind == Failure.REJECTED else None

    def _unanswered(self, root: str) -> Answer:
        """A follow-up without a reply leaves the first to stand."""
        first = self._first.get(root)
        return Answer((first,)) if first else Answer(reason=self._reasons.get(root))

    def _write(self, answers: Iterable[tuple[JudgeRequest, Answer]]) -> BatchResult:
        pairs = list(answers)
        for one, _ in pairs:
            del self._open[one.key]
        return write_verdicts(pairs, store=self._store, judge=Judge.of(self._spec))


def _root(key: str) -> str:
    """The key of the request that a follow-up belongs to; its own otherwise."""
    return key.removesuffix(AGAIN)
