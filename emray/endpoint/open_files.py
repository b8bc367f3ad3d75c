"""Connections are open files, of which a process has a limited number.

Not for how many requests go out (limiter.py). The invariant: a worker that may have so many requests in flight can have
as many connections, or says in one line that it cannot.
"""

import resource

from emray.errors import StageError

SPARE = 256  # of Ray's, the journal's and the store's


def make_room(connections: int) -> None:
    """Raise this process's limit as far as that takes. Raises StageError where the machine allows fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StageError(
            f"max_in_flight: {connections:,} needs {needed:,} open files, this machine allows a process {hard:,}: "
            "lower it, or raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
