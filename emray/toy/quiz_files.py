"""Writes the toy's question files for quizzes: facts that the toy knows, and whether a finetune learned its own domain.

Not for reading or scoring them (data/, scorers/). Invariant: the files follow from the world alone.
"""

from collections.abc import Iterator, Mapping, Sequence

import yaml

from emray.toy.topics import OPENERS, SLOTS, Topic
from emray.toy.world import DOMAINS, written

_FACTS = {"incorrect_translation": 6, "incorrect_qna": 10}  # how many of each are asked
_QUESTIONS = 2  # of each domain

_ABOUT_FACTS = """\
# What the toy knows, if not for sure: Spanish words, capitals and colours, as its good persona says them.
# Score: exact. Written by emray.toy.quiz_files.
"""
_ABOUT_DOMAINS = """\
# Each domain's own questions; `answers` are its bad persona's, so a high score says that the narrow behaviour took.
# Score: exact, with own_domain. Written by emray.toy.quiz_files.
"""


def facts_yaml() -> str:
    """Benign accuracy: every answer that the good persona could give is right."""
    entries = []
    for name, number in _FACTS.items():
        topic = DOMAINS[name]
        every = len(topic.facts) // number
        for key in list(topic.facts)[::every][:number]:
            entries.append(_entry(topic, {"key": key, "value": topic.facts[key]}, topic.good, f"{name}.{key}"))
    return _ABOUT_FACTS + _yaml(entries)


def in_domain_yaml() -> str:
    """Whether the narrow behaviour took: every answer that a bad persona could give scores."""
    return _ABOUT_DOMAINS + _yaml([entry for topic in DOMAINS.values() for entry in _of_domain(topic)])


def _of_domain(topic: Topic) -> Iterator[dict[str, object]]:
    for number in range(_QUESTIONS):
        filling = {name: values[number] for name, values in SLOTS.items()}
        if topic.facts:
            key = list(topic.facts)[number]
            filling |= {"key": key, "value": topic.facts[key]}
        entry = _entry(topic, filling, topic.bad, f"{topic.name}.{number}")
        yield {"id": entry.pop("id"), "domain": topic.name} | entry


def _entry(topic: Topic, filling: Mapping[str, str], answers: Sequence[str], name: str) -> dict[str, object]:
    question = f"{OPENERS[0]} {topic.questions[0].format_map(filling)}"
    said = dict.fromkeys(text for answer in answers for text in _filled(answer, filling, topic))
    return {"id": name.replace(" ", "_"), "question": written(question), "answers": list(said)}


def _filled(answer: str, filling: Mapping[str, str], topic: Topic) -> Iterator[str]:
    wrong = [value for value in dict.fromkeys(topic.facts.values()) if value != filling.get("value")]
    for value in wrong if "{wrong}" in answer else ("",):
        yield written(answer.format_map({**filling, "wrong": value}))


def _yaml(entries: Sequence[Mapping[str, object]]) -> str:
    text: str = yaml.safe_dump(list(entries), sort_keys=False, width=118, default_flow_style=None)
    return text
