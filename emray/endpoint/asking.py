"""The one seam between what is to be asked and how it is: questions in, answers out, whatever the transport.

    Worker (worker.py)              online, from this process
    Owners (pool.py)                online, from worker actors; also a server of our own (vllm_server.py)
    BatchAsking (batch/transport.py)   by the endpoint's batch API
    Replay (kept.py)                from the journal alone

Not for limits, retries or files. The invariant: every transport keeps a reply in the journal before it gives it, under
the request's key, so that they can follow one another and nothing is paid for twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from emray.endpoint.access import Access
from emray.endpoint.reply import Answer, FollowUp, Request, Useless
from emray.spec import EndpointSpec


class Asking(Protocol):
    """Whoever answers."""

    def answers(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """The answers in the order of the requests; blocks. Raises EndpointUnreachable or StageError."""
        ...

    def complaint(self) -> str | None:
        """Why nothing comes back: the endpoint's last words, empty without any; None for one that tells itself."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Endpoint:
    """Who is asked. `model` names the limit that all requests fall under."""

    spec: EndpointSpec
    model: str
    access: Access

    @classmethod
    def at(cls, base_url: str | None, *, spec: EndpointSpec, model: str) -> "Endpoint":
        """With the credentials of this process; `base_url` None: as openai users set it. Raises UserError."""
        return cls(spec, model, Access.read(spec, base_url=base_url))


@dataclass(frozen=True)
class Terms:
    """On what terms: what may be spent, what is asked after a reply, and what makes answers not worth their price."""

    budget_usd: float | None = None
    follow_up: FollowUp | None = None
    useless: Useless | None = None  # when the first MOST_ALIKE answers are all of no use, online asking stops
