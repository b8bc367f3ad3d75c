"""What a run folder has of its plan, in one line.

Not for what it will take (estimate.py). The invariant: it only reads, and counts nothing that the plan does not want.
"""

from emray import plan as planning
from emray.plan import Plan
from emray.runs.beside import counted
from emray.stages import Judging, Training
from emray.store import Kind, Store


def kept_line(plan: Plan, store: Store) -> str | None:
    """As in `66 cells, 10,050 answers, 20,100 verdicts kept; 22 cells to train`; None where nothing is there."""
    to_train = sum(1 for _ in Training(plan).missing(store))
    answers = planning.wanted_answers(plan, plan.answering).common(store.keys(Kind.GENERATIONS))
    cells = len(plan.jobs) - to_train
    if not (cells or answers):
        return None
    parts = [(cells, "cell"), (len(answers), "answer"), (Judging(plan).missing(store).num_judged, "verdict")]
    kept = ", ".join(counted(number, noun) for number, noun in parts if number) + " kept"
    return f"{kept}; {counted(to_train, 'cell')} to train" if to_train else kept
