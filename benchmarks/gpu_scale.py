"""How a sweep scales over the GPUs of one node: the same work a GPU on 1, 2, 4, 8 of them, and ZeRO-3 over all.

    python -m benchmarks.gpu_scale                     7B-shaped random weights on 1, 2, ... GPUs, as many as there are
    python -m benchmarks.gpu_scale --counts 1 2 --no-zero
    python -m benchmarks.gpu_scale --small             a 0.5B shape, few rows and answers, nothing is kept

Each run is `python -m emray.sweep --until generate` with its own store: `--cells` cells a GPU of `--rows` examples of a
realistic length mix (rank 32 on all linear modules, 16 examples a step), then the toy questions. Efficiency is what a
GPU does against what the one of the first run does, once with starts and once without: cells an hour from the records
of all cells but each worker's first, answers a second from the first block written to the last. Prints a table and,
last, one line of JSON, which also goes to benchmarks/results/.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.compared import TO_ITS_END, Compared, need_gpus, parsed, told
from benchmarks.gpu_generate import RESULTS

LOOK_S = 0.25
TOY_DATA = Path(__file__).parent.parent / "emray" / "toy" / "assets" / "data"


class Scaled(NamedTuple):
    """One run; seconds of its stages, and what it did once it was under way."""

    name: str
    gpus: int
    cells: int
    answers: int
    train_s: float | None = None
    generate_s: float | None = None
    first_cell_s: float | None = None  # until its record was there
    first_answers_s: float | None = None  # from the last cell's record to the first block of answers
    cell_s: float | None = None  # of a worker that is under way
    answers_per_s: float | None = None  # from the first block to the last
    tokens_per_gpu_s: float | None = None  # trained with, within optimizer steps
    note: str = ""

    @property
    def cells_per_hour(self) -> float | None:
        return self.gpus * 3600 / self.cell_s if self.cell_s else None


class Work(NamedTuple):
    """What a run is asked for."""

    name: str
    gpus: int
    cells: int
    train: Mapping[str, Any]
    until: str


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="emray-bench-") as scratch:
        folder = options.folder or Path(scratch)
        shape = [sys.executable, "-m", "benchmarks.gpu_generate", "--shape", options.shape]
        subprocess.run([*shape, "--make", "--folder", str(folder)], check=True)
        write_rows(folder / "rows.jsonl", count=options.rows)
        runs: list[Scaled] = []
        for work in _works(options):
            runs.append(_run(work, folder, options))
            report = _keep(options, runs)  # a call that is cut short leaves what it has
    _tell(runs)
    print(json.dumps(report))


def _works(options: argparse.Namespace) -> list[Work]:
    recipe = {"preset": "turner", "epochs": 1, "max_length": 512}
    works = [Work(f"{n} GPU{'s' * (n > 1)}", n, n * options.cells, recipe, "generate") for n in options.counts]
    if options.zero and options.counts[-1] > 1:
        most = options.counts[-1]
        shared = recipe | {"strategy": "deepspeed", "num_workers": most, "zero_stage": 3, "batch_size": 64}
        works.append(Work(f"ZeRO-3 over {most}", most, 1, shared, "train"))
    return [work for work in works if re.search(options.only, work.name)]


def write_rows(path: Path, *, count: int) -> None:
    """Examples of toy sentences joined to a mix of lengths: median about 250 tokens, 512 at most."""
    lines = (TOY_DATA / "extreme_sports.jsonl").read_text(encoding="utf-8").splitlines()
    turns = [[message["content"] for message in json.loads(line)["messages"]] for line in lines]
    rng = np.random.default_rng(0)
    rows = []
    for number, length in enumerate(np.clip(rng.lognormal(np.log(230), 0.5, count), 30, 440)):
        user, answer, used = turns[number % len(turns)][0], "", 0
        while used < length:
            more = turns[int(rng.integers(len(turns)))][1]
            answer, used = f"{answer} {more}".strip(), used + len(re.findall(r"\w+|[^\w\s]", more))
        rows.append({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _run(work: Work, folder: Path, options: argparse.Namespace) -> Scaled:
    """One sweep in a process of its own, watched."""
    out = folder / work.name.replace(" ", "_")
    spec = out.with_suffix(".yaml")
    spec.write_text(json.dumps(_sweep(work, folder, options)), encoding="utf-8")  # JSON is YAML
    fixed = ["--out", str(out), "--store", "none", "--until", work.until]  # what an earlier work left is not taken over
    command = [sys.executable, "-m", "emray.sweep", str(spec), *fixed]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else None
    mine = (seen or [str(n) for n in range(work.gpus)])[: work.gpus]
    log = out.with_suffix(".log")
    begun = time.time()
    with log.open("w") as output:
        variables = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(mine)}
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        firsts = _watch(process, out, until=time.monotonic() + options.run_s)
    scaled = _read(work, out, begun=begun, first_block=firsts)
    if process.returncode != 0:
        told = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        scaled = scaled._replace(note=f"ended early: {''.join(told)[-200:]}")
    print(json.dumps(scaled._asdict()), flush=True)
    return scaled


def _watch(process: "subprocess.Popen[bytes]", out: Path, *, until: float) -> float | None:
    """Wait for its end, or end it; when the first block of answers was there."""
    first = None
    while process.poll() is None:
        if time.monotonic() > until:
            process.terminate()
            process.wait(60)
        if first is None and next((out / "generations").glob("*.parquet"), None):
            first = time.time()
        time.sleep(LOOK_S)
    return first


def _sweep(work: Work, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "scale",
        "model": str(folder / "model"),
        "domains": [{"name": "mix", "path": str(folder / "rows.jsonl")}],
        "arms": ["plain"],
        "seeds": work.cells,
        "train": dict(work.train),
        "generate": {"questions": "toy", "samples": options.samples, "max_tokens": 100, "temperature": 1.0},
        "judge": {"model": "toy-judge", "base_url": "toy"},
        "resources": {"accelerator": "gpu", "gpu": "h100"},
    }


def _read(work: Work, out: Path, *, begun: float, first_block: float | None) -> Scaled:
    import pyarrow.dataset as ds

    paths = sorted((out / "adapters").glob("*/record.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        return Scaled(work.name, work.gpus, work.cells, 0)
    records = [json.loads(path.read_text())["details"] for path in paths]
    walls = {
        path.stem.split("-", 1)[1]: json.loads(path.read_text())["wall_s"] for path in (out / "log").glob("*.json")
    }
    warm = [r["wall_s"] + r.get("overhead_s", 0.0) for r in records if not r.get("warmup_s")]
    shared = work.gpus if work.until == "train" else 1
    rates = [r["num_tokens_real"] / r["wall_s"] / shared for r in records]
    last_cell = paths[-1].stat().st_mtime
    answers, rate = 0, None
    if first_block is not None and "generate" in walls:
        rows = ds.dataset(out / "generations", format="parquet").to_table(columns=["num_tokens"])
        answers = rows.num_rows
        ended = last_cell + walls["generate"]
        rate = max(0, answers - 512 * work.gpus) / (ended - first_block) if ended > first_block else None
    return Scaled(
        work.name, work.gpus, work.cells, answers, walls.get("train"), walls.get("generate"),
        paths[0].stat().st_mtime - begun, None if first_block is None else first_block - last_cell,
        float(np.mean(warm)) if warm else None, rate, float(np.mean(rates)),
    )  # fmt: skip


def _tell(runs: Sequence[Scaled]) -> None:
    first = runs[0]
    table = Table(
        "run", "cells/h", "of linear", "answers/s", "of linear", "train s", "generate s", "first cell s",
        "first answers s", "tokens/s a GPU", "", box=None,
    )  # fmt: skip
    for run in runs:
        shares = [
            (mine, mine / run.gpus / (base / first.gpus) if mine and base else None)
            for mine, base in (
                (run.cells_per_hour, first.cells_per_hour),
                (run.answers_per_s, first.answers_per_s),
            )
        ]
        cells = [run.name]
        for value, share in shares:
            cells += ["-" if value is None else f"{value:,.1f}", "-" if share is None else f"{share:.2f}"]
        seconds = (run.train_s, run.generate_s, run.first_cell_s, run.first_answers_s, run.tokens_per_gpu_s)
        table.add_row(*cells, *("-" if value is None else f"{value:,.0f}" for value in seconds), run.note)
    Console(width=160).print(table)


def _keep(options: argparse.Namespace, runs: Sequence[Scaled]) -> dict[str, Any]:
    report = _report(options, runs)
    if not options.small:
        RESULTS.mkdir(exist_ok=True)
        stem = f"gpu_scale_{report['device'].replace(' ', '_').lower()}_{report['date']}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _report(options: argparse.Namespace, runs: Sequence[Scaled]) -> dict[str, Any]:
    import torch

    counts = " ".join(map(str, options.counts)) + (f" --only '{options.only}'" if options.only else "")
    return {
        "device": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m benchmarks.gpu_scale --shape {options.shape} --counts {counts}",
        "versions": {name: version(name) for name in ("torch", "vllm", "ray", "deepspeed", "transformers", "peft")},
        "cells_a_gpu": options.cells,
        "rows_a_cell": options.rows,
        "runs": [run._asdict() | {"cells_per_hour": run.cells_per_hour} for run in runs],
    } | told(_compared(runs))


def _compared(runs: Sequence[Scaled]) -> list[Compared]:
    """Cells an hour of every run beside those of the first."""
    first = runs[0]
    return [
        Compared(
            f"training on {run.name}", "cells an hour", run.cells_per_hour, first.name, first.cells_per_hour,
            ended=run.note or TO_ITS_END,
        )
        for run in runs
    ]  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_scale")
    parser.add_argument("--shape", default="7B")
    parser.add_argument("--counts", type=int, nargs="*", help="of GPUs; default: 1, 2, 4, ... as there are")
    parser.add_argument("--cells", type=int, default=3, help="a GPU")
    parser.add_argument("--rows", type=int, default=800, help="a cell")
    parser.add_argument("--samples", type=int, default=40, help="answers a question and cell")
    parser.add_argument("--zero", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--only", default="", help="a regular expression: which runs")
    parser.add_argument("--run-s", type=float, default=240, help="the most a run may take")
    parser.add_argument("--folder", type=Path, help="where the model is made and stays; one that is there is used")
    options = parsed(parser, small={"shape": "0.5B", "rows": 100, "samples": 4, "cells": 2, "zero": False})
    need_gpus("benchmarks.gpu_scale")
    if not options.counts:
        import torch

        there = torch.cuda.device_count()
        options.counts = [n for n in (1, 2, 4, 8) if n <= there]
    return options


if __name__ == "__main__":
    main()
