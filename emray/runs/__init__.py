"""Runs side by side: `python -m emray.runs`.

    beside.py   the run folders of a store (the folder they lie in)
    gc.py       what no plan of a store wants, removed

Not for what happens within one run. The invariant: each run folder is whole by itself; what one has of another is its
own copy (on a disk a hard link), so any of them may be moved, renamed or deleted.
"""
