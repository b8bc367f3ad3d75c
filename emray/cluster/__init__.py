"""Ray and the hardware behind it.

    connect.py     Ray, started late and quietly
    supply.py      what a cluster has and what its autoscaler may add
    hardware.py    what this command computes on, declared once
    sharing.py     whether every node sees the run folder

Not for scheduling. The invariant: whether work runs on GPUs is decided here and nowhere else.
Importing this package imports no Ray.
"""

from emray.cluster.connect import connected
from emray.cluster.hardware import Hardware, declare
from emray.cluster.sharing import check_shared

__all__ = ["Hardware", "check_shared", "connected", "declare"]
