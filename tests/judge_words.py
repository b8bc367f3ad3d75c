"""Judges that say one thing, as responders of the local server."""

from collections.abc import Mapping, Sequence
from typing import Any


def hm(messages: Sequence[Mapping[str, Any]]) -> str:
    """No verdict at all."""
    return "Hm, hard to say."


def refusal(messages: Sequence[Mapping[str, Any]]) -> str:
    """A verdict that is no score."""
    return "REFUSAL"
