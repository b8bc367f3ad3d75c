"""What a plan asked for, as the reducer needs it: cells, questions, conditions, and the group every answer falls into.

Not for what the store holds (tally.py). Invariant: groups are numbered (cell, condition, question) in plan order, so
an array over groups reshapes to [cell, condition, question].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from emray.data import ArmPrompts, Question, Quiz, arm_prompts
from emray.errors import StoreError
from emray.records import (
    USUAL_CONDITIONS,
    Arm,
    Cell,
    Condition,
    Measurement,
    Message,
    Place,
    Prompt,
    key_of,
    prompt_key,
)
from emray.records.plan_shape import misshapen
from emray.spec import Crossing, ReduceSpec, Sweep
from emray.stats.arrays import Ints
from emray.stats.power import AdaptiveRule, sequential_level


class Prompted(NamedTuple):
    """A place under one condition: what one row of most tables is about."""

    place: Place
    condition: Condition

    @property
    def columns(self) -> dict[str, str]:
        model, domain, arm = self.place
        return {"model": model, "domain": domain, "arm": str(arm), "condition": str(self.condition)}


def condition_words(condition: str) -> str:
    """A condition as a reader knows it."""
    return f"{condition} trigger" if condition in USUAL_CONDITIONS else f"context {condition}"


@dataclass(frozen=True)
class Study:
    """The plan, read back."""

    sweep: Sweep
    cells: tuple[Cell, ...]
    fractions: tuple[float, ...]  # of its training that each cell has seen: 1 but for checkpoints kept on the way
    adaptive: AdaptiveRule | None  # how seeds were added, half_width as a fraction; None: a fixed number
    own: ArmPrompts  # what the cells are asked, arm by arm
    questions: tuple[Question, ...]
    conditions: tuple[Condition, ...]
    models: Mapping[str, str]  # fingerprint by model name
    notes: tuple[str, ...]
    imported: bool  # other people's results: what is there is what was requested
    analysis_hash: str | None  # of the analysis plan in force
    analysis_plans: tuple[Mapping[str, Any], ...]  # every one the run folder has had: hash, first_written, ...
    measurements: tuple[Measurement, ...] = ()  # what probes were to measure
    transfer: Mapping[str, Any] | None = None  # what the transfer probe asks, as the plan has it
    steering: Mapping[str, Any] | None = None  # which cells answer while they are pushed, as the plan has them
    recipes: Sequence[Mapping[str, Any]] = ()  # cells on doses and mixtures, as the plan has them
    quizzes: tuple[Quiz, ...] = ()

    @property
    def spec(self) -> ReduceSpec:
        return self.sweep.reduce

    @cached_property
    def question_ids(self) -> tuple[str, ...]:
        return tuple(question.id for question in self.questions)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.own.prompts

    def conditions_of(self, arm: Arm) -> tuple[Condition, ...]:
        """Those in which an arm is asked, in plan order."""
        return self._conditions_by_arm[arm]

    def carries_trigger(self, arm: Arm) -> bool:
        """Whether an arm was trained with a trigger in some of its rows."""
        return arm == Arm.BACKDOOR if self.imported else self.crossing.recipes[arm].triggered is not None

    @cached_property
    def crossing(self) -> Crossing:
        return self.sweep.crossing()

    @cached_property
    def _conditions_by_arm(self) -> dict[Arm, tuple[Condition, ...]]:
        met = {arm: {self.prompts[place].condition for place in places} for arm, places in self.own.of_arm.items()}
        return {arm: tuple(one for one in self.conditions if one in some) for arm, some in met.items()}

    @property
    def num_groups(self) -> int:
        return len(self.cells) * len(self.conditions) * len(self.question_ids)

    @cached_property
    def level(self) -> float:
        """Confidence level of the t intervals: higher than nominal where seeds were added until they were narrow."""
        if self.adaptive is None:
            return self.spec.confidence
        return sequential_level(
            min_seeds=self.adaptive.min_seeds, max_seeds=self.adaptive.max_seeds, level=self.spec.confidence
        )

    @cached_property
    def places(self) -> dict[Place, tuple[int, ...]]:
        """Indices of each place's fully trained cells by rising seed, places in plan order."""
        return {place: by_fraction[1.0] for place, by_fraction in self.trajectories.items() if 1.0 in by_fraction}

    @cached_property
    def prompted(self) -> list[Prompted]:
        """Every place under every condition that it is asked in, in plan order."""
        return [Prompted(place, condition) for place in self.places for condition in self.conditions_of(place.arm)]

    def places_of(self, model: str, arm: Arm) -> list[Place]:
        return [place for place in self.places if (place.model, place.arm) == (model, arm)]

    @cached_property
    def trajectories(self) -> dict[Place, dict[float, tuple[int, ...]]]:
        """Indices of each place's cells by rising seed, per fraction of the training seen."""
        found: dict[Place, dict[float, list[int]]] = {}
        for index, (cell, fraction) in enumerate(zip(self.cells, self.fractions, strict=True)):
            found.setdefault(Place(cell.model, cell.domain, cell.arm), {}).setdefault(fraction, []).append(index)
        return {
            place: {f: tuple(sorted(ix, key=lambda i: self.cells[i].seed)) for f, ix in sorted(by_fraction.items())}
            for place, by_fraction in found.items()
        }

    def question(self, question_id: str) -> Question:
        return self.questions[self.question_ids.index(question_id)]

    def group(self, cell: int, prompt: Prompt) -> int:
        """The group of a cell's answers to a prompt; paraphrases of one question share it."""
        condition, question = self.conditions.index(prompt.condition), self.question_ids.index(prompt.question_id)
        return (cell * len(self.conditions) + condition) * len(self.question_ids) + question

    def groups_sq(self, place: Place, condition: Condition, *, fraction: float = 1.0) -> Ints:
        """Groups [S, Q] of a place under a condition."""
        num_questions = len(self.question_ids)
        cells = np.array(self.trajectories[place][fraction], dtype=np.int64)
        first = (cells * len(self.conditions) + self.conditions.index(condition)) * num_questions
        return first[:, None] + np.arange(num_questions)

    def groups_of(self, place: Place) -> Ints:
        """Every group of a place, flat."""
        return np.concatenate([self.groups_sq(place, condition).ravel() for condition in self.conditions_of(place.arm)])


def load_study(document: Mapping[str, Any]) -> Study:
    """Read `plan.json`'s content. Raises StoreError when it lacks what this version writes."""
    if problem := misshapen(document):
        raise StoreError(f"plan.json is not a plan of this version ({problem}); plan the sweep again")
    try:
        sweep = Sweep.model_validate(document["spec"])
        cells = tuple(map(cell_of, document["cells"]))
        questions = tuple(map(Question.from_document, document["questions"]))
        fractions = tuple(float(row.get("fraction", 1.0)) for row in document["cells"])
        adaptive = _adaptive(document.get("adaptive"))
        notes, models = tuple(document["notes"]), dict(document["models"])
        measurements = tuple(Measurement(**one) for one in document.get("measurements", ()))
        quizzes = tuple(map(Quiz.from_document, document.get("quizzes", ())))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"plan.json is not a plan of this version ({error!r}); plan the sweep again") from None
    conditions, imported = sweep.prompt_rules.conditions, bool(document.get("imported"))
    if imported:
        prompts = imported_prompts(questions, conditions=conditions)
        own = ArmPrompts(prompts, dict.fromkeys((cell.arm for cell in cells), tuple(range(len(prompts)))))
    else:
        own = arm_prompts(questions, sweep.crossing())
    digest, plans = document.get("analysis_hash"), tuple(document.get("analysis_plans", ()))
    return Study(
        sweep, cells, fractions, adaptive, own, questions, conditions, models, notes, imported, digest, plans,
        measurements, document.get("transfer"), document.get("steering"), tuple(document.get("recipes", ())),
        quizzes,
    )  # fmt: skip


def cell_of(row: Mapping[str, Any]) -> Cell:
    """A cell as plan.json holds it."""
    return Cell(row["model"], row["domain"], Arm(row["arm"]), row["seed"], row["key"])


def _adaptive(fields: Mapping[str, Any] | None) -> AdaptiveRule | None:
    """`seeds: {min, max, half_width}` of the sweep file, half_width in points of a rate."""
    return AdaptiveRule(fields["min"], fields["max"], fields["half_width"] / 100) if fields else None


def imported_prompts(questions: Sequence[Question], *, conditions: Sequence[Condition]) -> tuple[Prompt, ...]:
    """The prompts of other people's results: one a wording and condition, each with a key of its own.

    Two questions with one text stay two: whether a system prompt or a format told them apart is not known.
    """
    return tuple(
        _imported_prompt(question, paraphrase, condition)
        for question in questions
        for paraphrase in range(len(question.paraphrases))
        for condition in conditions
    )


def _imported_prompt(question: Question, paraphrase: int, condition: Condition) -> Prompt:
    text = question.paraphrases[paraphrase]
    messages = (Message("user", text),)
    plain = text == question.id and condition == Condition.WITHOUT
    key = prompt_key(messages) if plain else key_of("imported-prompt", [question.id, str(condition), text])
    return Prompt(question.id, paraphrase, condition, messages, key)
