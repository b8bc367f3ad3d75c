"""Waiting is told: while nothing comes back, why not stands in the progress line.

Not for waiting itself (asker.py, limiter.py). The invariant: results pass through unchanged and in order.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from emray.endpoint.asker import span
from emray.progress import Advance

SILENT_S = 30.0  # what a person takes for work

T = TypeVar("T")


def telling(
    results: Iterator[T], *, advance: Advance, complaint: Callable[[], str | None], silent_s: float = SILENT_S
) -> Iterator[T]:
    """The results; when none has come for `silent_s`, the endpoint's last complaint is told, again and again."""
    ended, heard_s = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(silent_s / 3):
            silence_s = time.monotonic() - heard_s
            said = complaint() if silence_s >= silent_s else None
            if said is not None:
                advance(0, f"nothing for {span(silence_s)}: {said or 'no reply yet'}")

    thread = threading.Thread(target=tell, name="waits", daemon=True)
    thread.start()
    try:
        for result in results:
            heard_s = time.monotonic()
            yield result
            heard_s = time.monotonic()
    finally:
        ended.set()
        thread.join()
