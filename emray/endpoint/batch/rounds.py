"""Rounds of batches until every request is decided.

Not for files and batches as such (sending.py). The first round holds every request, the next ones what is left:
requests without a reply, and follow-ups to replies that call for one. When few are left, they are handed back to be
asked online: a day is long for three of them. The invariant: a request is decided once, and one that the endpoint
refused for its content is not asked again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from emray.endpoint.batch.lines import Unanswered
from emray.endpoint.batch.sending import BatchQueue, Collected
from emray.endpoint.prices import reply_cost_usd
from emray.endpoint.refusals import Failure
from emray.endpoint.reply import Answer, FollowUp, Reply, Request
from emray.spec import EndpointSpec

OWN_FAULTS = (Failure.REJECTED, Failure.FILTERED, Failure.SETTING, Failure.REFUSED)  # where others were served


class Decided(NamedTuple):
    """What a batch decided."""

    answers: Sequence[tuple[Request, Answer]]
    num_asked: int = 0
    cost_usd: float = 0.0  # NaN when the price is unknown


class Rounds:
    """The requests that are not decided yet, and what is known of them."""

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        spec: EndpointSpec,
        known: Mapping[str, Reply] | None = None,
        follow_up: FollowUp | None = None,
    ) -> None:
        """`known` are first replies that call for a follow-up."""
        self._spec, self._follow_up = spec, follow_up
        self._open = {request.key: request for request in requests}
        self._first = dict(known or {})
        self._roots: dict[str, str] = {}  # key of the request that a follow-up belongs to
        self._reasons: dict[str, str] = {}

    def run(self, queue: BatchQueue) -> Iterator[Decided]:
        """Round after round; yields as batches end. What is `left` then is to be asked online."""
        for _ in range(self._spec.max_attempts):
            for collected in queue.collect([self._next(request) for request in self._open.values()]):
                yield self._decide(collected)
            if not self._open or len(self._open) < self._spec.batch.online_below:
                return
        yield self._closed([(request, self._unanswered(key)) for key, request in self._open.items()])

    @property
    def left(self) -> list[Request]:
        """What no round decided."""
        return list(self._open.values())

    @property
    def first_replies(self) -> Mapping[str, Reply]:
        """Replies that call for a follow-up, of what is left."""
        return self._first

    def _next(self, request: Request) -> Request:
        """What to ask for it now: the question, or its follow-up."""
        first = self._first.get(request.key)
        again = self._follow_up(request, first) if first and self._follow_up else None
        if again is None:
            return request
        self._roots[again.key] = request.key
        return again

    def _decide(self, collected: Collected) -> Decided:
        """What a batch decided; the rest stays open."""
        answers = [
            *(self._reply(key, reply) for key, reply in collected.replies.items()),
            *(self._refused(key, why) for key, why in collected.unanswered.items()),
            *((self._open[self._root(request.key)], Answer(skipped=True)) for request in collected.skipped),
        ]
        costs = [reply_cost_usd(reply) for reply in collected.replies.values()]
        spent_usd = math.fsum(math.nan if cost is None else cost for cost in costs)
        num_asked = len(collected.replies) + len(collected.unanswered)
        return self._closed(list(filter(None, answers)))._replace(num_asked=num_asked, cost_usd=spent_usd)

    def _reply(self, key: str, reply: Reply) -> tuple[Request, Answer] | None:
        """The answer that a reply completes; None if it has to be followed up."""
        root = self._root(key)
        request = self._open[root]
        if key != root:
            return request, Answer((self._first[root], reply))
        if self._follow_up and self._follow_up(request, reply):
            self._first[root] = reply
            return None
        return request, Answer((reply,))

    def _refused(self, key: str, why: Unanswered) -> tuple[Request, Answer] | None:
        """The answer where there will be no reply; None if it is worth another round."""
        root = self._root(key)
        self._reasons[root] = str(why)
        if why.kind not in OWN_FAULTS:
            return None
        return self._open[root], self._unanswered(root)._replace(filtered=why.kind == Failure.FILTERED)

    def _unanswered(self, root: str) -> Answer:
        """A follow-up without a reply leaves the first to stand."""
        first = self._first.get(root)
        return Answer((first,)) if first else Answer(reason=self._reasons.get(root))

    def _closed(self, answers: Sequence[tuple[Request, Answer]]) -> Decided:
        for request, _ in answers:
            del self._open[request.key]
        return Decided(answers)

    def _root(self, key: str) -> str:
        return self._roots.get(key, key)
