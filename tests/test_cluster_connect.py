"""Connecting to Ray: what keeps its core from starting is one line, whatever Ray raises for it."""

import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest

from emray.cluster.connect import NOT_STARTED, _not_started, connected
from emray.errors import StageError


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_part_of_rays_core_that_dies_as_it_starts_is_told_in_one_line(part: str) -> None:
    """Ray waits half a minute for either."""
    over = threading.Event()
    killer = threading.Thread(target=_kill_when_it_comes, args=(part, over))
    killer.start()
    try:
        with (
            pytest.raises(StageError, match=f"^{NOT_STARTED}: .*; is this machine overloaded") as told,
            connected(None),
        ):
            pass
    finally:
        over.set()
        killer.join()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            Exception("The current node timed out during startup. This could\nhappen because"),
            "timed out during startup;",
        ),
        (RuntimeError("Failed to\n start GCS."), "Failed to start GCS;"),
        (TimeoutError(), "TimeoutError;"),
    ],
)
def test_what_ray_says_of_it_is_one_sentence(error: Exception, said: str) -> None:
    told = str(_not_started(error))
    assert said in told
    assert "\n" not in told


def _kill_when_it_comes(name: str, over: threading.Event) -> None:
    while not over.is_set():
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.name() == name:
                    child.send_signal(signal.SIGKILL)
                    return
        time.sleep(0.005)
