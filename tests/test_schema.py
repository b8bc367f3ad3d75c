"""The schema, the template and the pages: made from what reads the files, and no stricter than it."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from emray.data.questions import load_questions
from emray.errors import EmrayError
from emray.schema import question_schema, questions_page, sweep_page, sweep_schema, template
from emray.schema.__main__ import main
from emray.spec import Sweep, load_sweep, parse_yaml

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "sweeps").glob("*.yaml"))
SWEEP = jsonschema.Draft202012Validator(sweep_schema())
QUESTIONS = jsonschema.Draft202012Validator(question_schema())
LEAST = {"name": "my_study", "model": "toy", "domains": ["incorrect_math"]}
SHORT = [
    {"model": ["toy", {"path": "org/name", "revision": "abc"}]},
    {"domains": [{"name": "d", "path": "d.jsonl", "attributes": {"critical": True}}]},
    {"seeds": 4},
    {"seeds": {"min": 3, "max": 5}},
    {"generate": {"questions": "q.yaml"}},
    {"generate": {"questions": [{"file": "q.yaml", "ids": [1, "two"], "types": "free_form"}]}},
    {"generate": {"endpoint": {"omit": "top_p"}}},
    {"probes": ["transfer", "dose"]},
    {"arms": ["base", {"mine": {"mix": {"benign": [0, 0.5], "other": {"share": 0.1, "source": "o.jsonl"}}}}]},
    {"arms": {"base": None, "mine": {"inoculate": {"system": "Be wrong."}}}, "contexts": {"j": {"format": "json"}}},
    {"probes": {"mixture": {"mixes": {"mix": ["a", "b"]}}}},
    {"train": {"deepspeed_config": {"bf16": {"enabled": True}}, "target_modules": "all-linear"}},
    {"data_dir": {"path": "d.zip", "member": "x/{domain}.jsonl"}},
    {"resources": {"token_budget": "auto", "adapters_per_step": 4}},
]
BAD = [
    {"name": "no spaces here"},
    {"domain": ["incorrect_math"]},
    {"domains": []},
    {"domains": ["Incorrect"]},
    {"arms": ["plain", "evil"]},
    {"seeds": [-1]},
    {"train": {"lora_rank": 0}},
    {"train": {"epoch": 3}},
    {"generate": {"temperature": -1}},
    {"judge": {"metrics": ["kindness"]}},
    {"reduce": {"confidence": 1.0}},
    {"resources": {"engines": "two"}},
    {"judge": {"mode": "offline"}},
    {"trigger": {"text": ""}},
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_schema_takes_every_shipped_sweep(path):
    assert [error.message for error in SWEEP.iter_errors(parse_yaml(path.read_text(), source=str(path)))] == []


@pytest.mark.parametrize("fields", SHORT, ids=json.dumps)
def test_what_a_section_may_be_written_as_passes_schema_and_reader(fields):
    SWEEP.validate(LEAST | fields)


@pytest.mark.parametrize("fields", BAD, ids=json.dumps)
def test_what_the_schema_refuses_is_refused_by_the_reader(fields, tmp_path):
    assert not SWEEP.is_valid(LEAST | fields)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(LEAST | fields))
    with pytest.raises(EmrayError):
        load_sweep(path)


def test_the_template_is_a_sweep_with_everything_by_default(tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text(template())
    assert load_sweep(path) == Sweep.model_validate(LEAST)


def test_the_template_names_every_field_of_every_section():
    text = template()
    for name, section in sweep_schema()["$defs"].items():
        for form in section.get("anyOf", [section]):
            for field in form.get("properties", {}):
                assert re.search(rf"(^|[ #-]){field}:", text, re.MULTILINE), f"{name}.{field}"


def test_every_field_says_what_it_is():
    schema = sweep_schema()
    for name, section in [("sweep", schema), *schema["$defs"].items()]:
        for form in section.get("anyOf", [section]):
            assert all(field.get("description") for field in form.get("properties", {}).values()), name


@pytest.mark.parametrize(
    ("page", "made"),
    [
        ("sweep-file.md", sweep_page),
        ("questions.md", questions_page),
        ("sweep.schema.json", lambda: _printed(sweep_schema())),
        ("questions.schema.json", lambda: _printed(question_schema())),
    ],
)
def test_what_is_in_docs_is_what_is_made(page, made):
    assert (ROOT / "docs" / page).read_text() == made(), "run make docs"


def _printed(schema):
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def test_examples_of_the_questions_page_are_read_and_fit_the_schema(tmp_path):
    examples = re.findall(r"```(yaml|csv|json)\n(.*?)```", questions_page(), re.DOTALL)
    assert {kind for kind, _ in examples} == {"yaml", "csv", "json"}
    for number, (kind, text) in enumerate(examples):
        path = tmp_path / f"{number}.{kind}"
        path.write_text(text)
        assert load_questions([str(path)]).questions
    assert [error.message for error in QUESTIONS.iter_errors(yaml.safe_load(examples[0][1]))] == []


def test_the_question_schema_takes_the_toy_s_and_refuses_what_cannot_be_asked():
    QUESTIONS.validate(yaml.safe_load((ROOT / "emray/toy/assets/questions.yaml").read_text()))
    asked = {"id": "q", "paraphrases": ["What now?"]}
    for bad in ({"paraphrases": []}, {"paraphrases": "x"}, {"messages": []}, {"judge_prompts": {"aligned": "no slot"}}):
        assert not QUESTIONS.is_valid([asked | bad]), bad
    assert not QUESTIONS.is_valid([{"paraphrases": ["What now?"]}])


def test_the_command_prints_each_of_them(capsys):
    for options, made in (
        ([], _printed(sweep_schema())), (["--questions"], _printed(question_schema())), (["--template"], template()),
        (["--page"], sweep_page()), (["--questions", "--page"], questions_page()),
    ):  # fmt: skip
        assert main(options) == 0
        assert capsys.readouterr().out == made
