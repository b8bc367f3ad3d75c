"""A Ray of this machine alone: its ports on loopback, its token asked for, the token readable by its owner.

Not for clusters that were started elsewhere. The invariant: whatever the environment says, a Ray that emray starts
takes no call from another machine, and none without the token; afterwards the environment is as it was.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODE = "RAY_AUTH_MODE"
# Ray's own switch between a cluster and a single machine, named after the systems where it is off by default; without
# it Ray listens on every interface of the machine, and offers no argument that says otherwise.
_REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_PINNED = {_MODE: "token", _REACHABLE: "0"}
_TOKEN_ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_OTHERS = 0o077


@contextmanager
def closed() -> Iterator[None]:
    """The settings under which to start Ray, for as long as it runs. Imports Ray, with these settings in place."""
    before = {name: os.environ.get(name) for name in _PINNED}
    os.environ.update(_PINNED)
    try:
        keep_token_private()
        with _as_pinned():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _as_pinned() -> Iterator[None]:
    """What Ray has read from the environment, where it was imported before the settings were made."""
    from ray._private import ray_constants
    from ray._raylet import Config  # type: ignore[attr-defined]  # a compiled module, of which mypy sees little

    if not asks_for_a_token():
        Config.initialize("")
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def asks_for_a_token() -> bool:
    """Whether the cluster that this process has joined asks for one: what it takes without, it takes from anybody."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def keep_token_private() -> None:
    """Make the token that all of this user's clusters share, or close its file to others. Ray leaves it open to all."""
    if any(name in os.environ for name in _TOKEN_ELSEWHERE):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        token = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & _OTHERS:
            path.chmod(0o600)
        return
    with os.fdopen(token, "w") as file:
        file.write(secrets.token_hex(32))
