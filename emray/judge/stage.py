"""The judge stage: journaled replies become verdicts, the rest is asked for, window by window.

Not for how a request is sent (emray.endpoint) or for Ray (workers.py). The invariant: requests with one key are one
request, and what the journal holds is not asked for.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from functools import cached_property, partial
from itertools import groupby, islice
from typing import Any

from emray.context import Context
from emray.data import Inquiries
from emray.endpoint.asking import Asking, Endpoint, Terms
from emray.endpoint.batch.submission import refuse_what_is_under_way
from emray.endpoint.batch.transport import ROUND, BatchAsking
from emray.endpoint.journal import compact
from emray.endpoint.kept import KeptReplies, Replay
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.prices import price_of
from emray.endpoint.waits import telling
from emray.endpoint.worker import BATCH, Worker, batches_at_once
from emray.errors import SpecError, StageError
from emray.judge.tasks import AGAIN, JudgeTask, follow_up, judges, useless
from emray.judge.verdicts import (
    BatchResult,
    Judge,
    JudgeRequest,
    by_key,
    judge_batch,
    judge_requests,
    verdict_rows,
    warm_up,
)
from emray.records import Outcome
from emray.spec import TOY, JudgeSpec
from emray.store import Kind, Store

ROWS_A_PART = 10_000  # verdict rows written at once
WINDOW = 50_000  # tasks under way at a time: minutes of asking, some 100 MB

JudgeRows = Callable[[Any], None]  # takes a dataset of generations


def run(
    tasks: Iterable[JudgeTask], *, spec: JudgeSpec, base_url: str | None, context: Context, alone: bool = False
) -> None:
    """See `emray.judge.run`; `alone` judges in this process, without Ray."""
    if context.resources.retry_failed:
        context.store.delete_rows(Kind.VERDICTS, column="outcome", value=Outcome.API_ERROR)
    for number, mine in groupby(tasks, key=lambda task: task.judge):
        judge = judges(spec)[number]
        url = base_url if number == 0 or judge.base_url in (None, TOY) else judge.base_url
        with closing(_JudgeTurn(judge, url, context, alone=alone)) as turn:
            while window := list(islice(mine, ROUND if judge.mode == "batch" else WINDOW)):
                turn.judge(window)
        compact(context.store)  # only here: after an error a worker may still be writing


class _JudgeTurn:
    """One judge's turn: what it was asked before, and the way to ask it."""

    def __init__(self, spec: JudgeSpec, base_url: str | None, context: Context, *, alone: bool) -> None:
        self._spec, self._context, self._store = spec, context, context.store
        self._endpoint, self._alone = Endpoint.at(base_url, spec=spec, model=spec.model), alone
        self._judge = Judge.of(spec)
        compact(self._store)  # what a crash left in many small segments
        self._kept = KeptReplies(self._store)

    def judge(self, tasks: Sequence[JudgeTask]) -> None:
        """Write the verdicts of some tasks, those first that the journal has replies for."""
        left = self._use_journal(judge_requests(by_key(tasks), spec=self._spec))
        if left:
            if self._spec.mode == "online":
                _refuse_what_is_under_way({one.key for one in left}, store=self._store)
            follow(self._ask(left), spec=self._spec, context=self._context)

    def close(self) -> None:
        if "_asking" in self.__dict__:
            self._asking.close()

    @cached_property
    def _asking(self) -> Asking:
        """Whoever answers; opened when there is something to ask."""
        warm_up()
        terms = Terms(_budget_usd(self._spec, self._store), follow_up(self._spec), useless)
        if self._spec.mode == "replay":
            return Replay(self._store, follow_up=terms.follow_up)
        if self._spec.mode == "batch":
            return BatchAsking(
                self._endpoint, store=self._store, online=self._online, terms=terms, advance=self._context.advance
            )
        return self._online(terms) if self._alone else self._pool(terms)

    def _online(self, terms: Terms) -> Worker:
        """From this process."""
        limits = RateLimits(self._spec.rpm, self._spec.tpm, self._spec.max_in_flight)
        return Worker(self._endpoint, store=self._store, port=lambda: LocalPort(limits), terms=terms)

    def _pool(self, terms: Terms) -> Asking:
        """From workers of the cluster."""
        from emray.endpoint.pool import Owners

        workers = self._context.resources.judge_workers
        return Owners(self._endpoint, store=self._store, num_workers=workers, terms=terms)

    def _ask(self, requests: Sequence[JudgeRequest]) -> Iterator[BatchResult]:
        """Have requests answered, several batches at once; yields as these finish."""
        judge = partial(judge_batch, ask=self._asking.answers, store=self._store, judge=self._judge)
        size = self._num_together(requests)
        threads = ThreadPoolExecutor(batches_at_once(self._spec))
        try:
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            futures = as_completed([threads.submit(judge, batch) for batch in batches])
            done = (future.result() for future in futures)
            yield from telling(done, advance=self._context.advance, complaint=self._asking.complaint)
        finally:
            threads.shutdown(cancel_futures=True)

    def _num_together(self, requests: Sequence[JudgeRequest]) -> int:
        """Of one batch: all, unless they are asked online."""
        if self._spec.mode != "online":
            return len(requests)
        return BATCH * (1 if self._alone else self._context.resources.judge_workers)

    def _use_journal(self, requests: Sequence[JudgeRequest]) -> list[JudgeRequest]:
        """Turn journaled replies into their verdicts; returns the requests that are to be asked."""
        known = self._kept.journaled([one.request for one in requests], follow_up=follow_up(self._spec)).answers
        rows: list[dict[str, Any]] = []
        for one in requests:
            if one.key in known:
                rows += verdict_rows(one, known[one.key], judge=self._judge)
        for start in range(0, len(rows), ROWS_A_PART):
            self._store.write_rows(Kind.VERDICTS, rows[start : start + ROWS_A_PART])
        if rows:
            self._context.advance(len(rows), "from the journal")
        return [one for one in requests if one.key not in known]


@contextmanager
def streaming(*, inquiries: Inquiries, spec: JudgeSpec, base_url: str | None, context: Context) -> Iterator[JudgeRows]:
    """See `emray.judge.streaming`."""
    from emray.judge.workers import judge_pool, results

    _refuse_what_is_under_way(store=context.store)
    budget_usd = _budget_usd(spec, context.store)
    with judge_pool(spec=spec, base_url=base_url, context=context, inquiries=inquiries, budget_usd=budget_usd) as pool:
        told = partial(telling, advance=context.advance, complaint=pool.complaint)
        yield lambda rows: follow(told(results(pool.attach(rows))), spec=spec, context=context)


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


def _refuse_what_is_under_way(keys: Set[str] | None = None, *, store: Store) -> None:
    """Raises StageError for requests (None: whatever they are) that batches of an earlier run may be answering."""

    def mine(key: str) -> bool:
        key = key.removesuffix(AGAIN)
        return key in keys if keys is not None else "." not in key  # keys of answers (generate's) have a dot

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
