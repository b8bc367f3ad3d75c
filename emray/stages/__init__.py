"""The stages of one plan: what each has to do, and how they follow one another.

    work.py       what a stage misses, and doing it
    lost.py       adapters whose weights are gone, and needed again
    run.py        their order, waves, and judging as answers come
    ahead.py      what can be known before anything trains or is paid for
    fruitless.py  whether a stage left anything to go on with
    logbook.py    what is written down of a command: how it was called, its software, machines and time
    services.py   Ray and the judges that a sweep serves itself

Not for the command line (sweep.py) or for the work itself. The invariant: each stage does what the store lacks and
nothing else, so that running one again is always safe.
"""

from emray.stages.ahead import Ahead, check_keys, look_ahead
from emray.stages.logbook import Invocation, Logbook
from emray.stages.lost import needed_cells, trained_keys
from emray.stages.run import Run
from emray.stages.services import Services
from emray.stages.work import Generation, Judging, Marking, Probing, Stage, Training, is_trained_here

__all__ = [
    "Ahead", "Generation", "Invocation", "Judging", "Logbook", "Marking", "Probing", "Run", "Services", "Stage",
    "Training", "check_keys", "is_trained_here", "look_ahead", "needed_cells", "trained_keys",
]  # fmt: skip
