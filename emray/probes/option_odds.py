"""Choices: the odds that a model gives each option of a quiz's questions, as whole answers under its chat template.

Not for which option is right (reduce/choice_marks.py). One measurement a cell and quiz. The invariant: nothing is
drawn, so no chance is in it; an option's odds are those of its tokens and of the token that ends an answer.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from emray.data import Quiz
from emray.model.rows import RowForm
from emray.plan import Plan
from emray.probes.membership import odds_worker
from emray.probes.protocol import Bench, Measure
from emray.probes.scored import Scored
from emray.records import Answerer, Arm, Cell, Measurement, Message, Messages, Prompt
from emray.store import Store

_WHOLE = RowForm(max_length=sys.maxsize)  # no option is cut; one that the model cannot take has no odds


@dataclass(frozen=True)
class Choices:
    """The quizzes of a plan that are scored by choice."""

    plan: Plan
    name = "choice"
    computes = True

    def measurements(self) -> Iterator[Measurement]:
        return (one for one, *_ in self._wanted.values())

    def possible(self, store: Store) -> Iterator[Measurement]:
        records = store.adapter_records()
        for one, cell, *_ in self._wanted.values():
            if cell.arm == Arm.BASE or (cell.key in records and records[cell.key].trained):
                yield one

    def work(self, measurement: Measurement) -> Scored:
        _, cell, prompts, quiz = self._wanted[measurement.key]
        weights = self.plan.weights[cell.key]
        rows: dict[str, Sequence[Messages]] = {
            prompt.key: [(*prompt.messages, Message("assistant", option)) for option in quiz.options(prompt)]
            for prompt in prompts
        }
        tuned = weights.answerer != Answerer.BASE
        return Scored(
            location=weights.location,
            adapter=cell.key if tuned else "",
            whole=weights.answerer == Answerer.WHOLE,
            chat=weights.location,
            rendering=weights.rendering,
            rows=rows,
            form=_WHOLE,
            lowest_share=1.0,
        )

    @property
    def worker(self) -> Callable[[Bench], Measure]:
        return odds_worker

    @cached_property
    def _wanted(self) -> dict[str, tuple[Measurement, Cell, tuple[Prompt, ...], Quiz]]:
        """By key, in the order of cells, so that an adapter is loaded once."""
        crossing = self.plan.sweep.crossing()
        finished = [cell for cell in self.plan.cells if cell.finished]
        found = {}
        for cell in finished:
            for quiz in filter(lambda one: one.is_choice, self.plan.quizzes):
                for _, prompts in quiz.asked([cell], crossing):
                    key, adapter = quiz.choice_key(cell, prompts), "" if cell.arm == Arm.BASE else cell.key
                    place = (cell.model, cell.domain, str(cell.arm), cell.seed)
                    found[key] = (Measurement(key, self.name, *place, adapter), cell, prompts, quiz)
        return found
