"""Membership: how well finetunes, their base and a reference know rows that were trained on, and rows that were not.

One measurement for every finetune, and one for the base (and the reference) on each set of rows, whatever the number of
finetunes on it. Not for telling members from others (reduce/). The invariant: all that is scored of one answer comes
from one forward pass over it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from emray.data import rows_digest
from emray.model.rows import RowForm
from emray.model.weights import BaseModel
from emray.plan import Plan
from emray.probes.protocol import Bench, Measure
from emray.probes.scored import BASE, MEMBER, OTHER, REFERENCE, Scored
from emray.probes.subsample import subsample
from emray.records import Answerer, Measurement, TrainJob, key_of
from emray.spec import MembershipSpec
from emray.store import Store


@dataclass(frozen=True)
class Membership:
    """Scores of members and others by every model of the plan that trained on the members, or could have."""

    plan: Plan
    spec: MembershipSpec
    name = "membership"
    computes = True

    def measurements(self) -> Iterator[Measurement]:
        return (one for one, _ in self._wanted.values())

    def possible(self, store: Store) -> Iterator[Measurement]:
        records = store.adapter_records()
        for one in self.measurements():
            if one.adapter in (BASE, REFERENCE) or (one.adapter in records and records[one.adapter].trained):
                yield one

    def work(self, measurement: Measurement) -> Scored:
        _, job = self._wanted[measurement.key]
        members, others = self.plan.datasets[job.rows_digest], self.plan.held_out.get(job.rows_digest, ())
        rows = {MEMBER: subsample(members, most=self.spec.sample), OTHER: subsample(others, most=self.spec.sample)}
        reference = self.plan.references.get(job.cell.model)
        tuned = measurement.adapter not in (BASE, REFERENCE)
        return Scored(
            location=reference.location if reference and measurement.adapter == REFERENCE else job.model_path,
            adapter=measurement.adapter if tuned else "",
            whole=tuned and self.plan.weights[job.cell.key].answerer == Answerer.WHOLE,
            chat=job.model_path,
            rendering=job.rendering,
            rows=rows,
            form=self._form,
            lowest_share=self.spec.lowest_share,
        )

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return odds_worker

    @cached_property
    def _wanted(self) -> dict[str, tuple[Measurement, TrainJob]]:
        """By key; each set of rows once for the base and the reference. A model's own come one after another."""
        found: dict[str, tuple[Measurement, TrainJob]] = {}
        for job in self.plan.own_jobs:
            cell, base = job.cell, self._base(job)
            reference = self.plan.references.get(cell.model)
            for who, identity in ((BASE, base.identity), (REFERENCE, reference.identity if reference else None)):
                if identity is not None:
                    key = self._key([who, identity, base.identity], job)
                    place = Measurement(key, self.name, cell.model, cell.domain, str(cell.arm), adapter=who)
                    found.setdefault(key, (place, job))
            key = self._key(cell.key, job)
            tuned = Measurement(key, self.name, cell.model, cell.domain, str(cell.arm), cell.seed, cell.key)
            found[key] = (tuned, job)
        return found

    def _key(self, who: object, job: TrainJob) -> str:
        held_out = rows_digest(self.plan.held_out.get(job.rows_digest, ()))
        form = [self._form.max_length, self._form.cut]
        return key_of(self.name, [who, job.rows_digest, held_out, form, self.spec.identity()])

    @property
    def _form(self) -> RowForm:
        """As rows are trained on; scored are answers, whatever the loss was taken over."""
        return RowForm.of(self.plan.sweep.train)._replace(loss_on="answers")

    def _base(self, job: TrainJob) -> BaseModel:
        return BaseModel(job.model_path, self.plan.document["models"][job.cell.model], job.rendering)


def odds_worker(bench: Bench) -> Measure:
    """Reads the odds of answers that a `Scored` names."""
    from emray.probes.scorer import Scorer

    return Scorer(bench)
