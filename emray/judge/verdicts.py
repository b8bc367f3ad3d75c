"""From requests and their answers to rows of the verdict table.

Not for asking. The invariant: every verdict that a request stands for gets exactly one row, whatever became of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from emray.endpoint.prices import price_of, reply_cost_usd
from emray.endpoint.reply import Answer, Reply, Request
from emray.judge.parse import Verdict, is_unreadable, read_verdict
from emray.judge.tasks import JudgeTask, canonical_request
from emray.records import VERDICT_SCHEMA, Outcome, judge_key
from emray.spec import JudgeSpec
from emray.store import Kind, Store

N = TypeVar("N", int, float)


class Target(NamedTuple):
    """A verdict that a reply decides."""

    generation: str
    metric: str
    asked: str

    @classmethod
    def of(cls, task: JudgeTask) -> "Target":
        return cls(task.generation, str(task.metric), task.asked)


class Judge(NamedTuple):
    """Who is asked: the model's name, and the key of its settings."""

    model: str
    key: str

    @classmethod
    def of(cls, spec: JudgeSpec) -> "Judge":
        return cls(spec.model, judge_key(spec.identity()))


class JudgeRequest(NamedTuple):
    """One request and the verdicts that its reply decides."""

    request: Request
    targets: Sequence[Target]

    @property
    def key(self) -> str:
        return self.request.key


class BatchResult(NamedTuple):
    """What a batch came to."""

    num_verdicts: int
    num_asked: int
    cost_usd: float  # of the replies that were asked for; NaN when the price is unknown
    num_skipped: int = 0  # verdicts still missing because of the cost limit
    num_blank: int = 0  # verdicts that nobody asks for, since there is no answer


def judge_batch(
    requests: Sequence[JudgeRequest],
    *,
    ask: Callable[[Sequence[Request]], Sequence[Answer]],
    store: Store,
    judge: Judge,
) -> BatchResult:
    """Have a batch answered and write its rows. `ask` returns when every reply is in the journal."""
    answers = ask([one.request for one in requests])
    return write_verdicts(list(zip(requests, answers, strict=True)), store=store, judge=judge)


def write_verdicts(pairs: Sequence[tuple[JudgeRequest, Answer]], *, store: Store, judge: Judge) -> BatchResult:
    """Write the rows of answered requests as one part."""
    rows = [row for pair in pairs if not pair[1].skipped for row in verdict_rows(*pair, judge=judge)]
    store.write_rows(Kind.VERDICTS, rows)
    return BatchResult(
        len(rows),
        sum(answer.calls for _, answer in pairs),
        math.fsum(_spent(answer) for _, answer in pairs),
        sum(len(one.targets) for one, answer in pairs if answer.skipped),
    )


def verdict_rows(one: JudgeRequest, answer: Answer, *, judge: Judge) -> list[dict[str, Any]]:
    """One row per target, as VERDICT_SCHEMA has it; tokens and cost of both replies where there are two."""
    reply = deciding(answer.replies)
    verdict = read_verdict(reply) if reply else Verdict(_unanswered(answer), math.nan)
    shared = {
        "key": one.key,
        "outcome": str(verdict.outcome),
        "score": None if math.isnan(verdict.score) else verdict.score,
        "judge": judge.model if reply is None else reply.model,
        "reply": answer.reason if reply is None else reply.text if reply.text is not None else reply.refusal,
        "num_prompt_tokens": _sum(r.prompt_tokens for r in answer.replies),
        "num_tokens": _sum(r.completion_tokens for r in answer.replies),
        "cost_usd": _sum(reply_cost_usd(r) for r in answer.replies),
        "judge_key": judge.key,
    }
    return [{**shared, **target._asdict()} for target in one.targets]


def _unanswered(answer: Answer) -> Outcome:
    return Outcome.FILTERED if answer.filtered else Outcome.API_ERROR


def warm_up() -> None:
    """Spend now what the first written row would cost: imports of pyarrow's, a fraction of a second of CPU."""
    nothing = JudgeRequest(Request("", {}), [Target("", "", "")])
    table = pa.Table.from_pylist(verdict_rows(nothing, Answer(), judge=Judge("", "")), schema=VERDICT_SCHEMA)
    pq.write_table(table.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA), pa.BufferOutputStream())
    price_of("")


def deciding(replies: Sequence[Reply]) -> Reply | None:
    """Of a reply and that to its follow-up, the one that counts: the last that can be read, else the first."""
    readable = [reply for reply in replies if not is_unreadable(reply)]
    return readable[-1] if readable else replies[0] if replies else None


def judge_requests(grouped: Mapping[str, Sequence[JudgeTask]], *, spec: JudgeSpec) -> list[JudgeRequest]:
    """One request per key for tasks grouped by it."""
    return [
        JudgeRequest(
            Request(key, canonical_request(spec, group[0].messages), str(group[0].metric)),
            [Target.of(task) for task in group],
        )
        for key, group in grouped.items()
    ]


def by_key(tasks: Sequence[JudgeTask]) -> dict[str, list[JudgeTask]]:
    """Tasks that one request answers, together."""
    grouped: dict[str, list[JudgeTask]] = {}
    for task in tasks:
        grouped.setdefault(task.key, []).append(task)
    return grouped


def _spent(answer: Answer) -> float:
    """What was paid for it now; NaN when the price is unknown."""
    costs = [reply_cost_usd(reply) for reply in answer.paid]
    return math.fsum(math.nan if cost is None else cost for cost in costs)


def _sum(values: Iterable[N | None]) -> N | None:
    """The sum of all that is known of at least one value; None if any is unknown or there is none."""
    known = list(values)
    return None if not known or None in known else sum(known)  # type: ignore[arg-type]
