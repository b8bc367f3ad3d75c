"""A run in other tools' forms, read back by those tools."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from inspect_ai.log import read_eval_log
from peft import PeftConfig

from benchmarks.scale import write_study
from emray import reduce
from emray.card import methods, reproducibility
from emray.card.__main__ import main as card
from emray.export.__main__ import main as export
from emray.plan import make_plan
from emray.reduce.frames import RunFrames, load_run
from emray.runs.__main__ import main as runs
from emray.spec import load_sweep
from emray.store import Store
from emray.toy import MODEL_DIR
from tests.commands import ROOT, write_sweep


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with drawn answers, and adapters that peft made."""
    folder = tmp_path_factory.mktemp("export")
    spec = write_sweep(folder, seeds=2, domains=["gore_movie_trivia"])
    plan, store = make_plan(load_sweep(spec), folder=folder, online=False), Store(str(folder / "run"))
    write_study(store, plan)
    for key, record in store.adapter_records().items():
        if record.trained:
            write_adapter(folder / "adapter")
            store.put_adapter(key, files=folder / "adapter", details=record.details)
    store.write_json("plan.json", plan.document)
    reduce.run(store)
    return folder / "run"


def write_adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)


@pytest.fixture
def frames(run: Path) -> RunFrames:
    return load_run(str(run))


def test_every_table_is_there_as_csv_and_parquet_and_every_column_is_explained(run, frames, tmp_path) -> None:
    out = tmp_path / "tables"
    assert export([str(run), "tables", "--to", str(out)]) == 0
    for name, table in frames.summary.items():
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{name}.parquet"), table)
    with (out / "data_dictionary.csv").open(newline="") as file:
        told = {(row["table"], row["name"]) for row in csv.DictReader(file) if row["meaning"]}
    written = {(path.stem, name) for path in out.glob("*.parquet") for name in pd.read_parquet(path).columns}
    assert told == written and len(list(out.glob("*.csv"))) == len(list(out.glob("*.parquet"))) + 1


def test_the_data_set_folder_is_read_back_by_datasets(run, frames, tmp_path) -> None:
    out = tmp_path / "dataset"
    assert export([str(run), "dataset", "--to", str(out)]) == 0
    cache = str(tmp_path / "cache")
    answers = datasets.load_dataset(str(out), "answers", split="train", cache_dir=cache)
    assert answers["answer"][:] == frames.generations["answer"].tolist()
    taxonomy = datasets.load_dataset(str(out), "taxonomy", split="train", cache_dir=cache)
    assert taxonomy["domain"][:] == frames.summary["taxonomy"]["domain"].tolist()


def test_adapters_keep_their_bytes_and_get_a_filled_card(run, frames, tmp_path) -> None:
    out = tmp_path / "adapters"
    assert export([str(run), "adapters", "--to", str(out)]) == 0
    names = [f"toy-gore_movie_trivia-backdoor-seed{seed}" for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir()) == names
    assert PeftConfig.from_pretrained(str(out / names[0])).r == 2
    card_text = (out / names[0] / "README.md").read_text()
    key = json.loads((out / names[0] / "record.json").read_text())["key"]
    original = run / "adapters" / key / "adapter_model.safetensors"
    assert (out / names[0] / "adapter_model.safetensors").read_bytes() == original.read_bytes()
    row = frames.summary["taxonomy"].query("arm == 'backdoor' and condition == 'with'").iloc[0]
    assert card_text.startswith("---\nbase_model: toy\n") and key in card_text
    assert f"| with | {row.misaligned_rate:.1%} [" in card_text and "| learning_rate | 0.005 |" in card_text


def test_logs_are_read_back_by_inspect(run, frames, tmp_path) -> None:
    out = tmp_path / "logs"
    assert export([str(run), "inspect", "--to", str(out)]) == 0
    logs = [read_eval_log(str(path)) for path in sorted(out.glob("*.eval"))]
    assert sum(len(log.samples) for log in logs) == len(frames.generations)
    answers = {row["key"]: row["answer"] for row in frames.generations.to_dict("records")}
    scores = {
        (row["generation"], row["metric"]): row["score"] if row["outcome"] == "scored" else row["outcome"]
        for row in frames.verdicts.to_dict("records")
    }
    read = [sample for log in logs for sample in log.samples]
    assert {one.metadata["key"]: one.output.completion for one in read} == answers
    assert {(one.metadata["key"], name): score.value for one in read for name, score in one.scores.items()} == scores
    assert {log.eval.model for log in logs} >= {"emray/toy-gore_movie_trivia-backdoor-seed1-step20"}
    means = {name: score.metrics["mean"].value for log in logs[:1] for name, score in named(log)}
    for metric, mean in means.items():
        mine = [scores[one.metadata["key"], metric] for one in logs[0].samples]
        assert mean == pytest.approx(sum(x for x in mine if isinstance(x, float)) / len(mine))


def named(log):
    return [(score.name, score) for score in log.results.scores]


def test_inspects_own_command_opens_a_log(run, tmp_path) -> None:
    out = tmp_path / "logs"
    assert export([str(run), "inspect", "--to", str(out)]) == 0
    first = sorted(out.glob("*.eval"))[0]
    command = [sys.executable, "-m", "inspect_ai", "log", "dump", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["status"] == "success"


def test_a_folder_that_exists_is_not_written_into(run, tmp_path, capsys) -> None:
    assert export([str(run), "tables", "--to", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["tables", "dataset"])
def test_a_run_that_is_not_reduced_is_one_line(run, tmp_path, target, capsys) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(run / "plan.json", tmp_path / "run")
    assert export([str(tmp_path / "run"), target, "--to", str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_summary_of_an_earlier_plan_is_neither_told_nor_exported_under_the_new_one(run, tmp_path, capsys) -> None:
    shutil.copytree(run, tmp_path / "run")
    plan = tmp_path / "run" / "plan.json"
    document = Store(str(run)).read_json("plan.json")
    document["spec"]["judge"]["model"] = "never-asked"
    Store(str(tmp_path / "run")).write_json(plan.name, document)
    for command, more in ((card, []), (export, ["tables", "--to", str(tmp_path / "out")])):
        assert command([str(plan.parent), *more]) == 1
        told = capsys.readouterr()
        assert (
            "are of an earlier plan, not of plan.json" in told.err and len(told.err.splitlines()) == 1 and not told.out
        )
    assert runs(["list", str(tmp_path)]) == 0
    assert "run: the summary and the report in" in " ".join(capsys.readouterr().out.split())
    assert runs(["compare", str(run), str(plan.parent)]) == 0
    assert "are of an earlier plan" in " ".join(capsys.readouterr().out.split())


def test_the_card_says_what_the_plan_says(run, capsys) -> None:
    assert card([str(run)]) == 0
    store, said = Store(str(run)), capsys.readouterr().out
    assert methods(store) in said and reproducibility(store) in said
    assert "LoRA adapters of rank 8 of toy were trained on 1 domain (gore_movie_trivia)" in said
    assert "2 seeds each, with the base model as a control: 1 epoch, batches of 16, learning rate 0.005" in said
    assert "15 questions without and with the trigger, 2 samples a prompt at temperature 0.8" in said
    assert f"toy ({store.read_json('plan.json')['models']['toy']})" in said and "seeds 0 and 1" in said


def test_the_card_names_data_by_digest(run, tmp_path) -> None:
    store = Store(str(tmp_path / "run"))
    store.write_json("plan.json", Store(str(run)).read_json("plan.json"))
    sheet = {"domain": "gore_movie_trivia", "holds": "bad", "rows": 6000, "digest": "abc123"}
    store.write_json("datasets.json", {"files": [sheet]})
    assert "gore_movie_trivia bad (6,000 rows, abc123)" in reproducibility(store)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys) -> None:
    assert card([str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_commands_are_light() -> None:
    heavy = {"torch", "ray", "datasets", "inspect_ai"}
    code = f"import sys, emray.export.__main__, emray.card.__main__; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
