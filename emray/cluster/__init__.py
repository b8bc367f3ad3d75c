"""Ray and the hardware behind it.

    connect.py     Ray, started late and quietly
    closed.py      a Ray of this machine alone: loopback ports, its token
    withheld.py    keys that workers do not inherit; the hub's token, for those who fetch
    supply.py      what a cluster has and what its autoscaler may add
    hardware.py    what this command computes on, declared once
    sharing.py     whether every node sees the run folder
    attempts.py    one ledger of attempts for training and generation

Not for scheduling. The invariant: whether work runs on GPUs is decided here and nowhere else.
Importing this package imports no Ray.
"""

from emray.cluster.attempts import Attempts, Cause, FailedTry
from emray.cluster.connect import connected
from emray.cluster.hardware import ON_CPU, Hardware, NoGpuHere, declare, device_here
from emray.cluster.sharing import check_shared
from emray.cluster.supply import ON_HEAD, live_nodes
from emray.cluster.withheld import HUB_TOKEN, hub_token

__all__ = [
    "HUB_TOKEN",
    "ON_CPU",
    "ON_HEAD",
    "Attempts",
    "Cause",
    "FailedTry",
    "Hardware",
    "NoGpuHere",
    "check_shared",
    "connected",
    "declare",
    "device_here",
    "hub_token",
    "live_nodes",
]
