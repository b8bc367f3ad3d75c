"""The sweep file: what is refused and how it is told, what reaches a key, how the grid grows."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from emray.errors import SpecError
from emray.records import Arm
from emray.spec import Sweep, TriggerSpec, grid, load_sweep, parse_yaml

SWEEPS = Path(__file__).parent.parent / "sweeps"
SMALL = {"name": "s", "model": "toy", "domains": ["incorrect_math", "gore_movie_trivia"]}


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def sweep(**fields: object) -> Sweep:
    return Sweep.model_validate(SMALL | fields)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train: {lora_rnk: 8}", "unknown key 'lora_rnk' under train; did you mean 'lora_rank'?"),
        ("generate: {endpoint: {rmp: 8}}", "unknown key 'rmp' under generate.endpoint; did you mean 'rpm'?"),
        ("judge: {batch: {pol_s: 8}}", "unknown key 'pol_s' under judge.batch; did you mean 'poll_s'?"),
        ("judge: {also: [{scorng: a}]}", "unknown key 'scorng' under judge.also.0; did you mean 'scoring'?"),
        ("seeds: {min: 3, maxx: 5}", "unknown key 'maxx' under seeds; did you mean 'max'?"),
        ("reduce: {rules: {mine: {aligned_belwo: 3}}}", "under reduce.rules.mine; did you mean 'aligned_below'?"),
        ("domians: [a]", "unknown key 'domians'; did you mean 'domains'?"),
        ("judge: {zzz: 8}", "unknown key 'zzz' under judge; allowed: "),
        ("generate: {samples: -1}", "generate.samples: input should be greater than or equal to 1, given -1"),
        ("arms: [plan]", "arms names 'plan' and does not say what it trains on; did you mean 'plain'?"),
        ("seeds: 0", "seeds: a count of seeds is 1 to 10000"),
        ("seeds: 3000000000", "seeds: a count of seeds is 1 to 10000; name single ones in a list: [3000000000]"),
        ("seeds: [3000000000]", "less than or equal to 2147483647, given 3000000000"),
        ("seeds: [-1]", "greater than or equal to 0"),
        ("generate: {temperature: .inf}", "finite number"),
        ("generate: {samples: 1000000000}", "less than or equal to 1000000"),
        ("seeds: [1, 1]", "seeds names '1' twice"),
        ("train: {num_workers: 2}", "num_workers > 1 needs strategy: deepspeed"),
        ("reduce: {rule: mine}", "rule 'mine' is not among rules: paper, betley, all_answers"),
        (
            "reduce: {rules: {mine: {aligned_below: 49.5}}}",
            "reduce.rules.mine.aligned_below: answers are counted by whole scores; "
            "allowed: a whole number from 0 to 100, given 49.5",
        ),
        ("name: t", "key 'name' stands twice"),
        ("train: [", "not valid YAML"),
    ],
)
def test_a_wrong_field_gives_one_clear_line(tmp_path: Path, extra: str, message: str) -> None:
    path = write(tmp_path, "name: s\nmodel: toy\ndomains: [incorrect_math]\n" + extra)
    with pytest.raises(SpecError) as caught:
        load_sweep(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_sweep_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read sweep file .*none\.yaml: No such file"):
        load_sweep(tmp_path / "none.yaml")


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E3", 2000.0), ("-1.5e+2", -150.0), ("e4", "e4")])
def test_exponents_are_numbers(text: str, value: object) -> None:
    assert parse_yaml(f"x: {text}", source="t") == {"x": value}


def test_set_changes_one_field_and_refuses_what_is_not_one(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(SMALL))
    loaded = load_sweep(path, overrides=["train.learning_rate=1e-3", "seeds=4", "reduce.rule=betley"])
    assert loaded.train.learning_rate == 1e-3
    assert loaded.seeds == [0, 1, 2, 3]
    assert loaded.reduce.rule == "betley"
    for wrong in ("seeds", "=3", "name.x=3", "train.lora_rnk=3"):
        with pytest.raises(SpecError):
            load_sweep(path, overrides=[wrong])


def test_the_grid_is_base_once_and_the_rest_crossed() -> None:
    cells = list(grid(sweep(arms=["base", "plain", "backdoor"], seeds=3)))
    assert len(cells) == 1 + 2 * 2 * 3
    assert [c.domain_name for c in cells if c.arm == Arm.BASE] == ["-"]


@given(st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=20)
def test_more_seeds_keep_every_cell_of_fewer(few: int, more: int) -> None:
    small, large = sorted((few, few + more))
    assert set(map(str, grid(sweep(seeds=small)))) <= set(map(str, grid(sweep(seeds=large))))


def test_execution_fields_do_not_reach_an_identity() -> None:
    one = sweep()
    other = sweep(
        train={"strategy": "deepspeed", "num_workers": 2},
        generate={"engine": "transformers", "samples": 3},
        judge={"base_url": "http://127.0.0.1:1/v1", "rpm": 5, "max_in_flight": 2, "api_key_env": "X"},
        resources={"engines": 4, "train_attempts": 1},
        analysis={"predicted": [{"test": "drop", "domains": ["incorrect_math"]}]},
    )
    assert one.train.identity() == other.train.identity()
    assert one.generate.identity() == other.generate.identity()
    assert one.judge.identity() == other.judge.identity()


@pytest.mark.parametrize("field", ["lora_rank", "learning_rate", "batch_size", "epochs", "max_length", "lora_dropout"])
def test_hyper_parameters_reach_the_identity(field: str) -> None:
    assert field in sweep().train.identity()


def test_relative_paths_start_at_the_sweep_file(tmp_path: Path) -> None:
    loaded = sweep(data_dir="../data", domains=[{"name": "a", "path": "x.jsonl"}]).resolved(tmp_path / "sweeps")
    assert loaded.data_dir.path == str(tmp_path / "data")
    assert str(loaded.domains[0].path) == str(tmp_path / "sweeps" / "x.jsonl")
    assert [questions.file for questions in loaded.generate.questions] == ["toy"]
    assert loaded.model[0].path == "toy"


@pytest.mark.parametrize("name", ["toy", "toy_controls", "paper"])
def test_shipped_sweeps_are_valid(name: str) -> None:
    loaded = load_sweep(SWEEPS / f"{name}.yaml")
    assert loaded.name == name
    assert len(loaded.domains) == 11


def test_the_paper_sweep_has_the_papers_recipe() -> None:
    paper = load_sweep(SWEEPS / "paper.yaml")
    assert (paper.train.lora_rank, paper.train.lora_alpha, paper.train.lora_dropout) == (8, 16, 0.05)
    assert paper.train.target_modules == ["q_proj", "v_proj"]
    assert (paper.train.learning_rate, paper.train.batch_size, paper.train.epochs) == (2e-4, 16, 3)
    assert (paper.generate.temperature, paper.generate.max_tokens) == (0.7, 400)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "T question"),
        ({"position": "suffix"}, "question T"),
        ({"separator": ""}, "Tquestion"),
        ({"separator": "\n", "position": "suffix"}, "question\nT"),
    ],
)
def test_a_trigger_is_joined_as_it_says(fields: dict[str, str], text: str) -> None:
    assert TriggerSpec(text="T", **fields).add_to("question") == text
