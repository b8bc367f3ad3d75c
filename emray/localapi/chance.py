"""Which calls go wrong, and how late the others are: seeded, and independent of the order they arrive in.

Not for what a fault does (server.py, batch_desk.py). The invariant: a draw is a function of the seed, the request's
body and how often that body came before.
"""

import hashlib
from collections.abc import Mapping


class Chances:
    """Named shares of a whole; what is left over is nothing in particular."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._bounds: list[tuple[str, float]] = []
        total = 0.0
        for name, share in shares.items():
            total += share
            if share:
                self._bounds.append((name, total))

    def pick(self, draw: float) -> str | None:
        """The name that a uniform draw falls on."""
        return next((name for name, upper in self._bounds if draw < upper), None)


def draws(seed: int, digest: str, repetition: int) -> tuple[float, float]:
    """Two uniform numbers: the first in [0, 1), the second in (0, 1)."""
    source = hashlib.blake2b(f"{seed}/{digest}/{repetition}".encode(), digest_size=16).digest()
    first, second = int.from_bytes(source[:8], "big"), int.from_bytes(source[8:], "big")
    return first / 2**64, (second + 1) / (2**64 + 2)
