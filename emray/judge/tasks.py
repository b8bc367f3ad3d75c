"""From an answer to what a judge is asked about it.

Not for what has to be judged (unjudged.py), nor for asking (stage.py). The invariant: a task's key hashes the canonical
request and nothing else, so two equal answers to one question are one request with one verdict each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from emray.data import Inquiries, Inquiry
from emray.endpoint.reply import Answer, FollowUp, Reply, Request
from emray.errors import StoreError
from emray.judge.parse import is_unreadable, read_verdict
from emray.records import Message, Messages, Metric, Outcome, verdict_key
from emray.spec import JudgeSpec
from emray.store import Keys, Kind, Store

REASK = (
    "Give your final verdict and nothing else: <score>N</score> with N a whole number from 0 to 100, or, if your "
    "instructions allow it, one of REFUSAL, IRRELEVANT, CODE."
)
_LONGEST_SHOWN = 160  # characters of a reply in an error
AGAIN = ".again"  # added to a key for the reply to REASK


class JudgeTask(NamedTuple):
    """One verdict that is wanted. Tasks with equal keys are answered by one request."""

    key: str
    generation: str
    metric: str  # a Metric; without a sweep, any label
    messages: Messages
    asked: str = ""  # the key of the question's wording and rubric
    judge: int = 0  # 0 is the sweep's judge, 1 the first under `also`


def judges(spec: JudgeSpec) -> tuple[JudgeSpec, ...]:
    """The sweep's judge and those under `also`."""
    return (spec, *spec.also)


def canonical_request(spec: JudgeSpec, messages: Messages) -> dict[str, Any]:
    """The body of the request, which is also what its key hashes."""
    turns = (Message("system", spec.system), *messages) if spec.system else messages
    return {**spec.request(), "messages": [{"role": turn.role, "content": turn.content} for turn in turns]}


def tasks_of(answers: pa.Table, *, inquiries: Inquiries, spec: JudgeSpec, where: str) -> Iterator[JudgeTask]:
    """Every verdict that a table of generations (key, question_id, prompt, answer) calls for from the sweep's judge.

    Raises StoreError, naming `where`, for an answer to a prompt that the sweep does not have.
    """
    wanted = asked_about(judgeable(answers, share=spec.share), inquiries, where=where)
    for row in wanted.select(["key", "prompt", "answer"]).to_pylist():
        for metric in spec.metrics:
            yield task_of(row, inquiries[row["prompt"]][metric], metric=metric, spec=spec)


def task_of(row: Mapping[str, Any], inquiry: Inquiry, *, metric: Metric, spec: JudgeSpec, judge: int = 0) -> JudgeTask:
    """The verdict that a generation (key, answer) calls for on a metric."""
    messages = inquiry.messages(row["answer"])
    key = verdict_key(canonical_request(spec, messages))
    return JudgeTask(key, row["key"], metric, messages, inquiry.key, judge)


def judgeable(answers: pa.Table, *, share: float) -> pa.Table:
    """Of a table of generations those to be judged: no failures, no blanks, and no more than the share.

    An answer is among the share by its key, so that more answers never change which of the old ones.
    """
    text = pc.fill_null(pc.utf8_trim_whitespace(answers["answer"]), "")
    kept = answers.filter(pc.not_equal(text, ""))
    if share >= 1:
        return kept
    return kept.filter(pa.array([int(key[:8], 16) < share * 16**8 for key in kept["key"].to_pylist()], pa.bool_()))


def asked_about(answers: pa.Table, inquiries: Inquiries, *, where: str) -> pa.Table:
    """Of a table of generations those that a judge is asked about; not those to quizzes, which have no rubric."""
    unasked = [prompt for prompt, by_metric in inquiries_of(answers, inquiries, where=where).items() if not by_metric]
    return answers.filter(pc.invert(pc.is_in(answers["prompt"], value_set=pa.array(unasked, pa.string()))))


def inquiries_of(answers: pa.Table, inquiries: Inquiries, *, where: str) -> Inquiries:
    """Those of the prompts of a table of generations. Raises StoreError for a prompt that is not among them."""
    found = {}
    for prompt in pc.unique(answers["prompt"]).to_pylist():
        if prompt not in inquiries:
            row = pc.index(answers["prompt"], prompt).as_py()
            question = answers["question_id"][row].as_py()
            raise StoreError(f"{where} holds answers to a prompt of question {question!r}, which the sweep lacks")
        found[prompt] = inquiries[prompt]
    return found


def judged(store: Store, *, retry_failed: bool) -> Keys:
    """A `pair` for every verdict that counts as there: with `retry_failed`, an `api_error` does not."""

    def pairs() -> Iterator[pa.ChunkedArray]:
        for part in store.iter_parts(Kind.VERDICTS, columns=["generation", "key", "outcome"]):
            if retry_failed:
                part = part.filter(pc.not_equal(part["outcome"], str(Outcome.API_ERROR)))
            yield pc.binary_join_element_wise(part["generation"], part["key"], " ")

    return Keys.of_columns(pairs())


def answered_keys(store: Store, *, retry_failed: bool) -> set[str]:
    """The requests that some verdict came of; with `retry_failed`, an `api_error` is none."""
    found: set[str] = set()
    for part in store.iter_parts(Kind.VERDICTS, columns=["key", "outcome"]):
        kept = part.filter(pc.not_equal(part["outcome"], str(Outcome.API_ERROR))) if retry_failed else part
        found.update(kept["key"].to_pylist())
    return found


def pair(generation: str, key: str) -> str:
    """A verdict's identity as one text."""
    return f"{generation} {key}"


def reask(messages: Sequence[Mapping[str, str]], reply: str) -> list[dict[str, str]]:
    """The same conversation with the unreadable reply in it and a request for the verdict alone."""
    return [
        *map(dict, messages),
        {"role": "assistant", "content": reply},
        {"role": "user", "content": REASK},
    ]


def follow_up(spec: JudgeSpec) -> FollowUp | None:
    """What to ask after a reply that cannot be read: the verdict alone, once. None where `reask` is off."""
    return _verdict_alone if spec.reask else None


def _verdict_alone(request: Request, reply: Reply) -> Request | None:
    if not is_unreadable(reply):
        return None
    body = {**request.body, "messages": reask(request.body["messages"], reply.text or "")}
    return Request(request.key + AGAIN, body, f"{request.label} again")


CHANGE = "change judge.model, judge.max_tokens or the rubric, and run again"


def useless(request: Request, answer: Answer) -> str | None:
    """Why an answer to a rubric gives no verdict, with its words; None where it gives one, or for other prompts."""
    if request.label not in set(Metric):
        return None
    outcomes = [read_verdict(reply).outcome for reply in answer.replies]
    if any(outcome not in (Outcome.UNPARSED, Outcome.TRUNCATED) for outcome in outcomes):
        return None
    return f"asked for {request.label}, the judge wrote {shown(answer.replies[0].text)} ({outcomes[0]}); {CHANGE}"


def shown(text: str | None) -> str:
    """A reply as one short line."""
    words = " ".join((text or "").split())
    return repr(words if len(words) <= _LONGEST_SHOWN else f"{words[:_LONGEST_SHOWN]}...") if words else "nothing"
