"""What is damaged in a run folder, what it costs to have it again, and moving it out of the way.

    python -m emray.doctor RUN [--repair]

    examine(store)              everything, read to the last byte
    mend(store) -> notes        before a sweep: what a killed run may have left, moved aside
    repair(store, findings)     moves aside; what can be read of a damaged journal stays

Not for running a sweep, which does again what is missing. The invariant: nothing is deleted; what is moved lies under
`damaged/` by its old name, and killed anywhere, a repair can be begun again.
"""

from emray.doctor.checks import Finding, examine
from emray.doctor.repairs import ASIDE, mend, repair

__all__ = ["ASIDE", "Finding", "examine", "mend", "repair"]
