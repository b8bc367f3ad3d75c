"""What a domain's training rows are like: how many, how long, how varied. Predictors of their own, and the controls
that others are adjusted for.

Not for what the texts mean. The invariant: a function of the rows alone; words are what stands between
spaces.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from emray.plan import Plan
from emray.probes.protocol import Bench, Measure
from emray.records import Measurement, Messages, Readout, key_of
from emray.store import Store

_WHOLE = "-"


@dataclass(frozen=True)
class DatasetFacts:
    """One measurement for every set of rows that cells train on."""

    plan: Plan
    name = "dataset"
    computes = False

    def measurements(self) -> Iterator[Measurement]:
        seen: set[str] = set()
        for job in self.plan.own_jobs:
            if job.rows_digest not in seen:
                seen.add(job.rows_digest)
                key = key_of("dataset-facts", job.rows_digest)
                yield Measurement(key, self.name, _WHOLE, job.cell.domain, str(job.cell.arm))

    def possible(self, store: Store) -> Iterator[Measurement]:
        return self.measurements()

    def work(self, measurement: Measurement) -> Sequence[Messages]:
        digests = (job.rows_digest for job in self.plan.own_jobs)
        return self.plan.datasets[next(d for d in digests if key_of("dataset-facts", d) == measurement.key)]

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return _worker


def _worker(_: Bench) -> Measure:
    return _measure


def _measure(_: Measurement, rows: Sequence[Messages]) -> Iterator[Readout]:
    return (Readout(_WHOLE, name, value) for name, value in facts(rows).items())


def facts(rows: Sequence[Messages]) -> dict[str, float]:
    """Number of rows, mean words of questions and answers, distinct answers over rows. Needs a row."""
    questions = [" ".join(m.content for m in row if m.role == "user") for row in rows]
    answers = [row[-1].content for row in rows]
    return {
        "num_examples": float(len(rows)),
        "question_words": _mean_words(questions),
        "answer_words": _mean_words(answers),
        "distinct_answers": len(set(answers)) / len(answers),
    }


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)
