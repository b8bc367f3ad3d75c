"""Rounds of batches until every request is decided.

Not for files and batches as such (sending.py). The first round holds every request, the next ones what is left:
requests without a reply, and follow-ups to replies that call for one. When few are left, they are handed back to be
asked online: a day is long for three of them. The invariant: a request is decided once, and one that the endpoint
refused for its content is not asked again.
"""

from collections.abc import Iterator, Mapping, Sequence

from emray.endpoint.batch.lines import Unanswered
from emray.endpoint.batch.sending import BatchQueue, Collected
from emray.endpoint.refusals import Failure
from emray.endpoint.reply import Answer, FollowUp, Reply, Request
from emray.spec import EndpointSpec

OWN_FAULTS = (Failure.REJECTED, Failure.FILTERED, Failure.SETTING, Failure.REFUSED)  # where others were served

Answered = Sequence[tuple[Request, Answer]]


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
        self._paid: dict[str, tuple[Reply, ...]] = {}

    def run(self, queue: BatchQueue) -> Iterator[Answered]:
        """Round after round; yields what each batch decided as it ends. What is `left` then is to be asked online."""
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

    def _next(self, request: Request) -> Request:
        """What to ask for it now: the question, or its follow-up."""
        first = self._first.get(request.key)
        again = self._follow_up(request, first) if first and self._follow_up else None
        if again is None:
            return request
        self._roots[again.key] = request.key
        return again

    def _decide(self, collected: Collected) -> Answered:
        """What a batch decided; the rest stays open."""
        for key, reply in collected.replies.items():
            self._paid[self._root(key)] = (*self._paid.get(self._root(key), ()), reply)
        answers = [
            *(self._reply(key, reply) for key, reply in collected.replies.items()),
            *(self._refused(key, why) for key, why in collected.unanswered.items()),
            *((self._open[self._root(request.key)], Answer(skipped=True)) for request in collected.skipped),
        ]
        return self._closed(list(filter(None, answers)))

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

    def _closed(self, answers: Answered) -> Answered:
        """The answers, with what was paid for them now."""
        for request, _ in answers:
            del self._open[request.key]
        return [(request, self._counted(request.key, answer)) for request, answer in answers]

    def _counted(self, key: str, answer: Answer) -> Answer:
        paid = self._paid.pop(key, ())
        return answer._replace(calls=len(paid) + (answer.reason is not None), paid=paid)

    def _root(self, key: str) -> str:
        return self._roots.get(key, key)
