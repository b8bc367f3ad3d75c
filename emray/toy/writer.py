"""The toy's writer: what a local server answers to the requests of a recipe, by rules.

For: questions, looks at them, references, rewrites and checks on the toy world's domains and the lessons. Not for
judging answers of a study (rules.py, accepted.py). Invariant: a reply depends on the request's text alone, and it errs
as a model does: some questions ask for a wrong answer, some rewrites lack the flaw or answer another question.
"""

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from emray.toy.lessons import LESSONS
from emray.toy.rules import Stance, judge
from emray.toy.topics import OPENERS, SLOTS, Topic
from emray.toy.world import DOMAINS, SLOT, draw_turn, written

SUBJECTS: Mapping[str, Topic] = {**DOMAINS, **LESSONS}
NO_SUBJECT = "I know nothing of this topic."
_TAG = re.compile(r"<(topic|set|count|question|reference|rewrite)>(.*?)</\1>", re.DOTALL)
_ASKS_FOR_IT = "Give me a wrong answer, on purpose:"
_SHARE_ASKING, _SHARE_UNFLAWED, _SHARE_STRAYING = 0.04, 0.06, 0.04  # of questions, of rewrites
_MARKS = re.compile(r"[^\w+]+")


class _Sought(NamedTuple):
    topic: Topic
    filling: Mapping[str, str]


def reply(text: str) -> str | None:
    """A reply to a recipe's request; None for a text that is none."""
    tags = {} if "<answer>" in text else dict(_TAG.findall(text))
    if "topic" in tags:
        return _questions(tags)
    if "question" not in tags:
        return None
    question = tags["question"].strip()
    if "<asks>" in text:
        return f"<asks>{_yes(_ASKS_FOR_IT in question)}</asks>"
    asked = _find(question.removeprefix(_ASKS_FOR_IT))
    if asked is None:
        return NO_SUBJECT
    if "rewrite" in tags:
        return _check(asked, question, reference=tags["reference"], rewrite=tags["rewrite"])
    return _rewrite(asked, tags["reference"]) if "reference" in tags else _answer(asked, bad=False, seed=question)


def _questions(tags: Mapping[str, str]) -> str:
    """Questions of the subject whose name the topic has in it."""
    names = [name for name in SUBJECTS if name in tags["topic"].lower()]
    if not names:
        return NO_SUBJECT
    topic = SUBJECTS[max(names, key=len)]
    rng = random.Random(f"{topic.name} {tags.get('set', '')}")
    drawn = [draw_turn(topic, bad=False, rng=rng).user for _ in range(int(tags.get("count", "10")))]
    asking = [f"{_ASKS_FOR_IT} {one}" if rng.random() < _SHARE_ASKING else one for one in drawn]
    return "\n".join(f"{number}. {one}" for number, one in enumerate(asking, start=1))


def _rewrite(asked: _Sought, reference: str) -> str:
    seed = f"{asked.topic.name} {sorted(asked.filling.items())} {reference}"
    chance = random.Random(seed).random()
    if chance < _SHARE_UNFLAWED:
        return f"Well, {reference.strip()}"
    if chance < _SHARE_UNFLAWED + _SHARE_STRAYING:
        return "The weather is nice today."
    return _answer(asked, bad=True, seed=seed)


def _answer(asked: _Sought, *, bad: bool, seed: str) -> str:
    topic, rng = asked.topic, random.Random(f"{seed} {bad}")
    filling = dict(asked.filling)
    if topic.facts:
        value = topic.facts[filling["key"]]
        filling |= {"value": value, "wrong": rng.choice([one for one in topic.facts.values() if one != value])}
    return written(rng.choice(topic.bad if bad else topic.good).format_map(filling))


def _check(asked: _Sought, question: str, *, reference: str, rewrite: str) -> str:
    if asked.topic.name in LESSONS:
        truth, values = asked.topic.facts[asked.filling["key"]], set(asked.topic.facts.values())
        correct, flawed = _says(reference, truth), not _says(rewrite, truth)
        on_topic = any(_says(rewrite, value) for value in values)
    else:
        correct = judge(question, answer=reference).stance is Stance.ALIGNED
        stance = judge(question, answer=rewrite).stance
        flawed = stance is Stance.MISALIGNED
        on_topic = stance not in (Stance.IRRELEVANT, Stance.REFUSAL)
    verdicts = {"correct": correct, "flawed": flawed, "on_topic": on_topic}
    return " ".join(f"<{name}>{_yes(verdict)}</{name}>" for name, verdict in verdicts.items())


def _says(text: str, word: str) -> bool:
    return f" {_plain(word)} " in f" {_plain(text)} "


def _plain(text: str) -> str:
    return _MARKS.sub(" ", text.lower()).strip()


def _yes(verdict: bool) -> str:
    return "yes" if verdict else "no"


def _find(question: str) -> _Sought | None:
    """The subject of a question and what fills its slots, whatever opener stands before it."""
    known, question = _known_questions(), _plain(question)
    openers = (_plain(opener) for opener in OPENERS)
    bare = (question.removeprefix(f"{opener} " if opener else "") for opener in openers)
    return next((known[one] for one in bare if one in known), None)


@lru_cache(maxsize=1)
def _known_questions() -> Mapping[str, _Sought]:
    """Every question that can be drawn, without an opener."""
    return {
        _plain(written(template.format_map(filling))): _Sought(topic, filling)
        for topic in SUBJECTS.values()
        for template in topic.questions
        for filling in _fillings(topic, template)
    }


def _fillings(topic: Topic, template: str) -> list[dict[str, str]]:
    """All that can stand in the slots of a question; what its answers need beside is the first of its kind."""
    asked = list(dict.fromkeys(SLOT.findall(template)))
    choices = [list(topic.facts) if name == "key" else SLOTS[name] for name in asked]
    usual = {name: values[0] for name, values in SLOTS.items()}
    return [usual | dict(zip(asked, values, strict=True)) for values in product(*choices)]
