"""The judge stage: journaled replies become verdicts, the rest is asked for, by a pool or by this process alone.

Not for how a request is sent (emray.endpoint) or for Ray (workers.py). The invariant: requests with one key are one
request, and what the journal holds is not asked for.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from emray.context import Context
from emray.data import Inquiries
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.batch.rounds import Decided, Rounds
from emray.endpoint.batch.sending import BatchQueue
from emray.endpoint.batch.submission import refuse_what_is_under_way
from emray.endpoint.journal import compact, read_journal
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.prices import price_of
from emray.endpoint.reply import Answer, Reply, Request
from emray.endpoint.worker import BATCH, Worker, batches_at_once
from emray.errors import SpecError, StageError
from emray.judge.parse import is_unreadable
from emray.judge.tasks import AGAIN, JudgeTask, follow_up, judges
from emray.judge.verdicts import (
    BatchResult,
    Judge,
    JudgeRequest,
    Target,
    by_key,
    judge_batch,
    judge_requests,
    request_table,
    verdict_rows,
    warm_up,
    write_verdicts,
)
from emray.progress import Advance
from emray.records import Outcome
from emray.spec import TOY, JudgeSpec
from emray.store import Kind, Store

ROWS_A_PART = 10_000  # verdict rows written at once
WINDOW = 50_000  # tasks under way at a time: minutes of asking, some 100 MB

Groups = dict[str, list[JudgeTask]]  # tasks by the key of the request that answers them
JudgeRows = Callable[[Any], None]  # takes a dataset of generations


def run(
    tasks: Iterable[JudgeTask], *, spec: JudgeSpec, base_url: str | None, context: Context, alone: bool = False
) -> None:
    """See `emray.judge.run`; `alone` judges in this process, without Ray."""
    if context.resources.retry_failed:
        context.store.delete_rows(Kind.VERDICTS, column="outcome", value=Outcome.API_ERROR)
    runs = []
    for number, judge in enumerate(judges(spec)):
        url = base_url if number == 0 or judge.base_url in (None, TOY) else judge.base_url
        runs.append(_JudgeTurn(judge, url, context, alone))
    for window in _windows(tasks, spec=spec):
        for number, run in enumerate(runs):
            mine = [task for task in window if task.judge == number]
            if mine:
                run.judge(mine)


def _windows(tasks: Iterable[JudgeTask], *, spec: JudgeSpec) -> Iterator[Sequence[JudgeTask]]:
    """What is held at a time: so many tasks; all of them where batches take a day however few there are."""
    left = iter(tasks)
    while window := list(islice(left, None if spec.mode == "batch" else WINDOW)):
        yield window


class _JudgeTurn(NamedTuple):
    """One judge's turn."""

    spec: JudgeSpec
    base_url: str | None
    context: Context
    alone: bool

    @property
    def store(self) -> Store:
        return self.context.store

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.spec, self.spec.model, self.base_url)

    def judge(self, tasks: Sequence[JudgeTask]) -> None:
        budget_usd = _budget_usd(self.spec, self.store)
        grouped = by_key(tasks)
        known = _use_journal(grouped, store=self.store, spec=self.spec, advance=self.context.advance)
        if not grouped:
            return
        if self.spec.mode == "replay":
            raise StageError(
                f"judge.mode is replay, and {len(grouped)} of the requests have no reply in the journal "
                f"(the first is for generation {next(iter(grouped.values()))[0].generation})"
            )
        if self.spec.mode == "online":
            _refuse_what_is_under_way(grouped, store=self.store)
        ask = self._ask_batches if self.spec.mode == "batch" else self._ask_here if self.alone else self._ask_pool
        asked = ask(judge_requests(grouped, spec=self.spec), known, budget_usd)
        follow(asked, spec=self.spec, context=self.context)

    def _ask_here(
        self, requests: Sequence[JudgeRequest], known: Mapping[str, Reply], budget_usd: float | None
    ) -> Iterator[BatchResult]:
        """Judge in this process; yields as batches finish."""
        limits = RateLimits(self.spec.rpm, self.spec.tpm, self.spec.max_in_flight)
        terms = Terms(budget_usd, follow_up(self.spec))
        worker = Worker(self.endpoint, store=self.store, port=lambda: LocalPort(limits), known=known, terms=terms)
        judge = partial(judge_batch, ask=worker.answers, store=self.store, judge=Judge.of(self.spec))
        warm_up()
        with closing(worker), ThreadPoolExecutor(batches_at_once(self.spec)) as threads:
            batches = _in_batches(requests, size=BATCH)
            for future in as_completed([threads.submit(judge, batch) for batch in batches]):
                yield future.result()
        compact(self.store)

    def _ask_batches(
        self, requests: Sequence[JudgeRequest], known: Mapping[str, Reply], budget_usd: float | None
    ) -> Iterator[BatchResult]:
        """Judge by the batch API, from this process: there is little to do but wait."""
        by_request = {one.key: one for one in requests}
        rounds = Rounds([one.request for one in requests], spec=self.spec, known=known, follow_up=follow_up(self.spec))
        queue = BatchQueue(self.endpoint, store=self.store, advance=self.context.advance, budget_usd=budget_usd)
        with closing(queue):
            for decided in rounds.run(queue):
                yield self._write(decided, by_request)
        compact(self.store)
        if rounds.left:
            left = [by_request[request.key] for request in rounds.left]
            yield from self._ask_here(left, rounds.first_replies, queue.budget.left_usd)

    def _write(self, decided: Decided, by_request: Mapping[str, JudgeRequest]) -> BatchResult:
        """The verdicts of what a batch decided."""
        pairs = [(by_request[request.key], answer) for request, answer in decided.answers]
        written = write_verdicts(pairs, store=self.store, judge=Judge.of(self.spec))
        return written._replace(num_asked=decided.num_asked, cost_usd=decided.cost_usd)

    def _ask_pool(
        self, requests: Sequence[JudgeRequest], known: Mapping[str, Reply], budget_usd: float | None
    ) -> Iterator[BatchResult]:
        """Judge through Ray; the workers read what is `known` from the journal themselves."""
        import ray.data

        from emray.judge.workers import judge_pool, results

        batches = _in_batches(requests, size=BATCH * self.context.resources.judge_workers)
        tables = [request_table(batch) for batch in batches]
        with judge_pool(spec=self.spec, base_url=self.base_url, context=self.context, budget_usd=budget_usd) as pool:
            yield from results(pool.attach(ray.data.from_arrow(tables)))


@contextmanager
def streaming(*, inquiries: Inquiries, spec: JudgeSpec, base_url: str | None, context: Context) -> Iterator[JudgeRows]:
    """See `emray.judge.streaming`."""
    from emray.judge.workers import judge_pool, results

    _refuse_what_is_under_way(store=context.store)
    budget_usd = _budget_usd(spec, context.store)
    with judge_pool(spec=spec, base_url=base_url, context=context, inquiries=inquiries, budget_usd=budget_usd) as pool:
        yield lambda rows: follow(results(pool.attach(rows)), spec=spec, context=context)


def follow(done: Iterator[BatchResult], *, spec: JudgeSpec, context: Context) -> None:
    """Report progress, spend and speed. Raises StageError when verdicts are left out for their cost."""
    started_s, asked, cost_usd, skipped = context.clock(), 0, 0.0, 0
    for result in done:
        asked += result.num_asked
        cost_usd += result.cost_usd
        skipped += result.num_skipped
        rate = asked / max(1e-9, context.clock() - started_s)
        spend = "" if math.isnan(cost_usd) else f"${cost_usd:.2f} · "
        context.advance(result.num_verdicts + result.num_blank, f"{spend}{rate:.0f} requests/s")
    if skipped:
        raise StageError(
            f"judge.max_cost_usd = {spec.max_cost_usd:g} is reached with {skipped} verdicts missing; "
            "raise it and run again, everything paid for is kept"
        )


def _refuse_what_is_under_way(grouped: Groups | None = None, *, store: Store) -> None:
    """Raises StageError for requests (None: whatever they are) that batches of an earlier run may be answering."""

    def mine(key: str) -> bool:
        key = key.removesuffix(AGAIN)
        return key in grouped if grouped is not None else "." not in key  # keys of answers (generate's) have a dot

    refuse_what_is_under_way(store, mine=mine, setting="judge.mode")


def _budget_usd(spec: JudgeSpec, store: Store) -> float | None:
    """What this judge may still spend of judge.max_cost_usd. Raises SpecError where its price is not known."""
    if spec.max_cost_usd is None:
        return None
    if price_of(spec.model) is None:
        raise SpecError(f"judge.max_cost_usd is set, but prices.yaml has no price for {spec.model!r}; add one")
    costs: dict[str, float] = {}
    for part in store.iter_parts(Kind.VERDICTS, columns=["key", "cost_usd"]):
        costs.update((k, c or 0.0) for k, c in zip(part["key"].to_pylist(), part["cost_usd"].to_pylist(), strict=True))
    return max(0.0, spec.max_cost_usd - math.fsum(costs.values()))


def _use_journal(grouped: Groups, *, store: Store, spec: JudgeSpec, advance: Advance) -> dict[str, Reply]:
    """Turn journaled replies into their verdicts and take them off `grouped`.

    Returns the replies that cannot be read and were not asked about again yet.
    """
    parts = _Parts(store, Judge.of(spec))
    first: dict[str, Reply] = {}
    for key, reply in read_journal(store, wanted=set(grouped)):
        if spec.reask and is_unreadable(reply):
            first[key] = reply
        else:
            parts.add(key, grouped.pop(key), [reply])
    for again, second in read_journal(store, wanted={key + AGAIN for key in first}):
        key = again.removesuffix(AGAIN)
        parts.add(key, grouped.pop(key), [first.pop(key), second])
    parts.flush()
    compact(store)  # what a crash left in many small segments
    if parts.written:
        advance(parts.written, "from the journal")
    return first


class _Parts:
    """Verdict rows on their way into parts of ROWS_A_PART."""

    def __init__(self, store: Store, judge: Judge) -> None:
        self._store, self._judge = store, judge
        self._rows: list[dict[str, Any]] = []
        self.written = 0

    def add(self, key: str, tasks: Sequence[JudgeTask], replies: Sequence[Reply]) -> None:
        one = JudgeRequest(Request(key, {}), [Target.of(task) for task in tasks])
        self._rows += verdict_rows(one, Answer(tuple(replies)), judge=self._judge)
        if len(self._rows) >= ROWS_A_PART:
            self.flush()

    def flush(self) -> None:
        self._store.write_rows(Kind.VERDICTS, self._rows)
        self.written += len(self._rows)
        self._rows = []


def _in_batches(requests: Sequence[JudgeRequest], *, size: int) -> Iterator[Sequence[JudgeRequest]]:
    return (requests[start : start + size] for start in range(0, len(requests), size))
