"""Runs side by side: `python -m emray.runs`.

    overview.py the runs of a store, one by one
    compare.py  two runs: plans and results
    watch.py    a page that follows one run, served on this machine alone
    looked_at.py how far one run is, from its folder alone
    beside.py   the run folders of a store (the folder they lie in)
    adopt.py    what a plan lacks and another run has, taken over
    standing.py what a run has of its plan, in one line
    gc.py       what no plan of a store wants, removed
    pack.py     a run in one file

Not for what happens within one run. The invariant: each run folder is whole by itself; what one has of another is its
own copy (on a disk a hard link), so any of them may be moved, renamed or deleted.
"""

from emray.runs.adopt import adopt, on_offer
from emray.runs.beside import NOWHERE, beside, name_of, runs_in
from emray.runs.standing import kept_line

__all__ = ["NOWHERE", "adopt", "beside", "kept_line", "name_of", "on_offer", "runs_in"]
