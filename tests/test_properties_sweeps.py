"""Sweep files and the YAML of all files: what is read means what everyone reads, all else is refused in a line."""

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from emray import data
from emray.errors import DataError, SpecError
from emray.spec import Sweep, grid, load_sweep, parse_yaml
from emray.spec.explain import _fields_at
from tests.commands import ROOT
from tests.mutations import mutated, text_mutated

BASE = "name: x\nmodel: toy\ndomains: [incorrect_math]\n"
HEAVY = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = [
    ("train: {epochs: yes}", "train.epochs: input should be a valid number, given True"),
    ("train: {learning_rate: on}", "train.learning_rate: input should be a valid number, given True"),
    ("generate: {samples: true}", "generate.samples: input should be a whole number, given True"),
    ("judge: {rpm: no}", "judge.rpm: input should be a valid number, given False"),
    ("seeds: [yes, no]", "seeds.0: input should be a whole number"),
    ("train: {epochs: 1:30}", "given '1:30'"),
    ("train: {lora_rank: 1:30}", "given '1:30'"),
    ("train: {lora_rank: 010}", "given '010'"),
    ("train: {batch_size: 0b11}", "given '0b11'"),
    ("train: {epochs: 1_}", "given '1_'"),
    ('train: {epochs: "3"}', "given '3'"),
    ('train: {rslora: "yes"}', "train.rslora: input should be a valid boolean, given 'yes'"),
    ("train: {rslora: 1}", "train.rslora: input should be a valid boolean, given 1"),
    ("train: {epochs: .inf}", "finite number"),
    ("train: {epochs: .nan}", "finite number"),
    ("train: {lora_rank: 3.5}", "train.lora_rank"),
    ("model: {path: toy, date: 86400}", "key 'model' stands twice"),
    ("? [a, b]\n: 1", "a key is a text or a number"),
    ("? {a: b}\n: 1", "a key is a text or a number"),
    ("name: y", "s.yaml:4: not valid YAML: key 'name' stands twice"),
    ("train:\n\tepochs: 1", "s.yaml:5: not valid YAML"),
    ("# \x00", "not valid YAML: unacceptable character"),
    ("train: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not read"),
    ("seeds: !!set {1, 2}", "the tag !!set is not read"),
    ("trigger: {text: !!binary aGVsbG8=}", "the tag !!binary is not read"),
    ('seeds: !!int ""', "the tag !!int is not read"),
    ("train: !mine {}", "the tag !mine is not read"),
    ("---\nname: y", "found another document"),
    ("seeds: " + "9" * 5000, "a number of 5000 digits"),
    ("seeds: 0x" + "f" * 5000, "a number of 5002 digits"),
    ("x: &x [*x]", "alias *x stands within its own anchor"),
    ("train: &t {<<: *t}", "alias *t stands within its own anchor"),
    ("train: {<<: 3}", "expected a mapping or list of mappings"),
    ("x: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    (HEAVY, "aliases unfold into more than 1,000,000 values"),
    ("domains: [no]", "key 'domains' stands twice"),
    ('trigger: {text: "\\ud83d"}', "trigger.text"),
    ('generate: {engine: openai, endpoint: {extra_body: {a: ["\\ud83d"]}}}', "half of a surrogate pair"),
    ("generate: {engine: openai, endpoint: {extra_body: {a: .nan}}}", "is no number that JSON has"),
]


@pytest.mark.parametrize(("lines", "message"), REFUSED, ids=[lines[:24] for lines, _ in REFUSED])
def test_what_yaml_would_turn_into_something_else_is_refused_in_one_line(
    tmp_path: Path, lines: str, message: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BASE + lines + "\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_sweep(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("raw", [b"", b"---\n", b"null\n", b"- a\n", BASE.encode("utf-16"), BASE.encode() + b"# \xe9"])
def test_an_empty_file_and_one_that_is_no_utf_8_text_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "s.yaml").write_bytes(raw)
    with pytest.raises(SpecError, match=r"a sweep file is a mapping of fields|cannot read sweep file"):
        load_sweep(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10_000_000", 10_000_000), ("0x10", 16), ("-3", -3), ("1.5e3", 1500.0), (".5", 0.5), ("+1e-4", 1e-4),
        ("off", False), ("~", None), ("2024-07-26", "2024-07-26"), ("2028-13-45", "2028-13-45"), ("007", "007"),
        ("1:30", "1:30"), ("=", "="), ("!!str 3", "3"), ("1_", "1_"), ("1__0", "1__0"),
    ],
)  # fmt: skip
def test_a_value_is_what_is_written(text: str, value: object) -> None:
    read = parse_yaml(text, source="s")
    assert read == value and type(read) is type(value)


def test_merged_fields_may_be_overwritten_and_anchors_used_often() -> None:
    text = "- &a {x: 1, y: 1}\n- {p: {q: &b {<<: *a, x: 2}}}\n- {<<: *b, y: 3}\n" + "- *a\n" * 500
    assert parse_yaml(text, source="s")[2] == {"x": 2, "y": 3}


@pytest.mark.parametrize("text", ["- &a {id: a, x: *a}\n", HEAVY, "[" * 5000, "? [a]\n: 1\n", "- !!python/name:os.x\n"])
@pytest.mark.parametrize("name", ["q.yaml", "q.json", "q.jsonl"])
def test_a_question_file_that_unfolds_without_end_is_refused_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        data.load_questions([str(tmp_path / name)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("deep", ['{"a":' * 700 + "1" + "}" * 700, "[" * 700 + "]" * 700])
def test_deep_json_is_refused_wherever_it_stands(tmp_path: Path, deep: str) -> None:
    (tmp_path / "d.jsonl").write_text(f'{{"messages": [{{"role": {deep}, "content": "x"}}]}}\n')
    (tmp_path / "q.json").write_text(f'[{{"id": "a", "paraphrases": [{deep}]}}]')
    with pytest.raises(DataError, match="nested too deeply"):
        data.load_examples(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="nested too deeply"):
        data.load_questions([str(tmp_path / "q.json")])


SHIPPED = [parse_yaml(path.read_text(), source=path.name) for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
SECTIONS = ("model", "seeds", "trigger", "train", "generate", "judge", "reduce", "analysis", "probes", "resources")
KEYS = tuple({name for section in ((), *[(name,) for name in SECTIONS]) for name in _fields_at(section, Sweep)})


def check(path: Path, fields: Any) -> bool:
    """Whether the file is a sweep; one that is has keys, a grid and a document, and no number that was none."""
    try:
        sweep = load_sweep(path)
    except SpecError as error:
        assert "\n" not in str(error), str(error)
        return False
    document = sweep.model_dump(mode="json")
    json.dumps([document, sweep.train.identity(), sweep.generate.identity()], allow_nan=False).encode()
    assert Sweep.model_validate(document) == sweep
    assert len(list(islice(grid(sweep), 4))) and sweep.analysis_hash() != ""
    assert list(turned(fields, document)) == []
    return True


def turned(given: Any, read: Any, place: str = "") -> Any:
    """Places where something else than a number was read as one, or a number as a yes or no."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key in given.keys() & read.keys():
            yield from turned(given[key], read[key], f"{place}.{key}")
    elif isinstance(given, list) and isinstance(read, list):
        for number, (one, other) in enumerate(zip(given, read, strict=False)):
            yield from turned(one, other, f"{place}.{number}")
    elif isinstance(read, bool | int | float) and given is not None and place != ".seeds" and not same(given, read):
        yield place, given, read


def same(given: Any, read: Any) -> bool:
    """Whether both are a yes or no, or both numbers."""
    return isinstance(read, bool) is isinstance(given, bool) and isinstance(given, int | float)


def test_ten_thousand_wrong_sweep_files_are_sweeps_or_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Structured mistakes in the shipped sweeps: a wrong type in a field, one dropped, renamed, nested, repeated."""
    rng, num_read, fields = random.Random(17), 0, None
    (tmp_path / "s.yaml").write_text(BASE)
    monkeypatch.setattr("emray.spec.file.parse_yaml", lambda text, *, source: fields)
    for number in range(10_000):
        fields = mutated(SHIPPED[number % len(SHIPPED)], rng=rng, keys=KEYS)
        num_read += check(tmp_path / "s.yaml", fields)
    assert 500 < num_read < 9_500


@pytest.mark.parametrize("times", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_sweep_files_with_a_slip_in_their_text_are_sweeps_or_one_line(tmp_path: Path, times: int) -> None:
    rng, num_read = random.Random(23), 0
    texts = [yaml.safe_dump(fields) for fields in SHIPPED]
    for number in range(times):
        text = text_mutated(texts[number % len(texts)], rng=rng)
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        num_read += check(tmp_path / "s.yaml", {})
    assert 0 < num_read < times


def test_every_field_refuses_every_wrong_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One odd value at a time in each field of each section that a sweep may have."""
    odd = (None, True, "3", "yes", [], {}, [[]], {"a": 1}, 2**70, float("nan"), "\ud83d", -1, 1e400, [True], [None])
    (tmp_path / "s.yaml").write_text(BASE)
    fields: Any = None
    monkeypatch.setattr("emray.spec.file.parse_yaml", lambda text, *, source: fields)
    base = yaml.safe_load(BASE)
    for section in SECTIONS:
        for name in _fields_at((section,), Sweep):
            for value in odd:
                fields = base | {section: {"path": "toy"} if section == "model" else {}}
                fields[section] |= {name: value}
                check(tmp_path / "s.yaml", fields)
