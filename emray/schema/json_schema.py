"""JSON Schema of the sweep file and of a question file.

Not for reading them. The invariant: whatever the schema refuses, emray refuses; emray refuses more, as a schema cannot
say what fits together.
"""

from typing import Any

from emray.data.questions import EARLIER_TURNS
from emray.records import Metric
from emray.spec import Sweep

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}
_LABEL = {"type": ["string", "integer"]}
_ANSWER = {"type": ["string", "number"]}
_ANSWERS = {"anyOf": [_ANSWER, {"type": "array", "items": _ANSWER, "minItems": 1}]}


def sweep_schema() -> Schema:
    """Of the sweep file (YAML or JSON)."""
    schema: Schema = _without_titles(Sweep.model_json_schema())
    return {"$schema": DIALECT, "title": "emray sweep file"} | schema


def question_schema() -> Schema:
    """Of a question file in emray's own form; what else is read, docs/questions.md tells."""
    rubrics = {str(metric): _TEXT | {"pattern": r"\{answer\}"} for metric in Metric}
    meaning = {
        "id": _LABEL | {"description": "names the question in every table; unique"},
        "paraphrases": {
            "type": "array",
            "items": _TEXT | {"minLength": 1},
            "minItems": 1,
            "description": "wordings; each is asked as often as generate.samples says",
        },
        "type": _TEXT | {"description": "free_form (the default) or a relative; others are refused"},
        "system": _TEXT | {"description": "system prompt before the question"},
        "domain": _LABEL | {"description": "what it is about: a domain of the sweep, for probes.transfer"},
        "answer": _ANSWERS | {"description": "for quizzes: what is right"},
        "answers": _ANSWERS
        | {"description": "for quizzes: several that are right; in a cell of a table with a bar between them"},
        "options": _ANSWERS | {"description": "for quizzes: what there is to choose from, a right answer among it"},
        "judge_prompts": {
            "type": "object",
            "properties": rubrics,
            "description": "rubric of each metric, with {question} and {answer}; default: the paper's",
        },
    }
    entry = {"type": "object", "properties": meaning, "required": ["id", "paraphrases"]}
    refused = {"not": {"anyOf": [{"required": [name]} for name in EARLIER_TURNS]}}
    return {
        "$schema": DIALECT,
        "title": "emray question file",
        "type": "array",
        "minItems": 1,
        "items": entry | refused,
    }


def _without_titles(schema: Any) -> Any:
    """The same without the titles that pydantic makes of names."""
    if isinstance(schema, list):
        return [_without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = {"properties", "$defs", "default"}  # below these, keys are names and not words of JSON Schema
    kept = {key: value for key, value in schema.items() if key != "title"}
    return {
        key: {name: _without_titles(one) for name, one in value.items()} if key in named and isinstance(value, dict)
        else _without_titles(value)
        for key, value in kept.items()
    }  # fmt: skip
