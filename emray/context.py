"""What every stage is handed beside its work: where results go, how to compute, whom to tell, what time it is.

Not for what defines a result (the plan's). The invariant: it is frozen and reaches no key; a stage that needs more
gets it as work.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from emray.cluster import Hardware
from emray.progress import Advance, silent
from emray.spec import ResourcesSpec
from emray.store import Store


@dataclass(frozen=True)
class Context:
    """A run's surroundings."""

    store: Store
    resources: ResourcesSpec = field(default_factory=ResourcesSpec)
    advance: Advance = silent
    hardware: Hardware | None = None  # None: nothing here trains or loads a model
    clock: Callable[[], float] = time.monotonic  # seconds, for waits and rates

    @property
    def declared(self) -> Hardware:
        """The hardware, for a stage that computes."""
        assert self.hardware is not None, "what computes is told on what"
        return self.hardware
