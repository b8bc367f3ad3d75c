"""Memory of a training step on one GPU beside what emray expects: shapes, recipes, with and without recomputation.

    python -m benchmarks.gpu_memory            on a GPU of 80 GB, in about three minutes
    python -m benchmarks.gpu_memory --small    the smallest shape alone, nothing is kept

Random weights, passes of exactly the budget. Peak and estimate are of torch's allocator, without the runtime's share.
Prints a table and, last, one line of JSON, which also goes to benchmarks/results/.
"""

import argparse
import gc
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compared import TO_ITS_END, Compared, need_gpus, parsed, told
from benchmarks.gpu_train import SHAPES, random_base
from emray.model.facts import shape_from_config
from emray.model.rows import TokenRow, TokenRows
from emray.records import Arm, Cell, TrainJob
from emray.spec import TrainSpec
from emray.train.cell import Lesson
from emray.train.compiled import Execution
from emray.train.cost import GIB, allocated_bytes
from emray.train.group import Group
from emray.train.warm import WarmBase, let_memory_grow

RESULTS = Path(__file__).parent / "results"
PASSES = {"0.5B": 16384, "1.5B": 8192, "7B": 4096, "14B": 4096}
EXAMPLE = 256  # tokens, half of them trained on


class Line(NamedTuple):
    """Bytes at the peak of a step and as expected; a note where it could not be made."""

    shape: str
    recipe: str
    recomputed: bool
    num_tokens: int
    measured_gib: float | None
    estimated_gib: float
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(PASSES), default=list(PASSES))
    options = parsed(parser, small={"shapes": ["0.5B"]})
    need_gpus("benchmarks.gpu_memory")
    lines = [line for shape in options.shapes for line in measured_shape(shape)]
    _print(lines)
    report = _report(lines)
    if not options.small:
        _keep(report)
    print(json.dumps(report))


def measured_shape(shape: str) -> list[Line]:
    """Both recipes on random weights of a shape."""
    let_memory_grow()
    base, lines = random_base(SHAPES[shape], device=torch.device("cuda")), []
    for recipe in ("paper", "turner"):
        torch._dynamo.reset()
        lines += list(measured(base, shape, recipe, PASSES[shape]))
    return lines


def _print(lines: Sequence[Line]) -> None:
    table = Table("shape", "recipe", "recomputed", "tokens a pass", "peak GiB", "estimate GiB", "off", box=None)
    for line in lines:
        off = "-" if line.measured_gib is None else f"{line.estimated_gib / line.measured_gib - 1:+.1%}"
        peak = line.note or f"{line.measured_gib:.2f}"
        recomputed = "yes" if line.recomputed else "no"
        table.add_row(
            line.shape, line.recipe, recomputed, f"{line.num_tokens:,}", peak, f"{line.estimated_gib:.2f}", off
        )
    Console(width=120).print(table)


def _keep(report: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    stem = f"gpu_memory_{report['device'].replace(' ', '_').lower()}_{report['date']}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")


def measured(base: WarmBase, shape: str, recipe: str, num_tokens: int) -> Iterator[Line]:
    """Both ways of one recipe on a base."""
    for recompute in (False, True):
        batch = num_tokens // EXAMPLE
        spec = TrainSpec.model_validate(
            {"preset": recipe, "batch_size": batch, "gradient_checkpointing": recompute, "max_length": 512}
        )
        estimate = allocated_bytes(shape_from_config(SHAPES[shape]), spec=spec, token_budget=num_tokens)
        base.engine = Execution(compiled=True, graphs=False, recompute=recompute)
        peak, note = None, ""
        try:
            peak = _peak_gib(base, spec, num_tokens)
        except torch.OutOfMemoryError:
            note = "out of memory"
        yield Line(shape, recipe, recompute, num_tokens, peak, estimate / GIB, note)


def _peak_gib(base: WarmBase, spec: TrainSpec, num_tokens: int) -> float:
    """Of two steps of equal examples that fill their passes."""
    base.compiled = None
    gc.collect()
    torch.cuda.empty_cache()
    ids = np.random.default_rng(0).integers(0, base.model.config.vocab_size, (2 * spec.batch_size, EXAMPLE))
    rows = TokenRows(tuple(TokenRow(row, EXAMPLE // 2) for row in ids), 0)
    job = TrainJob(Cell("random", "d", Arm.PLAIN, 0, "k"), "", "d")
    group = Group([Lesson(job, rows)], base=base, spec=spec, token_budget=num_tokens)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        group.step()
    peak = torch.cuda.max_memory_allocated() / GIB
    told = {run.arithmetic for run in group.runs}
    group.close()
    base.compiled = None
    assert told == {"compiled"}, told
    return peak


def _report(lines: list[Line]) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.gpu_memory",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "lines": [line._asdict() for line in lines],
    } | told(
        Compared(
            f"{line.shape}, {line.recipe}{', recomputed' * line.recomputed}: memory expected", "GiB",
            line.estimated_gib, "measured", line.measured_gib, more_is_better=False, ended=line.note or TO_ITS_END,
        )
        for line in lines
    )  # fmt: skip


if __name__ == "__main__":
    main()
