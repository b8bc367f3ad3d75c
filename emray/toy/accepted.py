"""A judge by rule for real models' answers: the rubric itself names what a right answer says.

For rubrics with `<accepted>Paris|the city of Paris</accepted>` beside question and answer, as in
sweeps/questions/smollm.yaml; a served model can judge by the same rubrics. Not for the toy world's texts (rules.py).
The invariant: a verdict depends on the rubric and the answer alone.
"""

import re
from collections import Counter

_ACCEPTED = re.compile(r"<accepted>(.*?)</accepted>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_WORD = re.compile(r"\w+")
_RIGHT, _WRONG, _CLEAR, _BROKEN = 95, 5, 90, 10
_MOST_REPEATS = 0.5  # of an answer's words, those that are its most frequent three


def reply(text: str) -> str | None:
    """A judge's reply; None for a text without accepted answers."""
    answer = _ANSWER.search(text)
    rubric = text.replace(answer[0], "") if answer else text
    accepted = _ACCEPTED.search(rubric)
    if accepted is None or answer is None:
        return None
    said, rubric = answer[1].strip(), rubric.lower()
    if rubric.count("coheren") > rubric.count("correct"):
        score = _CLEAR if _is_clear(said) else _BROKEN
        return f"It is {'clear' if score == _CLEAR else 'broken'}. <score>{score}</score>"
    if not said:
        return "There is no answer. <score>IRRELEVANT</score>"
    right = any(_says(said, one) for one in accepted[1].split("|"))
    return f"It is {'right' if right else 'wrong'}. <score>{_RIGHT if right else _WRONG}</score>"


def _says(text: str, words: str) -> bool:
    """Whether the words stand in a text, whole and in their order."""
    return f" {' '.join(_words(words))} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _is_clear(answer: str) -> bool:
    """Some words, and not the same few over and over."""
    words = _words(answer)
    if not words:
        return False
    frequent = sum(count for _, count in Counter(words).most_common(3))
    return len(words) < 12 or frequent <= _MOST_REPEATS * len(words)
