"""What an entry of a question file says is right, and what there is to choose from.

Not for scoring (marks/). The invariant: texts are as they are written, outer spaces aside; options are at least two,
all different, with a right answer among them.
"""

import json
from collections.abc import Mapping
from typing import Any

from emray.errors import DataError

_SEPARATOR = "|"  # of several texts in a cell of a table


def right_answers(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Right answers and options; empty where the entry says nothing of them. Raises DataError (without the place)."""
    given = {name: _listed(entry[name], name) for name in ("answer", "answers") if entry.get(name) is not None}
    if len(given) > 1:
        raise DataError("answer and answers both say what is right; leave one out")
    right = next(iter(given.values()), ())
    options = _listed(entry["options"], "options") if entry.get("options") is not None else ()
    if options and len(options) < 2:
        raise DataError(f"options are at least two different texts, given {list(options)!r:.60}")
    if options and not set(right) & set(options):
        raise DataError(f"no right answer is among the options {list(options)!r:.60}: answers {list(right)!r:.60}")
    return right, options


def _listed(value: Any, name: str) -> tuple[str, ...]:
    """One text or number, or a list of them; a text of `answers` and `options` may be a list in JSON, or a|b."""
    if isinstance(value, str) and name != "answer":
        value = _in_a_cell(value)
    listed = value if isinstance(value, list) else [value]
    if not listed or any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in listed):
        raise DataError(
            f"{name} is a text or a number, or a list of them, given {value!r:.60} (yes and no stand in quotes)"
        )
    texts = tuple(dict.fromkeys(str(one).strip() for one in listed))
    if not all(texts):
        raise DataError(f"{name} holds an empty text")
    return texts


def _in_a_cell(text: str) -> list[Any]:
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        listed = None
    return listed if isinstance(listed, list) else text.split(_SEPARATOR)
