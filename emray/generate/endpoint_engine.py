"""An OpenAI-compatible endpoint as an engine: hosted models, or adapters that `vllm serve` has loaded.

Not for starting servers. One request per sample, with the sample's own seed, through the same limiter and journal as
the judge's. The invariant: a sample that was paid for is in the journal before it is a row, so a block that is begun
again asks for nothing twice.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial

import openai

from emray.endpoint.asking import Asking, Endpoint, Terms
from emray.endpoint.batch.submission import refuse_what_is_under_way
from emray.endpoint.batch.transport import BatchAsking
from emray.endpoint.kept import Replay
from emray.endpoint.pool import cluster_port
from emray.endpoint.reply import FILTER, Answer, Reply, Request
from emray.endpoint.worker import Worker
from emray.generate.engine import EngineConfig, Finished, Sample, SampleRequest, failed
from emray.model.rendering import final_text, with_system
from emray.progress import Advance
from emray.records import FinishReason, key_of
from emray.store import Store

ANSWER = ".answer"  # ends the journal's keys of answers, beside those of verdicts
TOO_LONG = "maximum context length"  # what OpenAI and vLLM say of an oversized prompt


class EndpointEngine:
    """An Engine around a worker of `emray.endpoint`."""

    name = "openai"

    def __init__(self, config: EngineConfig) -> None:
        served = config.served
        assert served is not None, "the driver gives engine openai its endpoint"
        spec = served.spec
        self.version: str = openai.__version__
        self._config, self._served = config, served
        self._noted = ""
        self._asking = _asking(Endpoint(spec, served.base, served.access), Store(served.store), advance=self._note)

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        """See Engine.generate. May be called from several threads at once."""
        asked = [self._endpoint_request(request, seed) for request in requests for seed in request.seeds]
        answers = iter(self._asking.answers(asked))
        for position, request in enumerate(requests):
            yield _finished(position, request, [next(answers) for _ in request.seeds])

    def complaint(self) -> str:
        """See Complaining."""
        said = self._asking.complaint()
        return self._noted if said is None else said

    def _note(self, done: int, note: str = "") -> None:
        """What a transport tells of itself."""
        self._noted = note or self._noted

    def _endpoint_request(self, request: SampleRequest, seed: int) -> Request:
        config, how = self._config, self._config.rendering
        model = self._served.adapters[request.adapter.name] if request.adapter else self._served.base
        fields = {
            "model": model,
            "messages": [message.turn for message in with_system(request.messages, policy=how.system)],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": seed,
        }
        arguments = json.loads(how.arguments)
        if arguments:  # as vllm serve and SGLang take them; the rest of the rendering is the endpoint's own
            fields["chat_template_kwargs"] = arguments
        body = self._served.spec.dialect(fields, model=self._served.base)
        return Request(key_of("answer", body) + ANSWER, body, "answer")


def _asking(endpoint: Endpoint, store: Store, *, advance: Advance) -> Asking:
    """By the transport that the sweep file names. Raises StageError for answers under way in another run's batches."""
    mode = endpoint.spec.mode
    if mode == "replay":
        return Replay(store)
    if mode == "online":
        refuse_what_is_under_way(store, mine=lambda key: key.endswith(ANSWER), setting="generate.endpoint.mode")

    def online(terms: Terms) -> Worker:
        return Worker(endpoint, store=store, port=partial(cluster_port, endpoint), wanted=_AnswerKeys(), terms=terms)

    if mode == "batch":
        return BatchAsking(endpoint, store=store, online=online, terms=Terms(), advance=advance)
    return online(Terms())


class _AnswerKeys:
    """The journal's keys of answers, as a container for `Worker`."""

    def __contains__(self, key: object) -> bool:
        return str(key).endswith(ANSWER)


def _finished(position: int, request: SampleRequest, answers: Sequence[Answer]) -> Finished:
    replies = [reply for answer in answers for reply in answer.replies]
    reasons = [answer.reason for answer in answers if answer.reason]
    prompt_tokens = replies[0].prompt_tokens if replies else None
    if reasons and not replies:
        reason = FinishReason.OVERSIZED if TOO_LONG in reasons[0] else _no_sample(answers[0]).finish_reason
        return failed(position, request, reason, error=reasons[0], prompt_tokens=prompt_tokens)
    samples = tuple(_sample(answer.replies[0]) if answer.replies else _no_sample(answer) for answer in answers)
    return Finished(position, samples, prompt_tokens, reasons[0] if reasons else None)


def _sample(reply: Reply) -> Sample:
    """A hosted model's refusal is its answer. Thoughts are left out."""
    text = final_text(reply.text) if reply.text is not None else reply.refusal
    reasons = {"length": FinishReason.LENGTH, FILTER: FinishReason.FILTERED}
    reason = reasons.get(reply.finish_reason, FinishReason.STOP)
    return Sample(text, reason, reply.completion_tokens or 0)


def _no_sample(answer: Answer) -> Sample:
    return Sample(None, FinishReason.FILTERED if answer.filtered else FinishReason.ERROR, 0)
