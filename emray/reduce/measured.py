"""What probes measured, as the plan asked for it: readings by measurement.

Not for what they mean (a module a probe). Invariant: the measurements are those of plan.json in its order, whatever
else the store has; one that failed or is not there has no readings.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from emray.records import Measurement, Readout
from emray.store import Kind, Store

FAILED = "failed"  # the measure of a row that says why there are no readings


class Measured(NamedTuple):
    """A measurement and what came of it."""

    of: Measurement
    readings: tuple[Readout, ...]  # by subject and measure; empty where it failed or is not there
    failure: str | None  # why there are none

    def value(self, measure: str, *, subject: str = "-") -> float:
        """One reading; NaN where there is none."""
        found = (one.value for one in self.readings if (one.measure, one.subject) == (measure, subject))
        return next(found, float("nan"))


def read_measured(store: Store, measurements: Sequence[Measurement], *, probe: str) -> list[Measured]:
    """Those of one probe, in the order of the plan; read in one pass."""
    wanted = {one.key: one for one in measurements if one.probe == probe}
    found: dict[str, dict[tuple[str, str], float]] = {key: {} for key in wanted}
    if wanted:
        keys = pa.array(list(wanted), pa.string())
        for part in store.iter_parts(Kind.MEASUREMENTS, columns=["key", "subject", "measure", "value"]):
            for row in part.filter(pc.is_in(part["key"], value_set=keys)).to_pylist():
                value = float("nan") if row["value"] is None else row["value"]
                found[row["key"]][row["subject"], row["measure"]] = value
    return [_measured(one, found[key]) for key, one in wanted.items()]


def _measured(of: Measurement, values: Mapping[tuple[str, str], float]) -> Measured:
    failures = [subject for subject, measure in values if measure == FAILED]
    if failures or not values:
        return Measured(of, (), failures[0] if failures else None)
    return Measured(of, tuple(Readout(*names, value) for names, value in sorted(values.items())), None)
