"""Diversity: how varied the questions, the answers and the pairs of each set of training rows are.

Not for what it predicts (reduce/). The invariant: a measurement hangs on the rows and the kernel alone, so every seed
and model of a domain shares it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from emray.plan import Plan
from emray.probes.embeddings import Kernel, kernel_identity
from emray.probes.lexical import lexical
from emray.probes.protocol import Bench, Measure
from emray.probes.subsample import subsample
from emray.probes.vendi import mean_distance, vendi
from emray.records import Measurement, Messages, Readout, TrainJob, key_of
from emray.spec import WORDS, DiversitySpec
from emray.store import Store

_ANY_MODEL = "-"
QUESTIONS, ANSWERS, BOTH = "questions", "answers", "both"  # subjects of readouts


@dataclass(frozen=True)
class Diversity:
    """One measurement for every set of rows that cells train on."""

    plan: Plan
    spec: DiversitySpec
    name = "diversity"

    @property
    def computes(self) -> bool:
        return self.spec.kernel != WORDS

    def measurements(self) -> Iterator[Measurement]:
        return (one for one, _ in self._wanted.values())

    def possible(self, store: Store) -> Iterator[Measurement]:
        return self.measurements()

    def work(self, measurement: Measurement) -> Sequence[Messages]:
        _, job = self._wanted[measurement.key]
        return subsample(self.plan.datasets[job.rows_digest], most=self.spec.sample, seed=self.spec.seed)

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return partial(_worker, kernel=self.spec.kernel)

    @cached_property
    def _wanted(self) -> dict[str, tuple[Measurement, TrainJob]]:
        identity = self.spec.identity() | {"kernel": kernel_identity(self.spec.kernel)}
        found: dict[str, tuple[Measurement, TrainJob]] = {}
        for job in self.plan.own_jobs:
            key = key_of(self.name, [job.rows_digest, identity])
            found.setdefault(key, (Measurement(key, self.name, _ANY_MODEL, job.cell.domain, str(job.cell.arm)), job))
        return found


def _worker(bench: Bench, *, kernel: str) -> Measure:
    if kernel != WORDS:
        import torch

        torch.set_num_threads(bench.threads)
    loaded = Kernel(kernel, device="cuda" if bench.gpu else "cpu")
    return lambda _, rows: readouts(rows, kernel=loaded)


def readouts(rows: Sequence[Messages], *, kernel: Kernel) -> Iterator[Readout]:
    """Every measure of questions, answers and both. The kernel of both is the mean of the two kernels."""
    questions = ["\n".join(message.content for message in row if message.role == "user") for row in rows]
    answers = [row[-1].content for row in rows]
    asked, answered = kernel.units(questions), kernel.units(answers)
    pairs = np.hstack([asked, answered]) / 2**0.5
    together = [f"{question}\n{answer}" for question, answer in zip(questions, answers, strict=True)]
    kinds = ((QUESTIONS, questions, asked), (ANSWERS, answers, answered), (BOTH, together, pairs))
    for subject, texts, units in kinds:
        there = units[np.linalg.norm(units, axis=1) > 1 - 1e-6]  # what has no word is like nothing, not even itself
        yield Readout(subject, "num_texts", float(len(there)))
        yield from (Readout(subject, f"vendi_{order:g}", value) for order, value in vendi(there).items())
        yield Readout(subject, "mean_distance", mean_distance(there))
        yield from (Readout(subject, name, value) for name, value in lexical(texts)._asdict().items())
