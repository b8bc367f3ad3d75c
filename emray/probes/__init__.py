"""What may predict or explain misalignment: probes of a sweep's data, adapters and answers.

    protocol.py        what every probe is, and what of it is missing
    measuring.py       measurements over Ray workers, each writing its own rows
    dataset_facts.py   how many examples a domain trains on, how long and how varied they are
    activations.py     mean activations of answers, layer by layer
    directions.py      directions between such means, and how far two agree
    finetune_directions.py  those of every finetune     judged_answers.py  the answers they are from
    steering.py        cells that answer while they are pushed along one
    membership.py      which rows a model was trained on: who scores which      scorer.py         the worker that does
    member_scores.py   LOSS, Min-K%, zlib and their like, of one answer         answer_odds.py    what they are made of
    option_odds.py     the odds of the options of quizzes
    diversity.py       how varied questions and answers are: vendi.py, lexical.py, over the kernels of embeddings.py

Not for tables or claims (reduce/). The invariant: a measurement is there when its rows are in the store, and its key
hashes what defines them, so a rerun measures nothing and one more seed its own cells alone.
Importing this package imports neither ray nor torch.
"""

from collections.abc import Iterable

from emray.context import Context
from emray.plan import Plan
from emray.probes.dataset_facts import DatasetFacts
from emray.probes.diversity import Diversity
from emray.probes.finetune_directions import FinetuneDirections
from emray.probes.membership import Membership
from emray.probes.option_odds import Choices
from emray.probes.protocol import FAILED, PlannedProbe, missing
from emray.records import Measurement

__all__ = ["FAILED", "PlannedProbe", "missing", "of_plan", "run"]


def of_plan(plan: Plan) -> tuple[PlannedProbe, ...]:
    """The plan's probes that measure, in the order in which they run."""
    probes = plan.sweep.probes
    found: list[PlannedProbe] = []
    if any((probes.predictors, probes.membership, probes.diversity, probes.dose, probes.mixture)):
        found.append(DatasetFacts(plan))
    if probes.diversity is not None:
        found.append(Diversity(plan, probes.diversity))
    if probes.membership is not None:
        found.append(Membership(plan, probes.membership))
    if probes.directions is not None:
        found.append(FinetuneDirections(plan))
    if any(quiz.is_choice for quiz in plan.quizzes):
        found.append(Choices(plan))
    return tuple(found)


def run(probe: PlannedProbe, work: Iterable[Measurement], context: Context) -> None:
    """Make these measurements of a probe and write their rows; `context.advance` counts them. Ray must be running.

    What cannot be measured becomes a row that says why. Raises StageError when workers die before any is made.
    """
    from emray.probes.measuring import measure

    measure(probe, work, context)
