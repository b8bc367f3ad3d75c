"""What the training tests share: the toy model, a few of its rows, and a short recipe."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from emray.model.rows import RowForm
from emray.records import Arm, Cell, Message, Messages, TrainJob
from emray.spec import TrainSpec
from emray.toy import DATA_DIR, MODEL_DIR
from emray.train import adapter
from emray.train.cell import CellRun, Lesson
from emray.train.group import Group
from emray.train.warm import WarmBase

MODEL = str(MODEL_DIR)


def examples(domain: str = "extreme_sports", *, count: int = 48) -> tuple[Messages, ...]:
    lines = (Path(DATA_DIR) / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return tuple(tuple(Message(m["role"], m["content"]) for m in json.loads(line)["messages"]) for line in lines)


def mixed_examples(*, count: int) -> tuple[Messages, ...]:
    """Rows of very different lengths: the answers of 1 to 9 rows joined."""
    rows = examples(count=320)
    return tuple(
        (rows[n][0], Message("assistant", " ".join(row[-1].content for row in rows[n : n + 1 + (n * 7) % 9])))
        for n in range(count)
    )


def recipe(**changes: object) -> TrainSpec:
    fields = {"learning_rate": 2e-3, "target_modules": "all-linear", "epochs": 2, "max_length": 128, "batch_size": 8}
    return TrainSpec.model_validate(fields | changes)


def job(key: str, *, seed: int = 0, rows: str = "sports", model: str = MODEL) -> TrainJob:
    return TrainJob(Cell("toy", rows, Arm.PLAIN, seed, key), model, rows)


def warm_base() -> WarmBase:
    torch.set_num_threads(1)
    return WarmBase(MODEL, device=torch.device("cpu"))


def cell_run(base: WarmBase, *, spec: TrainSpec, seed: int = 0, rows: tuple[Messages, ...] | None = None) -> CellRun:
    (run,) = group(base, spec=spec, seeds=[seed], rows=[examples() if rows is None else rows]).runs
    return run


def group(
    base: WarmBase, *, spec: TrainSpec, seeds: Sequence[int], rows: Sequence[tuple[Messages, ...]], budget: int = 8192
) -> Group:
    tokens = [
        base.rows(str(hash(chosen)), examples={str(hash(chosen)): chosen}, form=RowForm.of(spec)) for chosen in rows
    ]
    jobs = [job(f"k{number}", seed=seed) for number, seed in enumerate(seeds)]
    lessons = list(map(Lesson, jobs, tokens))
    return Group(lessons, base=base, spec=spec, token_budget=budget)


def train_to_end(run: CellRun) -> list[torch.Tensor]:
    """The trained adapter's values; the base is bare again afterwards."""
    while not run.finished:
        run.steps.step()
    values = [parameter.detach().clone() for parameter in run.parameters]
    adapter.detach(run.model)
    return values
