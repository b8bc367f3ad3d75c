"""Answers by the batch API, in the order of the requests.

Not for asking twice (rounds.py). The invariant: what the journal holds is not submitted.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property

from emray.endpoint.asking import Asking, Endpoint, Terms
from emray.endpoint.batch.rounds import Rounds
from emray.endpoint.batch.sending import BatchQueue
from emray.endpoint.kept import KeptReplies
from emray.endpoint.reply import Answer, Request
from emray.progress import Advance, silent
from emray.store import Store

ROUND = 200_000  # requests that it is best asked for together: a day each time, and 0.5 GB


class BatchAsking:
    """Asks by batches, and online for the few that these leave unanswered. For one thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        store: Store,
        online: Callable[[Terms], Asking],
        terms: Terms,
        advance: Advance = silent,
    ) -> None:
        self._endpoint, self._store, self._online = endpoint, store, online
        self._terms, self._advance = terms, advance
        self._kept = KeptReplies(store)

    def complaint(self) -> None:
        """See Asking.complaint."""

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """See Asking.answers. Returns when the last batch has ended, which may take a day."""
        self._kept.look()
        distinct = {request.key: request for request in requests}
        known = self._kept.journaled(list(distinct.values()), follow_up=self._terms.follow_up)
        found = known.answers
        rounds = Rounds(
            [request for key, request in distinct.items() if key not in found],
            spec=self._endpoint.spec,
            known=known.first,
            follow_up=self._terms.follow_up,
        )
        if rounds.left:
            for answered in rounds.run(self._queue):
                found |= {request.key: answer for request, answer in answered}
        if rounds.left:
            found |= self._ask_online(rounds.left)
        return [found[request.key] for request in requests]

    def close(self) -> None:
        if "_queue" in self.__dict__:
            self._queue.close()

    @cached_property
    def _queue(self) -> BatchQueue:
        """Opened when there is something to submit."""
        budget_usd = self._terms.budget_usd
        return BatchQueue(self._endpoint, store=self._store, advance=self._advance, budget_usd=budget_usd)

    def _ask_online(self, left: Sequence[Request]) -> dict[str, Answer]:
        """Answers by key, on what is left of the budget."""
        budget = self._queue.budget
        with closing(self._online(replace(self._terms, budget_usd=budget.left_usd))) as online:
            answers = online.answers(left)
        for reply in (reply for answer in answers for reply in answer.paid):
            budget.commit(1)
            budget.settle(reply)
        return {request.key: answer for request, answer in zip(left, answers, strict=True)}
