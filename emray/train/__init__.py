"""Training: cells in, adapters out. Ray Tune schedules, warm workers train.

    schedule.py   Ray Tune over all missing cells           trial.py        the warm worker under Ray Tune
    queue.py      which cell is next, retries, failures     warm.py         base model, tokenizer, datasets
    cell.py       one cell from base to adapter             adapter.py      LoRA on and off the base
    group.py      several cells in one step                 loop.py         optimizer steps
    zero.py       one cell over several processes           zero_states.py  their states, to go on from
    losses.py     the loss of a pass, and towards the base  states.py       a cell's state, to go on from
    order.py      which examples share a step
    cost.py       hours, memory, the strategy that fits     placement.py    what a trial takes of the cluster
    curves.py     loss curves for people

Not for what is missing (plan.py) or where adapters lie (store/). Importing this package imports no torch, no Ray.
"""

from collections.abc import Mapping, Sequence

from emray.context import Context
from emray.records import Messages, TrainJob
from emray.spec import TrainSpec


def run(
    jobs: Sequence[TrainJob], *, datasets: Mapping[str, Sequence[Messages]], spec: TrainSpec, context: Context
) -> None:
    """Train every job on the Ray cluster that is already connected; `datasets` holds the examples by rows digest.

    Each worker publishes its adapter as soon as it is trained. A cell that fails `resources.train_attempts` times is
    recorded as failed and does not stop the others. Raises StageError when a cell ended with neither.
    """
    from emray.train.schedule import train_cells

    if jobs:
        train_cells(jobs, datasets=datasets, spec=spec, context=context)
