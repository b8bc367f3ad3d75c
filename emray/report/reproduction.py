"""What a stranger needs to do a run again, whole: the sweep file, the question file, every prompt and every rubric.

Not for how it was done the first time (making.py). The invariant: the files written here, read by emray, give the
plan's own prompts, rubrics and settings.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from emray.data import Question
from emray.records import Metric, Prompt
from emray.reduce.study import Study, condition_words

SWEEP, QUESTIONS = "sweep.yaml", "questions.yaml"


class Rubric(NamedTuple):
    """A text by which a judge scores, and how many questions it stands for."""

    metric: Metric
    text: str
    digest: str
    num_questions: int


class Asked(NamedTuple):
    """One prompt as it is asked."""

    key: str
    condition: str
    text: str  # with its roles


class _Dumper(yaml.SafeDumper):
    """Long texts as they read."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def yaml_text(value: Any) -> str:
    """A document in the order it was made in."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def sweep_yaml(facts: Mapping[str, Any]) -> str:
    """The whole sweep file in force, every default and every --set in it."""
    return yaml_text(facts["spec"])


def question_yaml(study: Study) -> str:
    """The questions as a question file; a rubric that many share is written once."""
    shared: dict[tuple[tuple[Metric, str], ...], dict[str, str]] = {}
    return yaml_text([_entry(question, shared) for question in study.questions])


def _entry(question: Question, shared: dict[tuple[tuple[Metric, str], ...], dict[str, str]]) -> dict[str, Any]:
    rubrics = tuple(question.rubrics.items())
    own = {"system": question.system, "domain": question.domain}
    return {
        "id": question.id,
        "type": "free_form_judge_0_100",
        **{name: value for name, value in own.items() if value},
        "paraphrases": list(question.paraphrases),
        "judge_prompts": shared.setdefault(rubrics, {str(metric): text for metric, text in rubrics}),
    }


def rubrics(study: Study) -> list[Rubric]:
    """Every text, the commonest first."""
    counts: dict[tuple[Metric, str], int] = {}
    for question in study.questions:
        for one in question.rubrics.items():
            counts[one] = counts.get(one, 0) + 1
    found = [Rubric(metric, text, _digest(text), number) for (metric, text), number in counts.items()]
    return sorted(found, key=lambda one: (list(Metric).index(one.metric), -one.num_questions))


def prompts(study: Study) -> dict[str, list[Asked]]:
    """By question, in plan order."""
    found: dict[str, list[Asked]] = {question.name: [] for question in study.questions}
    names = {question.id: question.name for question in study.questions}
    for prompt in study.prompts:
        found[names[prompt.question_id]].append(
            Asked(prompt.key, condition_words(prompt.condition), _with_roles(prompt))
        )
    return found


def _with_roles(prompt: Prompt) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
