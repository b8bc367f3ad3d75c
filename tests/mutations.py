"""Seeded mutations of structured values: what a person, an export or a script gets wrong in a file, not pure noise."""

import copy
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, 1e400, float("nan"), 2**31, 2**70, "", " ", "x", "0", "\ud83d", "\x00",
    "{answer}", "{{question}}", [], [[]], [None], ["x"], {}, {"type": "text", "text": "part"}, {"a": {"b": []}},
)  # fmt: skip


def mutated(value: Any, *, rng: random.Random, keys: tuple[str, ...]) -> Any:
    """A deep copy with one to three changes: a place replaced, dropped, renamed, repeated or nested."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        parent, key = rng.choice(list(_places(root)))
        _change(parent, key, rng, keys)
        root = root or [None]
    return root[0]


def text_mutated(text: str, *, rng: random.Random) -> str:
    """A text with one edit: cut, doubled, a character put in or taken out."""
    at = rng.randrange(len(text) + 1)
    edits = (
        text[:at],
        text[:at] + rng.choice("{}[]\":,\n\t\\'-&*#%@ü\U0001f600") + text[at:],
        text[:at] + text[at + 1 :],
    )
    return rng.choice((*edits, text + text[at:], "\ufeff" + text, text.replace("\n", "\r\n")))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _change(parent: Any, key: Any, rng: random.Random, keys: tuple[str, ...]) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = [parent[key]]
    elif kind == 2 and isinstance(parent, dict):
        parent[rng.choice(keys)] = parent.pop(key)
    elif kind == 3 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == 4 and isinstance(parent, dict):
        parent[rng.choice(keys)] = copy.deepcopy(rng.choice(ODD))
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))
