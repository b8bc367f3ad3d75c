"""All that a plan asks for, its probes' questions included: which stored rows are its own, and which verdicts count.

Not for counting them (tally.py). Invariant: a row is the plan's exactly when some table of the summary may count it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emray.data import QuizAnswers
from emray.records import Cell, Prompt, prompt_text
from emray.reduce.asked import EARLIER, OURS, PlanAsks
from emray.reduce.dose_rows import dose_study
from emray.reduce.steering_rows import steering_study
from emray.reduce.study import Study, load_study
from emray.reduce.transfer_rows import transfer_study
from emray.reduce.wanted import Wanted
from emray.stats.arrays import Ints, Mask
from emray.store import Keys

_CELL = ("model", "domain", "arm", "seed")
_PROMPT = ("question_id", "paraphrase", "condition")


class EverythingAsked(NamedTuple):
    """The answers of one plan, questionnaire by questionnaire, with what judges are asked about them."""

    asked: tuple[tuple[Wanted, PlanAsks], ...]
    cells: Mapping[str, Cell]  # all that train or answer, by key
    prompts: Mapping[str, Prompt]  # by the text of the `prompt` column; none where results are imported
    measurements: frozenset[str]  # keys of what probes are to measure
    quizzed: Keys  # answers to quizzes
    marks: Keys

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Of plan.json's content. Raises StoreError where it is no plan of this version."""
        study = load_study(document)
        studies, quizzed = studies_of(study), list(_quizzed(study))
        cells = {cell.key: cell for study in reversed(studies) for cell in study.cells}
        own = [prompt for study in reversed(studies) if not study.imported for prompt in study.prompts]
        named = [*(one.prompt for one in quizzed), *own]  # the sweep's own name comes last, and stays
        return cls(
            tuple((Wanted.of(study), PlanAsks.of(study)) for study in studies),
            cells,
            {prompt_text(prompt.messages): prompt for prompt in named},
            frozenset(one.key for one in study.measurements),
            Keys.of_columns(pa.array(one.generations, pa.string()) for one in quizzed),
            Keys.of_columns(pa.array(one.marks, pa.string()) for one in quizzed),
        )

    def answers(self, keys: pa.ChunkedArray) -> Mask:
        """Of each generation key, whether the plan wants it."""
        return np.logical_or.reduce([self.quizzed.has(keys), *(wanted.find(keys)[1] for wanted, _ in self.asked)])

    def verdicts(self, rows: pa.Table) -> Mask:
        """Of each verdict (generation, metric, asked, judge_key), whether a judge of the plan is asked for it."""
        return self._of_source(rows, lambda source: source != EARLIER)

    def own_verdicts(self, rows: pa.Table) -> Mask:
        """The same of the sweep's own judge, without those under `also`."""
        return self._of_source(rows, lambda source: source == OURS)

    def _of_source(self, rows: pa.Table, counts: Callable[[Ints], Mask]) -> Mask:
        chosen = np.zeros(rows.num_rows, dtype=bool)
        for wanted, asks in self.asked:
            position, found = wanted.find(rows["generation"])
            if found.any():
                chosen |= found & counts(asks.source(rows, wanted.prompt_at(position)))
        return chosen


def under_names(answers: pa.Table, *, cells: Mapping[str, Cell], prompts: Mapping[str, Prompt]) -> pa.Table:
    """Answers as a plan calls their cells and questions: names are in no key, and may have been others."""
    of_cell = [cells.get(key) for key in answers["adapter"].to_pylist()]
    of_prompt = [prompts.get(text) for text in answers["prompt"].to_pylist()]
    for names, nouns in ((_CELL, of_cell), (_PROMPT, of_prompt)):
        for name in names:
            own = pa.array([noun and getattr(noun, name) for noun in nouns], answers.schema.field(name).type)
            place = answers.schema.get_field_index(name)
            answers = answers.set_column(place, name, pc.coalesce(own, answers[name]))
    return answers


def _quizzed(study: Study) -> Iterator[QuizAnswers]:
    cells = [study.cells[index] for cells in study.places.values() for index in cells]
    for quiz in study.quizzes:
        yield from quiz.answers(cells, study.crossing, sampling=study.sweep.generate.identity())


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
