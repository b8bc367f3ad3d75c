"""Ray and the hardware behind it.

    connect.py     Ray, started late and quietly
    supply.py      what a cluster has and what its autoscaler may add
    hardware.py    what this command computes on, declared once

Not for scheduling. The invariant: whether work runs on GPUs is decided here and nowhere else.
Importing this package imports no Ray.
"""

from emray.cluster.connect import connected
from emray.cluster.hardware import Hardware, declare

__all__ = ["Hardware", "connected", "declare"]
