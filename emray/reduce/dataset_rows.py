"""What the training rows are like, domain by domain: rows of datasets.csv.

Not for what they predict. Invariant: a row for every set of rows that was measured.
"""

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
