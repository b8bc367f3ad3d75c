"""How varied the training rows are, domain by domain: rows of diversity.csv, and what of it may predict a rate.

Not for measuring (probes/). Invariant: a row for every set of rows that was measured, and each of its parts.
"""

from collections.abc import Iterator

from emray.reduce.associations import ANY, Predictor
from emray.reduce.fields import Rows
from emray.reduce.measured import read_measured
from emray.reduce.study import Study
from emray.store import Store

DIVERSITY = "diversity"  # the probe's name
PARTS = ("questions", "answers", "both")
MEASURES = (
    "vendi_0.5", "vendi_1", "vendi_2", "mean_distance", "distinct_1", "distinct_2", "distinct_3", "moving_types",
    "compression", "unique_texts", "mean_words",
)  # fmt: skip
_PREDICT = ("vendi_0.5", "vendi_1", "vendi_2", "mean_distance", "distinct_2", "moving_types", "compression")


def column_of(measure: str) -> str:
    """`vendi_0.5` is column vendi_half."""
    return measure.replace("0.5", "half")


def diversity_rows(store: Store, study: Study) -> Rows:
    spec = study.sweep.probes.diversity
    kernel = spec.kernel if spec else ""
    return [
        {"domain": one.of.domain, "arm": one.of.arm, "part": part, "kernel": kernel.rpartition("/")[2] or kernel}
        | {"n_texts": one.value("num_texts", subject=part)}
        | {column_of(measure): one.value(measure, subject=part) for measure in MEASURES}
        for one in read_measured(store, study.measurements, probe=DIVERSITY)
        if one.readings
        for part in PARTS
    ]


def diversity_predictors(rows: Rows) -> Iterator[Predictor]:
    """From the rows of diversity.csv."""
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for part in PARTS:
            mine = [row for row in rows if (row["arm"], row["part"]) == (arm, part)]
            for measure in _PREDICT:
                column = column_of(measure)
                yield Predictor(DIVERSITY, f"{part} {column}", ANY, arm, {row["domain"]: row[column] for row in mine})
