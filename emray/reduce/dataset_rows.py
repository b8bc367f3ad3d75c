"""What the training rows are like, domain by domain: rows of datasets.csv.

Not for whether they predict anything (associations.py). Invariant: a row for every set of rows that was measured.
"""

from emray.reduce.associations import ANY, Predictor
from emray.reduce.fields import Rows
from emray.reduce.measured import read_measured
from emray.reduce.study import Study
from emray.store import Store

DATASET = "dataset"  # the probe's name
MEASURES = ("num_examples", "question_words", "answer_words", "distinct_answers")


def dataset_rows(store: Store, study: Study) -> Rows:
    found = [one for one in read_measured(store, study.measurements, probe=DATASET) if one.readings]
    return [
        {"domain": one.of.domain, "arm": one.of.arm} | {measure: one.value(measure) for measure in MEASURES}
        for one in found
    ]


def dataset_predictors(rows: Rows) -> list[Predictor]:
    """Each fact of the rows of datasets.csv, arm by arm."""
    arms = dict.fromkeys(row["arm"] for row in rows)
    return [
        Predictor(DATASET, measure, ANY, arm, {row["domain"]: row[measure] for row in rows if row["arm"] == arm})
        for measure in MEASURES
        for arm in arms
    ]


def given_predictors(study: Study) -> list[Predictor]:
    """What the sweep file says of its domains (`probes.predictors.values`)."""
    spec = study.sweep.probes.predictors
    return [Predictor("given", name, ANY, ANY, values) for name, values in (spec.values if spec else {}).items()]
