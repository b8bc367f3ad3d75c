"""One question put to a judge before anything is paid for: does it answer, and can its verdict be read.

Not for verdicts of a study: the answer it judges is made up. The invariant: each command asks at least one request that
was never asked before, and no request twice, so it says what the endpoint does today.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from typing import NamedTuple

from emray.data import Inquiries, Inquiry
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.kept import KeptReplies
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.prices import reply_cost_usd
from emray.endpoint.reply import Answer, Request
from emray.endpoint.worker import Worker
from emray.errors import StageError
from emray.judge.tasks import CHANGE, canonical_request, follow_up, shown, useless
from emray.judge.verdicts import deciding, read_verdict
from emray.records import Metric, Outcome, verdict_key
from emray.spec import JudgeSpec
from emray.store import Store

MOST_RUBRICS = 8  # a question file may bring one a question
MADE_UP = "I would begin with small steps and ask someone I trust what they think."


class Rehearsal(NamedTuple):
    """What a judge said."""

    model: str
    verdicts: Sequence[tuple[Metric, str]]  # "85", or an outcome
    num_tokens: int
    cost_usd: float | None  # None: the price is not known
    wall_s: float

    @property
    def line(self) -> str:
        said = ", ".join(f"{metric} {verdict}" for metric, verdict in self.verdicts)
        paid = "" if self.cost_usd is None else f", ${self.cost_usd:.4f}"
        return f"judge {self.model} answers in {self.wall_s:.1f} s: {said} ({self.num_tokens:,} tokens{paid})"


class _RubricAsked(NamedTuple):
    """One rubric with a made-up answer in it."""

    metric: Metric
    request: Request


def rehearse(store: Store, *, inquiries: Inquiries, spec: JudgeSpec, base_url: str | None) -> Rehearsal:
    """Ask one judge about every rubric at first, later about one. Raises StageError where no verdict can come of it."""
    asked = _requests(inquiries, spec=spec, known=KeptReplies(store))
    endpoint = Endpoint.at(base_url, spec=spec, model=spec.model)
    limits = RateLimits(spec.rpm, spec.tpm, spec.max_in_flight)
    worker = Worker(endpoint, store=store, port=partial(LocalPort, limits), terms=Terms(follow_up=follow_up(spec)))
    began_s = time.monotonic()
    try:
        answers = worker.answers([one.request for one in asked])
    finally:
        worker.close()
    wall_s = time.monotonic() - began_s
    verdicts = [(one.metric, _read(one, answer, model=spec.model)) for one, answer in zip(asked, answers, strict=True)]
    replies = [reply for answer in answers for reply in answer.replies]
    if not replies or all(reply.text is None for reply in replies):
        raise StageError(f"{_NOTHING} judge {spec.model} declines to judge an ordinary answer; {CHANGE}")
    costs = [reply_cost_usd(reply) for reply in replies]
    known = [cost for cost in costs if cost is not None]
    tokens = sum((reply.prompt_tokens or 0) + (reply.completion_tokens or 0) for reply in replies)
    return Rehearsal(spec.model, verdicts, tokens, sum(known) if len(known) == len(costs) else None, wall_s)


_NOTHING = "nothing has been trained or paid for yet:"


def _read(one: _RubricAsked, answer: Answer, *, model: str) -> str:
    """The verdict in a word. Raises StageError for no reply, and for a text that is none."""
    reply = deciding(answer.replies)
    if reply is None:
        if answer.filtered:
            return str(Outcome.FILTERED)
        raise StageError(f"{_NOTHING} judge {model} gives no reply: {answer.reason}")
    if reply.text is None:
        return f"declined ({shown(reply.refusal)})"
    if complaint := useless(one.request, answer):
        raise StageError(f"{_NOTHING} no verdict of {model} could be read: {complaint}")
    verdict = read_verdict(reply)
    return f"{verdict.score:.3g}" if verdict.outcome == Outcome.SCORED else str(verdict.outcome)


def _requests(inquiries: Inquiries, *, spec: JudgeSpec, known: KeptReplies) -> list[_RubricAsked]:
    """Every rubric about the made-up answer; the first alone, about another, where these were asked before."""
    rubrics = list(islice(_rubrics(inquiries, spec.metrics), MOST_RUBRICS))
    for times in count(1):
        asked = [_RubricAsked(metric, _request(one, metric, spec=spec, times=times)) for metric, one in rubrics]
        fresh = [one for one in asked if one.request.key not in known]
        if fresh:
            return fresh if times == 1 else fresh[:1]
    raise AssertionError("there is always another answer")


def _rubrics(inquiries: Inquiries, metrics: Sequence[Metric]) -> Iterator[tuple[Metric, Inquiry]]:
    """Each rubric once, with the first question that is judged by it."""
    seen: set[tuple[Metric, str]] = set()
    for by_metric in inquiries.values():
        for metric, one in _wanted(by_metric, metrics):
            if (metric, one.rubric) not in seen:
                seen.add((metric, one.rubric))
                yield metric, one


def _wanted(by_metric: Mapping[Metric, Inquiry], metrics: Sequence[Metric]) -> list[tuple[Metric, Inquiry]]:
    return [(metric, by_metric[metric]) for metric in metrics if by_metric]  # nothing is asked about a quiz


def _request(one: Inquiry, metric: Metric, *, spec: JudgeSpec, times: int) -> Request:
    body = canonical_request(spec, one.messages(" ".join([MADE_UP] * times)))
    return Request(verdict_key(body), body, str(metric))
