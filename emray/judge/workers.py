"""Judging through Ray Data: an operator that hands requests to the endpoint's workers and writes their verdicts.

Not for how a request is sent (emray.endpoint). The invariant: a block's verdicts are on the store before it is
reported, and a block that is repeated asks for nothing that the journal has.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from emray.context import Context
from emray.data import Inquiries
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.journal import compact
from emray.endpoint.pool import NO_CPUS, Owners
from emray.endpoint.worker import batches_at_once
from emray.errors import EmrayError, EndpointUnreachable, StageError, StoreError
from emray.judge.tasks import asked_about, follow_up, tasks_of, useless
from emray.judge.verdicts import (
    BatchResult,
    Judge,
    JudgeRequest,
    by_key,
    judge_batch,
    judge_requests,
    warm_up,
)
from emray.spec import JudgeSpec
from emray.store import Store

ErrorKind = {error.__name__: error for error in (StageError, EndpointUnreachable, StoreError)}


class Router:
    """What Ray Data runs: a table of generations in; a row of counts, or an error, out."""

    def __init__(self, owners: Owners, spec: JudgeSpec, store: Store, inquiries: Inquiries) -> None:
        self._owners, self._spec, self._store, self._inquiries = owners, spec, store, inquiries
        self._judge = Judge.of(spec)
        self._failed: EmrayError | None = None
        warm_up()

    def __call__(self, table: pa.Table) -> dict[str, Any]:
        try:
            if self._failed is not None:
                raise self._failed
            requests = self._requests(table)
            result = judge_batch(requests, ask=self._owners.answers, store=self._store, judge=self._judge)
            return _row(result._replace(num_blank=self._blank(table, requests)))
        except (StageError, StoreError) as error:
            self._failed = error
        return _row(error=self._failed)

    def _blank(self, table: pa.Table, requests: Sequence[JudgeRequest]) -> int:
        """Of a table of generations, the verdicts that no request will bring: failures, blanks, what `share` omits."""
        judged = asked_about(table, self._inquiries, where=self._store.root)
        return judged.num_rows * len(self._spec.metrics) - sum(len(one.targets) for one in requests)

    def _requests(self, table: pa.Table) -> list[JudgeRequest]:
        tasks = tasks_of(table, inquiries=self._inquiries, spec=self._spec, where=self._store.root)
        return judge_requests(by_key(list(tasks)), spec=self._spec)


class JudgePool:
    """Workers at the ready. `attach` them to a dataset, then follow its `results`."""

    def __init__(
        self,
        *,
        spec: JudgeSpec,
        base_url: str | None,
        context: Context,
        inquiries: Inquiries,
        budget_usd: float | None = None,
    ) -> None:
        self._spec, self._store, self._inquiries = spec, context.store, inquiries
        self._calls = batches_at_once(spec)
        self._owners = Owners(
            Endpoint.at(base_url, spec=spec, model=spec.model),
            store=context.store,
            num_workers=context.resources.judge_workers,
            terms=Terms(budget_usd, follow_up(spec), useless),
        )

    def attach(self, tables: "ray.data.Dataset") -> "ray.data.Dataset":
        """Judge every table of generations that comes by; yields rows of counts."""
        return tables.map_batches(
            Router,
            fn_constructor_args=(self._owners, self._spec, self._store, self._inquiries),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=1,
                max_concurrent_calls_per_actor=self._calls,
                max_tasks_in_flight_per_actor=2 * self._calls,
                enable_true_multi_threading=True,
            ),
            num_cpus=NO_CPUS,
        )

    def complaint(self) -> str:
        """See Owners.complaint."""
        return self._owners.complaint()

    def close(self) -> None:
        self._owners.close()


@contextmanager
def judge_pool(
    *,
    spec: JudgeSpec,
    base_url: str | None,
    context: Context,
    inquiries: Inquiries,
    budget_usd: float | None = None,
) -> Iterator[JudgePool]:
    """Workers for the length of the block, then a compact journal."""
    pool = JudgePool(spec=spec, base_url=base_url, context=context, inquiries=inquiries, budget_usd=budget_usd)
    try:
        yield pool
    finally:
        pool.close()
    compact(context.store)


def results(counts: "ray.data.Dataset") -> Iterator[BatchResult]:
    """Run an attached dataset; yields as blocks come back. Raises what a worker met."""
    for batch in counts.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        failed = next((i for i, kind in enumerate(batch["error_kind"]) if kind), None)
        if failed is not None:
            raise ErrorKind[batch["error_kind"][failed]](str(batch["error"][failed]))
        totals = {name: np.sum(batch[name]).item() for name in BatchResult._fields}
        yield BatchResult(**totals)


def _row(result: BatchResult | None = None, *, error: EmrayError | None = None) -> dict[str, Any]:
    counts = result or BatchResult(0, 0, 0.0)
    return {name: np.array([value]) for name, value in counts._asdict().items()} | {
        "error_kind": np.array([type(error).__name__ if error else ""]),
        "error": np.array([str(error) if error else ""]),
    }
