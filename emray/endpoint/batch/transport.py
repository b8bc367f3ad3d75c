"""Answers by the batch API, in the order of the requests.

Not for asking twice (rounds.py). The invariant: what the journal holds is not submitted.
"""

from collections.abc import Sequence
from contextlib import closing

from emray.endpoint.asking import Asking, Endpoint
from emray.endpoint.batch.rounds import Rounds
from emray.endpoint.batch.sending import BatchQueue
from emray.endpoint.journal import read_journal
from emray.endpoint.reply import Answer, Request
from emray.progress import silent
from emray.store import Store


class BatchAsking:
    """Asks by batches, and online for the few that these leave unanswered."""

    def __init__(self, endpoint: Endpoint, *, store: Store, online: Asking) -> None:
        self._endpoint, self._store, self._online = endpoint, store, online

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """See Asking.answers. Returns when the last batch has ended, which may take a day."""
        distinct = {request.key: request for request in requests}
        found = {key: Answer((reply,)) for key, reply in read_journal(self._store, wanted=distinct.keys())}
        rounds = Rounds([r for key, r in distinct.items() if key not in found], spec=self._endpoint.spec)
        if rounds.left:
            with closing(BatchQueue(self._endpoint, store=self._store, advance=silent)) as queue:
                for decided in rounds.run(queue):
                    found |= {request.key: answer for request, answer in decided.answers}
        left = rounds.left
        found |= {r.key: answer for r, answer in zip(left, self._online.answers(left), strict=True)}
        return [found[request.key] for request in requests]

    def close(self) -> None:
        self._online.close()
