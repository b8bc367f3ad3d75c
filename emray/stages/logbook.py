"""What is written down of a command while it works: once how it was called and with what software, then stage by stage
its time and machines.

Not for reading it (reduce/provenance.py). The invariant: the command's entry is there before its first stage begins, so
that work which a kill cut short is still known to have been done by somebody.
"""

import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from emray.cluster.machines import Machines, machine_here
from emray.reduce.inputs import COMMAND
from emray.reduce.provenance import sweep_key
from emray.software import source, versions
from emray.spec import Sweep
from emray.spec.unkept import key_in_url, names_of_keys
from emray.store import Store

_OVERRIDE = re.compile(r"[\w.\[\]-]+=")  # of a --set, or an option with its value


class Invocation(NamedTuple):
    """How a command was called."""

    line: str
    sweep: str  # key of the sweep file with every --set in it

    @classmethod
    def of(cls, module: str, words: Sequence[str], sweep: Sweep) -> "Invocation":
        """`python -m MODULE WORDS`, without what may be a key."""
        line = " ".join(["python", "-m", module, *(shlex.quote(_without_key(word)) for word in words)])
        return cls(line, sweep_key(sweep))


class Logbook:
    """Of one command in one run folder."""

    def __init__(self, store: Store, invocation: Invocation, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._invocation, self._clock = store, invocation, clock
        self._machines = Machines()
        self._begun = False

    def begin(self) -> None:
        """The command's entry, once."""
        if self._begun:
            return
        now_s = self._clock()
        self._store.log_stage(COMMAND, started_s=now_s, wall_s=0.0, details=self._command(now_s))
        self._begun = True

    @contextmanager
    def stage(self, name: str, **details: Any) -> Iterator[None]:
        """A stage's entry, once it ends well."""
        self.begin()
        started_s, began_s = self._clock(), time.monotonic()
        yield
        wall_s = time.monotonic() - began_s
        self._machines.look()
        details |= {"machines": self._machines.document()}
        self._store.log_stage(name, started_s=started_s, wall_s=wall_s, details=details)

    def _command(self, now_s: float) -> dict[str, Any]:
        return {
            "began": datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"),
            **self._invocation._asdict(),
            "versions": versions(),
            "source": source()._asdict(),
            "machine": {**machine_here()._asdict(), "gpus": list(machine_here().gpus)},
        }


def _without_key(word: str) -> str:
    """A word of a command line; a field or a URL with a credential in it keeps its name alone."""
    name, equals, value = word.partition("=") if _OVERRIDE.match(word) else ("", "", word)
    if key_in_url(value) or names_of_keys([name.rpartition(".")[2]]):
        return f"{name}{equals}..."
    return word
