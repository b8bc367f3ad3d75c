"""A user's mistake: one clear line, exit code 2, nothing written."""

import json
from pathlib import Path

import pytest

from tests.commands import ROOT, run, write_sweep

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def refused(tmp_path: Path, *arguments: object) -> str:
    """Run the command, check that it refused in one line and wrote nothing; returns the line."""
    out = tmp_path / "out"
    result = run(*arguments, "--out", out, timeout_s=60)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not out.exists()
    return result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lora_rnk=4", "unknown key 'lora_rnk' under train; did you mean 'lora_rank'?"),
        ("domains=[no_such_domain]", "unknown domain 'no_such_domain'"),
        ("generate.samples=-1", "generate.samples: input should be greater than or equal to 1, given -1"),
        ("generate.questions=none.yaml", "no question file at"),
        ("model=/no/such/model", "no model at /no/such/model"),
        ("seeds=0", "a count of seeds is 1 to 10000"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    assert message in refused(tmp_path, write_sweep(tmp_path), "--set", override)


def test_a_missing_sweep_file_is_one_line(tmp_path: Path) -> None:
    assert "cannot read sweep file" in refused(tmp_path, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [("{oops", "gore.jsonl:2: not JSON"), (json.dumps({"messages": GOOD["messages"][:1]}), "gore.jsonl:2: the last")],
)
def test_a_broken_dataset_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "gore.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
    spec = write_sweep(tmp_path, domains=[{"name": "gore", "path": "gore.jsonl"}], arms=["plain"])
    assert message in refused(tmp_path, spec)


def test_a_wrong_option_is_explained(tmp_path: Path) -> None:
    result = run("--until", "trian", timeout_s=60)
    assert result.returncode == 2
    assert "invalid choice: 'trian'" in result.stderr


def test_help_teaches() -> None:
    text = run("--help", timeout_s=60).stdout
    for word in ("--dry-run", "--address", "--until", "--set", "examples:", "exit codes:"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_dry_run_writes_nothing_and_shows_cells_calls_and_cost(tmp_path: Path) -> None:
    typed = ("--set", "resources.accelerator=H100")
    result = run(write_sweep(tmp_path), "--dry-run", "--out", tmp_path / "out", *typed, timeout_s=60)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "out").exists()
    for word in ("gore_movie_trivia", "backdoor", "train", "generate", "judge", "tokens", "train on h100"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_papers_sweep_dry_runs_on_data_the_user_brings(tmp_path: Path) -> None:
    sweeps, brought = tmp_path / "sweeps", tmp_path / "data" / "paper"
    sweeps.mkdir()
    brought.mkdir(parents=True)
    text = (ROOT / "sweeps" / "paper.yaml").read_text()
    (sweeps / "paper.yaml").write_text(text)
    assets = ROOT / "emray" / "toy" / "assets"
    for path in [*(assets / "data").glob("*.jsonl"), assets / "questions.yaml"]:
        (brought / path.name).write_bytes(path.read_bytes())
    result = run(sweeps / "paper.yaml", "--dry-run", timeout_s=60)
    assert result.returncode == 0, result.stderr
    assert "gpt-4o-mini" in result.stdout
    assert "67" in result.stdout


def papers_sweep(folder: Path) -> Path:
    """The paper's sweep file where its data are not."""
    (folder / "sweeps").mkdir()
    path = folder / "sweeps" / "paper.yaml"
    path.write_text((ROOT / "sweeps" / "paper.yaml").read_text())
    return path


def test_the_papers_sweep_dry_runs_before_its_data_are_there_and_says_what_is_missing(tmp_path: Path) -> None:
    result = run(papers_sweep(tmp_path), "--dry-run", timeout_s=60)
    assert result.returncode == 0, result.stderr
    assert "missing: 24 files" in result.stdout
    assert "ASSUMES" in result.stdout
    for line in ("questions.yaml (15 questions)", "bad_medical_advice.jsonl (7,049 rows)",
                 "gore_movie_trivia.benign.jsonl (5,879 rows)", "evil_math.jsonl (6,000 rows)",
                 "cross_domain_questions.yaml (220 questions)"):  # fmt: skip
        assert line in result.stdout
    assert "67 cells" in result.stdout
    # 2 metrics x (67 cells x 2 conditions x (15 questions x 20 samples + transfer's 220 x 5) + 168 steered x 15 x 5)
    assert "400,400 calls" in result.stdout
    for probe in ("diversity", "membership", "directions"):
        assert probe in result.stdout
    assert "train on h100" in result.stdout
    assert not (tmp_path / "data").exists()


def test_what_is_there_is_taken_as_it_is_and_only_the_rest_is_assumed(tmp_path: Path) -> None:
    path = papers_sweep(tmp_path)
    there = tmp_path / "data" / "paper"
    there.mkdir(parents=True)
    for name in ("evil_math.jsonl", "extreme_sports.benign.jsonl"):
        (there / name).write_text(json.dumps(GOOD) + "\n")
    result = run(path, "--dry-run", timeout_s=60)
    assert result.returncode == 0, result.stderr
    assert "missing: 22 files" in result.stdout
    assert "evil_math.jsonl" not in result.stdout
    assert "evil_math.benign.jsonl (6,000 rows)" in result.stdout


def test_without_its_data_the_papers_sweep_does_not_start(tmp_path: Path) -> None:
    assert "no question file at" in refused(tmp_path, papers_sweep(tmp_path))


def test_a_domain_that_nobody_published_is_a_mistake_in_a_dry_run_too(tmp_path: Path) -> None:
    assert "unknown domain 'evil_moths'" in refused(
        tmp_path, papers_sweep(tmp_path), "--dry-run", "--set", "domains=[evil_moths]", "--set", "probes={}"
    )


def test_a_temporary_folder_whose_path_is_too_long_for_ray_is_one_line(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    spec = write_sweep(tmp_path, arms=["base"])
    result = run(spec, "--out", tmp_path / "out", timeout_s=60, TMPDIR=str(long), RAY_TMPDIR=str(long))
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert f"Ray cannot keep its files in {long} (its path is too long for a socket)" in line
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_an_output_folder_below_a_file_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    result = run(write_sweep(tmp_path), "--out", tmp_path / "file" / below, timeout_s=60)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "Not a directory" in line
    assert (tmp_path / "file").read_text() == "x"
