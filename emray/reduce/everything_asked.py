"""All that a plan asks for, its probes' questions included: which stored rows are its own, and which verdicts count.

Not for counting them (tally.py). Invariant: a row is the plan's exactly when some table of the summary may count it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from emray.reduce.asked import EARLIER, PlanAsks
from emray.reduce.dose_rows import dose_study
from emray.reduce.steering_rows import steering_study
from emray.reduce.study import Study, load_study
from emray.reduce.transfer_rows import transfer_study
from emray.reduce.wanted import Wanted
from emray.stats.arrays import Mask


class EverythingAsked(NamedTuple):
    """The answers of one plan, questionnaire by questionnaire, with what judges are asked about them."""

    asked: tuple[tuple[Wanted, PlanAsks], ...]
    cells: frozenset[str]  # keys of all that train or answer
    measurements: frozenset[str]  # keys of what probes are to measure

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Of plan.json's content. Raises StoreError where it is no plan of this version."""
        studies = studies_of(load_study(document))
        cells = frozenset(cell.key for study in studies for cell in study.cells)
        measurements = frozenset(one.key for one in studies[0].measurements)
        return cls(tuple((Wanted.of(study), PlanAsks.of(study)) for study in studies), cells, measurements)

    def answers(self, keys: pa.ChunkedArray) -> Mask:
        """Of each generation key, whether the plan wants it."""
        return np.logical_or.reduce([wanted.find(keys)[1] for wanted, _ in self.asked])

    def verdicts(self, rows: pa.Table) -> Mask:
        """Of each verdict (generation, metric, asked, judge_key), whether a judge of the plan is asked for it."""
        counts = np.zeros(rows.num_rows, dtype=bool)
        for wanted, asks in self.asked:
            position, found = wanted.find(rows["generation"])
            if found.any():
                counts |= found & (asks.source(rows, wanted.prompt_at(position)) != EARLIER)
        return counts


def studies_of(study: Study) -> tuple[Study, ...]:
    """The sweep's own study, then what its probes ask beside it."""
    found = [study]
    if study.transfer is not None:
        found.append(transfer_study(study, study.transfer))
    if study.recipes:
        found.append(dose_study(study))
    if study.steering is not None:
        found.append(steering_study(study, study.steering))
    return tuple(found)
