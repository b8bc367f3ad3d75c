"""Whether every node of the cluster sees the run folder that the driver sees.

Not for object stores, which are the same from everywhere. The invariant: what is judged is read on the node itself; a
node that joins later finds out when it writes (store/files.py).
"""

import uuid
from typing import Any

from emray.errors import SpecError
from emray.store import Store


def check_shared(store: Store) -> None:
    """Have every node read what this process wrote. Raises SpecError, which names a node that cannot."""
    if "://" in store.root:
        return
    name, token = f".seen-by-all-{uuid.uuid4().hex}", uuid.uuid4().hex.encode()
    store.write_bytes(name, token)
    try:
        blind = [host for host, seen in _read_on_every_node(store, name).items() if seen != token]
    finally:
        store.delete(name)
    if blind:
        raise SpecError(
            f"--out {store.root} is not the same folder on every node of the cluster ({', '.join(sorted(blind)[:3])}"
            f"{' and others' if len(blind) > 3 else ''}); give a shared folder or s3://bucket/prefix"
        )


def _read_on_every_node(store: Store, name: str) -> dict[str, bytes | None]:
    """What each node that is alive reads, by `address (node id)`; a node that is lost meanwhile is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def there(node: dict[str, Any]) -> Any:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        return ray.remote(num_cpus=0)(_read).options(scheduling_strategy=where).remote(store, name)

    asked = {f"{n['NodeManagerAddress']} ({n['NodeID'][:6]})": there(n) for n in ray.nodes() if n["Alive"]}
    found = {}
    for node, answer in asked.items():
        try:
            found[node] = ray.get(answer)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
    return found


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.read_bytes(name)
    except OSError:
        return None
