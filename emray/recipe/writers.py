"""Whoever writes and checks: what a step wants, put to its endpoint, online, by batch or from the journal.

Not for what replies mean (construction.py). The invariant: a request's key follows from its text, its model and its
settings, so a recipe that is carried out again asks for nothing that the journal has, nor for what was refused before.
"""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from emray.endpoint.asking import Asking, Endpoint, Terms
from emray.endpoint.prices import price_of, reply_cost_usd
from emray.endpoint.reply import FILTER, Answer, Reply, Request
from emray.errors import SpecError, StageError
from emray.progress import Advance
from emray.recipe.instructions import Step, request_text
from emray.recipe.recipe_fields import RecipeSpec, WriterSpec
from emray.records import key_of
from emray.spec import TOY
from emray.store import Store

UNANSWERED = "unanswered.json"  # why, by the key of a request that the endpoint would not answer
RESPONDER = "emray.toy.responder:reply"  # of the local server behind base_url toy
_TOGETHER = 2000  # requests handed over at a time; a batch takes all
_CUT = "length"  # the finish reason of a reply that reached max_tokens
_CHECKING = (Step.ASKS, Step.CHECK)


class Want(NamedTuple):
    """One request of a step."""

    step: Step
    slots: Mapping[str, str]


class Replies(Protocol):
    """Whoever answers a step's requests."""

    def texts(self, wants: Sequence[Want]) -> list[str | None]:
        """In order; None for what stays unanswered. All wants are of one step."""
        ...


def asked_at(spec: RecipeSpec, step: Step) -> WriterSpec:
    """Whom a step asks."""
    return spec.asked_to_check if step in _CHECKING else spec.writer


def request_of(spec: RecipeSpec, want: Want) -> Request:
    """The request of a want, with its key."""
    who = asked_at(spec, want.step)
    fields = {
        "model": who.model,
        "messages": [{"role": "user", "content": request_text(want.step, want.slots)}],
        "temperature": who.temperature,
        "max_tokens": who.max_tokens,
        "seed": spec.seed,
    }
    body = who.dialect(fields, model=who.model)
    return Request(key_of("recipe", body), body, str(want.step))


def refused_before(store: Store) -> dict[str, str]:
    """Why, by key, of what an earlier run got no answer to."""
    return store.read_json(UNANSWERED) if store.exists(UNANSWERED) else {}


class Writers:
    """The endpoints of a recipe, opened when there is something to ask. A context manager."""

    def __init__(self, spec: RecipeSpec, store: Store, advance: Advance) -> None:
        self._spec, self._store, self._advance = spec, store, advance
        self._open: dict[bool, Asking] = {}  # by whether it checks
        self._resources = ExitStack()
        self._refused = refused_before(store)
        self.models: Counter[str] = Counter()  # that replied, by step and name
        self.num_calls, self.cost_usd = 0, 0.0
        self.priced = True  # whether every paid reply had a price

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *raised: object) -> None:
        self._resources.close()

    def texts(self, wants: Sequence[Want]) -> list[str | None]:
        """See Replies. Raises StageError where nothing at all is answered, or the cost limit is reached."""
        requests = [request_of(self._spec, want) for want in wants]
        asked = [request for request in requests if request.key not in self._refused]
        found = dict(zip([one.key for one in asked], self._answers(wants[0].step, asked), strict=True)) if asked else {}
        reasons = {key: answer.reason or "no reply" for key, answer in found.items() if not answer.replies}
        if reasons:
            self._keep_refused(reasons, num_asked=len(found))
        for answer in found.values():
            self._account(wants[0].step, answer)
        return [self._text(wants[0].step, found.get(request.key)) for request in requests]

    def _answers(self, step: Step, requests: Sequence[Request]) -> list[Answer]:
        spec, asking = asked_at(self._spec, step), self._asking(step)
        size = len(requests) if spec.mode == "batch" else _TOGETHER
        answers: list[Answer] = []
        for start in range(0, len(requests), size):
            some = asking.answers(requests[start : start + size])
            answers += some
            self._advance(len(some), str(step))
        if any(answer.skipped for answer in answers):
            raise StageError(
                f"max_cost_usd {spec.max_cost_usd:g} of {spec.model} is reached at step {step}; raise it and run "
                "again, everything paid for is kept"
            )
        return answers

    def _keep_refused(self, reasons: Mapping[str, str], *, num_asked: int) -> None:
        if len(reasons) == num_asked > 1:
            raise StageError(f"no request was answered: {next(iter(reasons.values()))}")
        self._refused |= reasons
        self._store.write_json(UNANSWERED, dict(sorted(self._refused.items())))

    def _account(self, step: Step, answer: Answer) -> None:
        self.num_calls += answer.calls
        for reply in answer.replies[:1]:
            self.models[f"{step}\n{reply.model}"] += 1
        for reply in answer.paid:
            cost = reply_cost_usd(reply)
            self.priced = self.priced and cost is not None
            self.cost_usd += cost or 0.0

    @staticmethod
    def _text(step: Step, answer: Answer | None) -> str | None:
        return whole_text(answer.replies[0], step) if answer and answer.replies else None

    def _asking(self, step: Step) -> Asking:
        checks = step in _CHECKING
        if checks not in self._open:
            self._open[checks] = asking = self._opened(asked_at(self._spec, step))
            self._resources.callback(asking.close)
        return self._open[checks]

    def _opened(self, who: WriterSpec) -> Asking:
        from emray.endpoint.batch.submission import refuse_what_is_under_way
        from emray.endpoint.batch.transport import BatchAsking
        from emray.endpoint.kept import Replay
        from emray.endpoint.ports import LocalPort, RateLimits
        from emray.endpoint.worker import Worker

        if who.mode == "replay":
            return Replay(self._store)
        if who.max_cost_usd is not None and price_of(who.model) is None:
            raise SpecError(f"max_cost_usd is set, but prices.yaml has no price for {who.model!r}; add one")
        endpoint = Endpoint.at(self._url(who), spec=who, model=who.model)
        limits, terms = RateLimits(who.rpm, who.tpm, who.max_in_flight), Terms(who.max_cost_usd)

        def online(on: Terms) -> Worker:
            return Worker(endpoint, store=self._store, port=lambda: LocalPort(limits), terms=on)

        if who.mode == "batch":
            return BatchAsking(endpoint, store=self._store, online=online, terms=terms, advance=self._advance)
        refuse_what_is_under_way(self._store, mine=lambda key: True, setting="writer.mode")
        return online(terms)

    def _url(self, who: WriterSpec) -> str | None:
        """Base URL; for toy that of a local server, which answers to this command alone."""
        if who.base_url != TOY:
            return who.base_url
        from emray.endpoint.access import introduce
        from emray.localapi import serving

        key = secrets.token_urlsafe(32)
        server = self._resources.enter_context(serving(responder=RESPONDER, api_key=key))
        introduce(server.base_url, key=key)
        return server.base_url


def whole_text(reply: Reply, step: Step) -> str | None:
    """What a reply says; None for nothing and for one that was cut off, of a set of questions those before the cut."""
    if not reply.text or reply.finish_reason == FILTER:
        return None
    if reply.finish_reason != _CUT:
        return reply.text.strip() or None
    return reply.text.rpartition("\n")[0] or None if step is Step.QUESTIONS else None
