"""Who is asked which prompts how often, beside what every cell is asked.

Not for sampling. The invariant: answers to a questionnaire have the keys that they would have in any other, so what two
of them ask of one cell is asked once.
"""

from dataclasses import dataclass

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
