"""Worker actors that each own a part of all keys.

Not for one process alone (worker.py). A key's first digits decide which worker it belongs to, so that no request is
sent by two workers, whoever hands it in; a worker that died comes back with what the journal holds of its part. The
invariant: what the journal has is not asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emray.cluster import live_nodes
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.client import is_loopback
from emray.endpoint.ports import ClusterPort, RateLimits, limiter_name
from emray.endpoint.reply import Answer, Request
from emray.endpoint.worker import Worker, batches_at_once
from emray.errors import EmrayError, StageError, StoreError
from emray.store import Store

NO_CPUS = 0  # of whoever mostly waits: an engine takes whole ones, and a node may have but one
COMPLAINT_TIMEOUT_S = 5.0
RESTARTS = 100  # of one worker


class KeyRange:
    """The keys that belong to one of `num_parts` workers; a container for `Worker`."""

    def __init__(self, index: int, num_parts: int) -> None:
        self._index, self._num_parts = index, num_parts

    def __contains__(self, key: object) -> bool:
        return part_of(str(key), num_parts=self._num_parts) == self._index


def part_of(key: str, *, num_parts: int) -> int:
    """Which worker a key belongs to."""
    return int(key[:8], 16) % num_parts


def cluster_port(endpoint: Endpoint) -> ClusterPort:
    """The way to the one limiter that everybody shares who asks this endpoint for this model with this key."""
    spec, access = endpoint.spec, endpoint.access
    name = limiter_name(access.base_url or "openai", account=access.key, model=endpoint.model)
    return ClusterPort(name, RateLimits(spec.rpm, spec.tpm, spec.max_in_flight))


def beside(base_url: str | None, *, num_cpus: float) -> dict[str, Any]:
    """Options of whoever asks an endpoint; one on this process's loopback is out of reach for all nodes but this one.

    There it asks for no CPUs: the node of a driver may lend Ray few, or none.
    """
    host = urlsplit(base_url or "").hostname or ""
    if not is_loopback(host) or len(live_nodes()) == 1 or ray.util.client.ray.is_connected():
        return {"num_cpus": num_cpus}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


class KeyOwner:
    """The body of a worker actor: a Worker for one part of the keys."""

    def __init__(self, endpoint: Endpoint, store: Store, *, part: KeyRange, terms: Terms) -> None:
        self._worker = Worker(
            endpoint,
            store=store,
            port=partial(cluster_port, endpoint),
            wanted=part,
            terms=terms,
        )

    def answers(self, requests: list[Request]) -> list[Answer]:
        return self._worker.answers(requests)

    def complaint(self) -> str:
        return self._worker.complaint()


class Owners:
    """Workers at the ready, for whoever in the cluster holds this. Within an initialised Ray."""

    def __init__(self, endpoint: Endpoint, *, store: Store, num_workers: int, terms: Terms) -> None:
        body = ray.remote(KeyOwner).options(
            **{"scheduling_strategy": "SPREAD"} | beside(endpoint.access.base_url, num_cpus=NO_CPUS),
            max_restarts=RESTARTS,
            max_task_retries=-1,
            max_concurrency=2 * batches_at_once(endpoint.spec),
        )
        budget_usd = terms.budget_usd  # keys, and so cost, are spread evenly
        each = replace(terms, budget_usd=None if budget_usd is None else budget_usd / num_workers)
        self._actors = [
            body.remote(endpoint, store, part=KeyRange(index, num_workers), terms=each) for index in range(num_workers)
        ]

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """Each request answered by the worker that owns its key, in order; blocks. Raises what `Asker.ask` raises."""
        parts: list[list[int]] = [[] for _ in self._actors]
        for position, request in enumerate(requests):
            parts[part_of(request.key, num_parts=len(self._actors))].append(position)
        replies = [
            (part, actor.answers.remote([requests[position] for position in part]))
            for part, actor in zip(parts, self._actors, strict=True)
            if part
        ]
        answers: dict[int, Answer] = {}
        try:
            for part, reply in replies:
                answers.update(zip(part, ray.get(reply), strict=True))
        except (StageError, StoreError) as error:
            raise plain(error) from None
        except ray.exceptions.RayActorError as error:
            raise StageError(f"a worker that asks the endpoint died too often: {str(error).splitlines()[0]}") from None
        return [answers[position] for position in range(len(requests))]

    def complaint(self) -> str:
        """What one of the workers hears of the endpoint; empty when there is nothing, or nobody answers."""
        try:
            heard = ray.get([actor.complaint.remote() for actor in self._actors], timeout=COMPLAINT_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError):  # a worker that starts anew: the next look will tell
            return ""
        return next(filter(None, heard), "")

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def plain(error: EmrayError) -> EmrayError:
    """Our own error, out of the wrapper that Ray puts around what an actor raised."""
    cause: Any = getattr(error, "cause", error)
    return cause if isinstance(cause, EmrayError) else error
