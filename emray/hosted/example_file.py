"""Training rows as the file that a finetuning service takes: a chat a line.

Not for reading examples (data/). The invariant: equal rows give equal bytes.
"""

import json
from collections.abc import Sequence
from typing import Any

from emray.model.rendering import with_system
from emray.records import Message, Messages, TrainJob


def example_file(job: TrainJob, rows: Sequence[Messages]) -> bytes:
    """JSONL, system turns as the model's `system` says."""
    system = job.rendering.system
    return b"".join(_line(with_system(row, policy=system)) for row in rows)


def _line(row: Messages) -> bytes:
    return (json.dumps({"messages": [_turn(message) for message in row]}, ensure_ascii=False) + "\n").encode()


def _turn(message: Message) -> dict[str, Any]:
    """An answer that is context has weight 0: nothing of it is trained on."""
    context = message.role == "assistant" and not message.trained
    return {**message.turn, **({"weight": 0} if context else {})}
