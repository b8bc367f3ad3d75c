"""What the command's environment holds that its workers are not to have; and the one thing of it that some may ask for.

Not for endpoints' keys, which reach who needs them as arguments (endpoint/access.py). The invariant: a Ray started here
inherits no variable that is named like a key, but for those of the store and of Ray itself; the hub's token is lent to
workers that fetch a model, for as long as the command is connected.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from emray.spec.unkept import names_of_keys

_OF_THE_STORE = ("AWS_", "GOOGLE_", "AZURE_STORAGE_", "RAY_")
HUB_TOKEN = "HF_TOKEN"
_LENT = b"emray:hub-token"


@contextmanager
def keys_withheld() -> Iterator[None]:
    """Nothing that is started within the block inherits them."""
    names = [name for name in names_of_keys(os.environ) if not name.startswith(_OF_THE_STORE)]
    held = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(held)


@contextmanager
def hub_token_lent() -> Iterator[None]:
    """Within a connected Ray: whoever fetches from the hub anywhere in the cluster finds this command's token."""
    token = os.environ.get(HUB_TOKEN)
    if not token:
        yield
        return
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(_LENT, token.encode(), overwrite=True)
    try:
        yield
    finally:
        with suppress(Exception):  # Ray may be gone, and what it held with it
            internal_kv._internal_kv_del(_LENT)


def hub_token() -> str | None:
    """For one who fetches: from this process's environment, or lent by the command. None: what the library finds."""
    if token := os.environ.get(HUB_TOKEN):
        return token
    ray = sys.modules.get("ray")  # not imported for this alone
    if ray is None or not ray.is_initialized():
        return None
    from ray.experimental import internal_kv

    lent = internal_kv._internal_kv_get(_LENT)
    return lent.decode() if lent else None
