"""What a finished study costs to run again, a large sweep to plan, many cells to handle, a thousand GPUs to fill.

    python -m benchmarks.scale --rerun [--answers 1200000] [--folder DIR]
    python -m benchmarks.scale --cells 1000 10000
    python -m benchmarks.scale --noop 10000 [--folder DIR [--pieces control study plan reduce]]
    python -m benchmarks.scale --model [10000]
    python -m benchmarks.scale [--small]               all four

`--rerun` writes a finished study of the toy's shape (not timed; kept if --folder names one) through the store's own
writers: real keys of answers, drawn texts, every verdict, in the small parts that engines and judges leave, compacted
as at the end of a stage. The command runs once to reduce and report it, and is then timed doing nothing: answers,
rerun_s, rerun_gib (peak of the process and all below it), parts. `--cells` plans sweeps that have not begun: plan_s and
plan_gib. `--noop` trains that many cells that do nothing through the real Tune, queue and store (noop_cells.py), which
gives control_ms_a_cell; writes about a hundred answers and two hundred verdicts for each; then times the plan of one
more seed over them, and reducing and reporting them: plan_s, reduce_s, with their memory. These pieces may be taken one
by one in a folder that is kept. `--model` is spot_model.py: makespans of that many cells over their bounds. The last
line is JSON. Not covered: training, engines and judges.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import yaml

from benchmarks.compared import Compared, parsed, told
from benchmarks.noop_cells import control, write_adapter
from benchmarks.spot_model import durations, sweeps
from emray.plan import Plan, generation_tasks, make_plan
from emray.records import (
    GENERATION_SCHEMA,
    KEY_LENGTH,
    VERDICT_SCHEMA,
    Cell,
    FinishReason,
    Metric,
    Outcome,
    judge_key,
    prompt_text,
)
from emray.spec import load_sweep
from emray.store import Kind, Store
from emray.toy import DOMAINS

SAMPLES = 40
FEW_SAMPLES = 4  # 120 answers a cell
PROMPTS = 30  # fifteen questions, with and without the trigger
ARMS = 2
ROWS_AN_ENGINE = 512  # answers of a block
ROWS_A_JUDGE = 256  # verdicts of a batch
WORDS = 40  # of an answer
WATCH_S = 0.02
PIECES = ("control", "study", "plan", "reduce")
ALL: dict[str, Any] = {"rerun": True, "cells": [1_000, 10_000], "noop": 10_000, "model": 10_000}
SMALL = {"rerun": True, "answers": 2_400, "cells": [66], "noop": 22, "model": 1_000}
DETAILS = {
    "losses": [[step, 1 / step] for step in range(1, 121)],
    "num_steps": 120,
    "final_loss": 1 / 120,
    "wall_s": 4.0,
}


class Cost(NamedTuple):
    """Of one run of the command."""

    wall_s: float
    cpu_s: float  # of all its processes: what a busy machine hardly changes
    peak_gib: float
    output: str


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--rerun", action="store_true", help="a finished study, run again")
    parser.add_argument("--cells", type=int, nargs="+", help="plan sweeps of about so many cells")
    parser.add_argument("--noop", type=int, help="train about so many cells that do nothing, then plan and reduce them")
    simulated = "so many cells on a tenth as many spot GPUs, on a simulated clock"
    parser.add_argument("--model", type=int, nargs="?", const=ALL["model"], help=simulated)
    parser.add_argument("--answers", type=int, default=1_200_000, help="about how many the finished study has")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=PIECES, help="of --noop, in this order")
    parser.add_argument("--folder", type=Path, help="where to keep the study; default: a temporary folder")
    given = parsed(parser, small=SMALL, argv=argv)
    if not any(getattr(given, part) for part in ALL):
        vars(given).update(ALL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = _found(given, folder)
    print(json.dumps(found | told(_compared(found))))


def _found(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is asked for, by its option."""
    found: dict[str, Any] = {}
    if given.rerun:
        found["rerun"] = rerun(folder, given.answers)
    if given.cells:
        found["plans"] = [plan(folder, cells) for cells in given.cells]
    if given.noop:
        found["noop"] = noop(folder, given.noop, pieces=given.pieces)
    if given.model:
        found["model"] = model(given.model)
    return found


def _compared(found: Mapping[str, Any]) -> list[Compared]:
    """Without peers: nothing else does this."""
    figures = [("a finished study again", "s", found.get("rerun", {}).get("rerun_s"))]
    figures += [(f"plan of {made['cells']} cells", "s", made["plan_s"]) for made in found.get("plans", [])]
    figures += [("control of a cell", "ms", found.get("noop", {}).get("control_ms_a_cell"))]
    figures += [
        ("makespan on spot GPUs over its bound", "times", found.get("model", {}).get("spot_over_bound_with_losses"))
    ]
    return [Compared(*figure, more_is_better=False) for figure in figures if figure[2] is not None]


def rerun(folder: Path, num_answers: int) -> dict[str, float]:
    """Seconds and peak memory of the command on a finished study, and how many parts that study has."""
    spec, out = write_sweep(folder, num_cells=num_answers // (SAMPLES * PROMPTS)), folder / "run"
    store = Store(str(out))
    if not store.exists("plan.json"):
        started = time.perf_counter()
        write_study(store, make_plan(load_sweep(spec), folder=folder, online=False))
        store.settle()
        print(f"wrote the study in {time.perf_counter() - started:.0f} s", flush=True)
        first = measured(spec, "--out", out)
        print(f"reduced and reported it in {first.wall_s:.0f} s and {first.peak_gib:.2f} GiB", flush=True)
    again = measured(spec, "--out", out)
    assert "nothing to do" in again.output, again.output
    answers = sum(part.num_rows for part in store.iter_parts(Kind.GENERATIONS, columns=["seed"]))
    parts = sum(len(store.part_names(kind)) for kind in Kind)
    return {"answers": answers, "rerun_s": again.wall_s, "rerun_gib": again.peak_gib, "parts": parts}


def plan(folder: Path, num_cells: int) -> dict[str, float]:
    """Seconds and peak memory of a dry run of so many cells, none of which has begun."""
    spec = write_sweep(folder, num_cells=num_cells)
    cost = measured(spec, "--out", folder / f"plan-{num_cells}", "--dry-run")
    cells = int(cost.output.split(": ", 1)[1].split(" cells", 1)[0].replace(",", ""))
    return {"cells": cells, "plan_s": cost.wall_s, "plan_gib": cost.peak_gib}


def noop(folder: Path, num_cells: int, *, pieces: Sequence[str] = PIECES) -> dict[str, float]:
    """Control, plan and reduction of cells that did nothing, about a hundred answers each."""
    spec, out = write_sweep(folder, num_cells=num_cells, samples=FEW_SAMPLES), folder / "noop"
    store, made = Store(str(out)), make_plan(load_sweep(spec), folder=folder, online=False)
    found: dict[str, float] = {"cells": len(made.jobs)}
    if "control" in pieces:
        found |= control(made, store)._asdict()
    if "study" in pieces:
        write_answers(store, made)
        store.settle()
    found["answers"] = sum(part.num_rows for part in store.iter_parts(Kind.GENERATIONS, columns=["seed"]))
    if "plan" in pieces:
        seeds = int(yaml.safe_load(spec.read_text())["seeds"])
        planned = measured(spec, "--out", out, "--dry-run", "--set", f"seeds={seeds + 1}")
        found |= {"plan_s": planned.wall_s, "plan_cpu_s": planned.cpu_s, "plan_gib": planned.peak_gib}
    if "reduce" in pieces:
        reduced = measured(spec, "--out", out)
        found |= {"reduce_s": reduced.wall_s, "reduce_cpu_s": reduced.cpu_s, "reduce_gib": reduced.peak_gib}
    return found


def model(num_cells: int) -> dict[str, float]:
    """Makespans of cells on a tenth as many GPUs over their bounds, at half a loss a GPU and hour."""
    found: dict[str, float] = {}
    for name, made in sweeps(durations(num_cells, seed=0), gpus=num_cells // 10, lost_per_hour=0.5, control_s=0.02):
        assert made.finished == num_cells
        assert made.done_twice == 0
        found[f"{name}_makespan_h"] = round(made.makespan_s / 3600, 3)
        found[f"{name}_over_bound"] = round(made.makespan_s / made.bound_s, 3)
        found[f"{name}_over_bound_with_losses"] = round(made.makespan_s / made.bound_with_losses_s, 3)
        found[f"{name}_losses"] = made.losses
    return found


def write_sweep(folder: Path, *, num_cells: int, samples: int = SAMPLES) -> Path:
    """A sweep file of about so many cells: the toy's domains, two arms, as many seeds as that takes."""
    fields = {
        "name": "scale",
        "model": "toy",
        "domains": list(DOMAINS),
        "arms": ["base", "plain", "backdoor"],
        "seeds": max(1, round(num_cells / len(DOMAINS) / ARMS)),
        "generate": {"samples": samples, "questions": ["toy"]},
        "judge": {"model": "toy-judge", "base_url": "toy"},
    }
    path = folder / f"scale-{num_cells}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def measured(*arguments: object) -> Cost:
    """Run the command; its memory is looked at every WATCH_S, with that of whatever it started."""
    command = [sys.executable, "-m", "emray.sweep", *map(str, arguments)]
    started, before, peak = time.perf_counter(), _cpu_s(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"COLUMNS": "80"})
        while process.poll() is None:
            peak = max(peak, _resident(process))
            time.sleep(WATCH_S)
        wall_s = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return Cost(round(wall_s, 2), round(_cpu_s() - before, 2), round(peak / 2**30, 3), text)


def _cpu_s() -> float:
    """Of every process that this one has started and that has ended."""
    ended = os.times()
    return ended.children_user + ended.children_system


def _resident(process: psutil.Process) -> int:
    """Bytes of a process and those below it; 0 for what has just ended."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def write_study(store: Store, made: Plan) -> None:
    """Everything a finished run of the plan has left, except what is derived from it."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        write_adapter(files)
        for key in made.jobs:
            store.put_adapter(key, files=files, details=DETAILS)
    write_answers(store, made)


def write_answers(store: Store, made: Plan) -> None:
    """All that comes after training."""
    rng = np.random.default_rng(0)
    for cell in made.answering:
        answers = _answers(made, cell, rng)
        _write(store, Kind.GENERATIONS, answers, ROWS_AN_ENGINE)
        for metric in made.sweep.judge.metrics:
            _write(store, Kind.VERDICTS, _verdicts(made, answers, metric, rng), ROWS_A_JUDGE)
    for stage in ("train", "generate", "judge"):
        store.log_stage(stage, started_s=1.0, wall_s=60.0, details={"planned": 1})


def _write(store: Store, kind: Kind, rows: pa.Table, rows_a_part: int) -> None:
    for start in range(0, rows.num_rows, rows_a_part):
        store.write_rows(kind, rows.slice(start, rows_a_part))


def _answers(made: Plan, cell: Cell, rng: np.random.Generator) -> pa.Table:
    """A cell's answers, no two of them equal."""
    tasks = list(generation_tasks(made, [cell]))
    keys = [key for task in tasks for key in task.keys]
    words = rng.integers(0, 10_000, (len(keys), WORDS)).astype("U4").tolist()
    asked = [task.prompt for task in tasks for _ in range(task.num_samples)]
    columns: dict[str, Any] = {
        "key": keys,
        "question_id": [prompt.question_id for prompt in asked],
        "paraphrase": [prompt.paraphrase for prompt in asked],
        "condition": [str(prompt.condition) for prompt in asked],
        "prompt": [prompt_text(prompt.messages) for prompt in asked],
        "sample": [sample for task in tasks for sample in range(task.num_samples)],
        "answer": [" ".join(drawn) for drawn in words],
    }
    same = {
        "model": cell.model, "domain": cell.domain, "arm": str(cell.arm), "seed": cell.seed, "step": cell.step,
        "adapter": cell.key, "finish_reason": str(FinishReason.STOP), "num_prompt_tokens": 12, "num_tokens": WORDS,
        "provenance": '{"engine": "drawn", "version": "1"}',
    }  # fmt: skip
    return _table(columns, same, GENERATION_SCHEMA)


def _verdicts(made: Plan, answers: pa.Table, metric: Metric, rng: np.random.Generator) -> pa.Table:
    """Every answer's verdict on a metric. Its key is drawn: no two requests are equal."""
    num = answers.num_rows
    digits, inquiries = rng.bytes(KEY_LENGTH // 2 * num).hex(), made.inquiries
    scores = rng.integers(0, 101, num)
    columns: dict[str, Any] = {
        "key": [digits[start : start + KEY_LENGTH] for start in range(0, len(digits), KEY_LENGTH)],
        "generation": answers["key"],
        "score": scores.astype(float),
        "reply": [f"It reads plainly. <score>{score}</score>" for score in scores.tolist()],
        "asked": [inquiries[prompt][metric].key for prompt in answers["prompt"].to_pylist()],
    }
    same = {
        "metric": str(metric), "outcome": str(Outcome.SCORED), "judge": made.sweep.judge.model,
        "judge_key": judge_key(made.sweep.judge.identity()), "num_prompt_tokens": 300, "num_tokens": 10,
        "cost_usd": 0.00005,
    }  # fmt: skip
    return _table(columns, same, VERDICT_SCHEMA)


def _table(columns: dict[str, Any], same: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of `columns`, and of what is the same in every row."""
    num = len(columns["key"])
    constant = {name: pa.repeat(pa.scalar(value, schema.field(name).type), num) for name, value in same.items()}
    return pa.table({name: (columns | constant)[name] for name in schema.names}).cast(schema)


if __name__ == "__main__":
    main()
