"""Who is asked which prompts how often, beside what every cell is asked.

Not for sampling. The invariant: answers to a questionnaire have the keys that they would have in any other, so what two
of them ask of one cell is asked once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from emray.data.prompts import ArmPrompts
from emray.data.questions import Question
from emray.records import Cell, Prompt


@dataclass(frozen=True)
class Questionnaire:
    """Prompts for cells; `name` says for what."""

    name: str
    cells: tuple[Cell, ...]
    questions: tuple[Question, ...]
    prompts: tuple[Prompt, ...]
    samples: int  # of each prompt

    @property
    def is_judged(self) -> bool:
        """Whether a judge is asked about the answers: a quiz's questions have no rubrics."""
        return any(question.rubrics for question in self.questions)


def questionnaires(
    name: str, cells: Sequence[Cell], questions: Sequence[Question], prompts: ArmPrompts, *, samples: int
) -> tuple[Questionnaire, ...]:
    """Every cell asked what its arm is asked; one for all arms that are asked the same."""
    alike: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(prompts.of_arm[cell.arm], []).append(cell)
    return tuple(
        Questionnaire(name, tuple(some), tuple(questions), tuple(prompts.prompts[place] for place in places), samples)
        for places, some in alike.items()
    )
