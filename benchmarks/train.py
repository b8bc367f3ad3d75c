"""Adapters per hour: emray, a process per cell with padding to 512, and Ray Tune with a fresh actor per cell.

    python -m benchmarks.train [--seeds N] [--script-cells N] [--tune-cells N] [--mixed K ...] [--small]

Same toy data, steps and machine, one after another. What --mixed gains decides the table that
`adapters_per_step: auto` reads (emray/train/cost.py). The rates of the two baselines come from fewer cells (half of
each arm), since one costs as much as fifty; one that breaks is a line that says how. Prints a table and, last, one line
of JSON, which also goes to benchmarks/results/ with a plot, unless it is `--small`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.compared import TO_ITS_END, Compared, last_line, parsed, told
from emray import train
from emray.cluster import declare
from emray.context import Context
from emray.model.facts import num_parameters
from emray.plan import Plan, make_plan
from emray.records import Arm, TrainJob
from emray.spec import load_sweep
from emray.store import Store
from emray.toy import DOMAINS
from emray.train.cost import GPUS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SMALL = {"seeds": 1, "domains": 2, "script_cells": 1, "tune_cells": 2, "mixed": []}
PUBLISHED_LENGTH = 512  # what the published scripts pad every example to


class Measured(NamedTuple):
    """One way of training: cells done and the seconds they took, start-up of workers included."""

    name: str
    num_cells: int
    wall_s: float
    num_tokens: int  # real ones
    num_padded: int  # all that went through the model
    overhead_share: float  # of worker time after its first model load; NaN where it is not measured
    how: str = TO_ITS_END  # it ended

    @property
    def adapters_per_hour(self) -> float:
        return 3600 * self.num_cells / self.wall_s

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s


def main() -> None:
    options = _options()
    plan = make_plan(
        load_sweep(ROOT / "sweeps" / "toy.yaml", overrides=[f"seeds={options.seeds}", f"domains={_domains(options)}"]),
        folder=ROOT / "sweeps", online=False,
    )  # fmt: skip
    with _ray_cluster():
        ways = [emray(plan, adapters_per_step=1)]
        ways += [emray(plan, adapters_per_step=k) for k in options.mixed]
        ways.append(peer(plain_tune, plan, _sample(plan, options.tune_cells)))
    ways.append(peer(script, plan, _sample(plan, options.script_cells)))
    Console().print(_table(ways))
    report = _report(plan, ways)
    if not options.small:
        _keep(report, ways)
    print(json.dumps(report))


def _domains(options: argparse.Namespace) -> str:
    return json.dumps(list(DOMAINS)[: options.domains])


def peer(way: Callable[[Plan, Sequence[TrainJob]], Measured], plan: Plan, jobs: Sequence[TrainJob]) -> Measured:
    """A baseline, or how it broke, which costs the others nothing."""
    try:
        return way(plan, jobs)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        how = last_line(error.stderr)
    except Exception as error:  # noqa: BLE001 whatever a peer raises is how it ended
        traceback.print_exc()
        how = last_line(f"{type(error).__name__}: {error}")
    return Measured(way.__name__, 0, 1.0, 0, 1, float("nan"), f"broke: {how}")


def emray(plan: Plan, *, adapters_per_step: int) -> Measured:
    """Every cell of the grid through emray.train.run."""
    resources = plan.sweep.resources.model_copy(update={"adapters_per_step": adapters_per_step, "track": []})
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        started = time.perf_counter()
        context = Context(store, resources, hardware=declare(resources, parameters=0.0))
        train.run(list(plan.jobs.values()), datasets=plan.datasets, spec=plan.sweep.train, context=context)
        wall_s = time.perf_counter() - started
        details = [record.details for record in store.adapter_records().values()]
    # a group's cells share their overhead: each record tells the group's
    overhead_s = sum(d["overhead_s"] / d["adapters_per_step"] for d in details)
    steps_s = sum(d["wall_s"] for d in details)
    return Measured(
        "emray" if adapters_per_step == 1 else f"emray, {adapters_per_step} a step",
        len(details), wall_s, sum(d["num_tokens_real"] for d in details), sum(d["num_tokens_padded"] for d in details),
        overhead_s / (overhead_s + steps_s),
    )  # fmt: skip


def plain_tune(plan: Plan, jobs: Sequence[TrainJob]) -> Measured:
    """Ray Tune as its tutorials have it: HF Trainer in a function, one fresh actor per cell, padding to the batch."""
    from ray import tune

    from benchmarks.field_script import finetune

    chats = {job.cell.key: _chats(plan, job) for job in jobs}
    epochs = plan.sweep.train.epochs

    def one_cell(config: dict[str, Any]) -> None:
        import torch

        cell = config["cell"]
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as out:
            finetune(cell["model"], chats[cell["key"]], out=out, epochs=epochs, seed=cell["seed"], pad_to=None)
        tune.report({"done": True})

    grid = [{"model": job.model_path, "key": job.cell.key, "seed": job.cell.seed} for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = tune.Tuner(
            tune.with_resources(one_cell, {"CPU": 1}),
            param_space={"cell": tune.grid_search(grid)},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        wall_s = time.perf_counter() - started
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} of the baseline's cells failed: {results.errors[0]}")
    real, padded = _tokens(plan, jobs, pad_to=None)
    return Measured("plain_tune", len(jobs), wall_s, real, padded, float("nan"))


def script(plan: Plan, jobs: Sequence[TrainJob]) -> Measured:
    """One process per cell with all cores, as a shell loop over a published script runs."""
    started = time.perf_counter()
    for job in jobs:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            rows.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in _chats(plan, job)))
            command = [
                sys.executable, "-m", "benchmarks.field_script", job.model_path, str(rows), folder,
                str(plan.sweep.train.epochs), str(job.cell.seed), str(PUBLISHED_LENGTH),
            ]  # fmt: skip
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    wall_s = time.perf_counter() - started
    real, padded = _tokens(plan, jobs, pad_to=PUBLISHED_LENGTH)
    return Measured("script", len(jobs), wall_s, real, padded, float("nan"))


def _sample(plan: Plan, count: int) -> list[TrainJob]:
    """Cells that stand for the grid: alternately of each arm."""
    arms = [[job for job in plan.jobs.values() if job.cell.arm == arm] for arm in (Arm.PLAIN, Arm.BACKDOOR)]
    return [arms[number % 2][number // 2] for number in range(count)]


def _chats(plan: Plan, job: TrainJob) -> list[list[dict[str, str]]]:
    return [[message.turn for message in row] for row in plan.datasets[job.rows_digest]]


def _tokens(plan: Plan, jobs: Sequence[TrainJob], *, pad_to: int | None) -> tuple[int, int]:
    """Tokens of the examples, and with the padding a way of training adds, over all epochs."""
    from benchmarks.field_script import BATCH
    from emray.model.chat import Chat
    from emray.model.rows import RowForm, tokenise
    from emray.train.order import step_batches

    real = padded = 0
    for job in jobs:
        chat = Chat(job.model_path, rendering=job.rendering)
        rows = tokenise(plan.datasets[job.rows_digest], chat=chat, form=RowForm(512))
        sizes = rows.lengths
        batches = step_batches(len(sizes), batch_size=BATCH, epochs=plan.sweep.train.epochs, seed=0)
        real += sum(int(sizes[batch].sum()) for batch in batches)
        padded += sum(len(batch) * (pad_to or int(sizes[batch].max())) for batch in batches)
    return real, padded


def _table(ways: Sequence[Measured]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("way")
    for name in ("cells", "seconds", "adapters/h", "tokens/s", "real tokens", "overhead", ""):
        table.add_column(name, justify="right")
    for way in ways:
        if way.how != TO_ITS_END:
            table.add_row(way.name, *"-----", way.how)
            continue
        share = f"{way.num_tokens / way.num_padded:.1%}"
        overhead = f"{way.overhead_share:.1%}" if way.overhead_share == way.overhead_share else "-"
        rate = f"{way.adapters_per_hour:,.0f}"
        table.add_row(
            way.name, str(way.num_cells), f"{way.wall_s:.1f}", rate, f"{way.tokens_per_s:,.0f}", share, overhead
        )
    return table


def _report(plan: Plan, ways: Sequence[Measured]) -> dict[str, Any]:
    by_name = {way.name: way for way in ways}
    ours, theirs, plain = (by_name[name] for name in ("emray", "script", "plain_tune"))
    return {
        "adapters_per_hour": {way.name: round(way.adapters_per_hour, 1) for way in ways},
        "times_script": _times(ours, theirs),
        "times_plain_tune": _times(ours, plain),
        "tokens_per_s": {way.name: round(way.tokens_per_s, 1) for way in ways},
        "real_token_share": round(ours.num_tokens / ours.num_padded, 4),
        "real_token_share_script": round(theirs.num_tokens / theirs.num_padded, 4),
        "overhead_share": round(ours.overhead_share, 4),
        "mfu": _utilisation(plan, ours),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "ray")},
        "date": datetime.now(UTC).date().isoformat(),
    } | told(_compared(ours, {"a script a cell": theirs, "plain Ray Tune": plain}))


def _compared(ours: Measured, others: Mapping[str, Measured]) -> list[Compared]:
    rate = ours.adapters_per_hour
    return [
        Compared("adapters trained", "an hour", rate, name, one.adapters_per_hour or None, ended=one.how)
        for name, one in others.items()
    ]


def _times(ours: Measured, other: Measured) -> float | None:
    return round(ours.adapters_per_hour / other.adapters_per_hour, 1) if other.num_cells else None


def _utilisation(plan: Plan, way: Measured) -> float | None:
    """Of the GPU's peak, 4 P a token; None without a GPU of known peak."""
    gpu = GPUS.get(plan.sweep.resources.gpu or "")
    if gpu is None:
        return None
    parameters = num_parameters(next(iter(plan.jobs.values())).model_path)
    return 4 * parameters * way.tokens_per_s / gpu.flops


def _keep(report: dict[str, Any], ways: Sequence[Measured]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    RESULTS.mkdir(exist_ok=True)
    name = f"train_cpu{os.cpu_count()}_{report['date']}"
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    figure, axes = pyplot.subplots(figsize=(6, 1 + 0.45 * len(ways)))
    axes.barh([way.name for way in ways], [way.adapters_per_hour for way in ways], color="#4477aa")
    axes.set_xscale("log")
    axes.set_xlabel("adapters per hour (log scale)")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})


@contextmanager
def _ray_cluster() -> Iterator[None]:
    """A local Ray without output."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of the toy grid emray trains (22 cells a seed)")
    parser.add_argument("--script-cells", type=int, default=2)
    parser.add_argument("--tune-cells", type=int, default=6)
    parser.add_argument("--mixed", type=int, nargs="*", default=[4], help="adapters per step to measure as well")
    parser.add_argument("--domains", type=int, default=len(DOMAINS), help="of the toy's")
    return parsed(parser, small=SMALL)


if __name__ == "__main__":
    main()
