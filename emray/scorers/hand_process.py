"""The process of a `Hand`: a pattern or a function in, then a line an answer in and a line a score out.

Run as a script, and of the standard library alone, so that it starts at once. Not for a person. The invariant: only
this module writes to the pipe; what a function prints goes nowhere.
"""

import hashlib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_Result = tuple[str, float | None, str]  # outcome (MarkOutcome), score, note
_Score = Callable[[str, str, list[str]], _Result]
_LONGEST = 300  # characters of an exception


class _Refused(Exception):
    """Why nothing can be scored."""


def main() -> None:
    """Say whether it can begin, then score line by line until there are no more."""
    pipe = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def say(value: Any) -> None:
        pipe.write(json.dumps(value) + "\n")
        pipe.flush()

    told = json.loads(sys.argv[1])
    try:
        score, digest = _scorer(told)
    except _Refused as error:
        say({"refused": str(error)})
        return
    say({"digest": digest})
    for line in sys.stdin:
        say(score(*json.loads(line)))


def of_result(value: Any) -> _Result:
    """What a function gave back: yes or no, a number from 0 to 1, or None where there is nothing to score."""
    if value is None:
        return "unreadable", None, "its function found nothing to score"
    if isinstance(value, bool | int | float) and 0 <= value <= 1:  # NaN is not
        return "scored", float(value), ""
    return "error", None, f"its function gave {value!r:.60}, not a number from 0 to 1, a bool or None"


def _scorer(told: dict[str, Any]) -> tuple[_Score, str]:
    score = told["score"]
    if "regex" in score:
        return _by_pattern(score["regex"], slot=told["slot"]), ""
    sys.path[:0] = told["folders"]
    function, file = _imported(score["function"])
    return _by_function(function), hashlib.sha256(file.read_bytes()).hexdigest()[:20]


def _by_pattern(pattern: str, *, slot: str) -> _Score:
    def score(answer: str, question: str, right: list[str]) -> _Result:
        either = "(?:" + "|".join(map(re.escape, sorted(right, key=len, reverse=True))) + ")"
        return "scored", float(re.search(pattern.replace(slot, either), answer) is not None), ""

    return score


def _by_function(function: Callable[..., Any]) -> _Score:
    def score(answer: str, question: str, right: list[str]) -> _Result:
        try:
            return of_result(function(answer, question, right))
        except Exception as error:  # noqa: BLE001  whatever it raises is told of this answer
            return "error", None, _said(error)

    return score


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]


def _imported(path: str) -> tuple[Callable[..., Any], Path]:
    """The function and the file that it stands in."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # noqa: BLE001  whatever a module does when it is imported
        raise _Refused(f"{path}: {module_name} does not import: {_said(error)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise _Refused(f"{path}: {module_name} has no function {name}; there: {_functions(vars(module))}")
    try:
        inspect.signature(function).bind("answer", "question", [])
    except (TypeError, ValueError) as error:
        raise _Refused(f"{path} is called with an answer, a question and right answers: {error}") from None
    if inspect.iscoroutinefunction(function):
        raise _Refused(f"{path} is async; a plain function is asked for")
    file = inspect.getsourcefile(inspect.unwrap(function))
    if file is None or not Path(file).is_file():
        raise _Refused(f"{path} stands in no file that can be read, so its source cannot be told from another's")
    return function, Path(file)


def _functions(there: dict[str, Any]) -> str:
    names: Sequence[str] = [name for name, one in there.items() if inspect.isfunction(one) and name[0] != "_"]
    return ", ".join(names) or "none"


if __name__ == "__main__":
    main()
