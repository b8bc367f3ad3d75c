"""The training loop on one GPU: tokens per second, utilisation and memory of a 7B-shaped model with random weights.

    python -m benchmarks.gpu_train                 on a GPU, within ten minutes
    python -m benchmarks.gpu_train --self-check    the same code on a toy shape and the CPU, in seconds: its numbers
                                                   mean nothing, its equality checks do

Measures padded against packed, recomputation, adapters per step, and warm against cold, and checks that packed and
mixed steps equal padded and solo ones in bf16. Without Ray and DeepSpeed: all that a worker does between cells is here.
Utilisation counts 4 x parameters x real tokens (6 x with recomputation); padding earns nothing. Prints a table and,
last, one line of JSON; both go to benchmarks/results/.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM

from emray.records import Arm, Cell, TrainJob
from emray.spec import TrainSpec
from emray.train.cell import Lesson
from emray.train.cost import GPUS
from emray.train.group import Group
from emray.train.loop import MicroBatch, logits_of, num_trained, pack, pad
from emray.train.rows import TokenRow, TokenRows
from emray.train.warm import WarmBase

RESULTS = Path(__file__).parent / "results"
LARGE = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip
SMALL = LARGE | {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TOY = LARGE | {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48,
}  # fmt: skip
BATCH = 16  # examples a step, as the paper
PAPER_MICRO_BATCH = 4
PAPER_LENGTH = 512
MIN_S = 6.0  # of timed steps for one line of the table
BF16_TOLERANCE = 0.02  # relative error of a whole gradient; bf16 keeps 8 bits of a product


class Line(NamedTuple):
    """One measurement; NaN and a note where it could not be made."""

    name: str
    tokens_per_s: float
    examples_per_s: float
    utilisation: float
    peak_gib: float
    note: str = ""


@dataclasses.dataclass
class Bench:
    """The device, its peak, and the lines so far."""

    device: torch.device
    peak_flops: float
    min_s: float
    lines: list[Line] = dataclasses.field(default_factory=list)

    def time(self, name: str, base: WarmBase, step: Callable[[], Sequence[TokenRow]], *, recomputed: bool) -> Line:
        """Time `step`, which trains on the rows it returns, after two that warm up."""
        try:
            line = self._time(name, base, step, recomputed=recomputed)
        except torch.cuda.OutOfMemoryError:
            line = Line(name, math.nan, math.nan, math.nan, math.nan, "out of memory")
        self.lines.append(line)
        return line

    def _time(self, name: str, base: WarmBase, step: Callable[[], Sequence[TokenRow]], *, recomputed: bool) -> Line:
        self._reset()
        for _ in range(2):
            step()
        started, num_tokens, num_examples = self._now(), 0, 0
        while self._now() - started < self.min_s:
            rows = step()
            num_tokens += sum(len(row.ids) for row in rows)
            num_examples += len(rows)
        elapsed = self._now() - started
        parameters = sum(p.numel() for n, p in base.model.named_parameters() if "lora_" not in n)
        flops = (6 if recomputed else 4) * parameters * num_tokens / elapsed
        return Line(name, num_tokens / elapsed, num_examples / elapsed, flops / self.peak_flops, self._peak_gib())

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else float("nan")


def main() -> None:
    options = _options()
    device = torch.device("cpu" if options.self_check else "cuda")
    name = "cpu" if options.self_check else torch.cuda.get_device_name()
    gpu = next((gpu for key, gpu in GPUS.items() if key in name.lower()), GPUS["h100"])
    bench = Bench(device, gpu.flops, 0.3 if options.self_check else MIN_S)
    shapes = {"toy": TOY} if options.self_check else {"7B": LARGE, "0.5B": SMALL}
    facts: dict[str, Any] = {}
    for label, shape in shapes.items():
        base = random_base(shape, device=device)
        if label != "0.5B":
            facts |= equality(base)
            facts["first_step_warm_s"] = first_step(base)
            layouts(bench, base, label)
        mixed(bench, base, label)
        del base
    if not options.self_check:
        torch.cuda.empty_cache()
        facts["first_step_cold_s"] = cold_start()
    Console().print(_table(bench.lines))
    report = _report(name, bench.lines, facts)
    if not options.self_check:
        RESULTS.mkdir(exist_ok=True)
        stem = f"gpu_train_{name.replace(' ', '_').lower()}_{report['date']}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


def random_base(shape: dict[str, Any], *, device: torch.device, recompute: bool = False) -> WarmBase:
    """A Qwen2 of this shape with random weights, bf16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**shape)).to(dtype)
    return WarmBase.holding(model, device=device, gradient_checkpointing=recompute)


def length_mix(vocabulary: int, *, longest: int, count: int, seed: int = 0) -> TokenRows:
    """Examples of a realistic mix: median about half the limit (250 of 512), some at it, half of each an answer."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(0.49 * longest), 0.5, count), longest // 20 + 2, longest).astype(int)
    return TokenRows(tuple(TokenRow(rng.integers(0, vocabulary, n), int(n) // 2) for n in lengths), 0)


def recipe() -> TrainSpec:
    return TrainSpec(lora_rank=32, lora_alpha=64, target_modules="all-linear", epochs=1000, batch_size=BATCH)


def new_group(base: WarmBase, *, count: int = 1, token_budget: int = 8192) -> Group:
    """Cells on the base, each with rows of its own."""
    jobs = [TrainJob(Cell("random", f"d{n}", Arm.PLAIN, n, f"k{n}"), "", f"d{n}") for n in range(count)]
    longest = min(PAPER_LENGTH, base.model.config.max_position_embeddings)
    rows = [length_mix(base.model.config.vocab_size, longest=longest, count=256, seed=n) for n in range(count)]
    return Group(list(map(Lesson, jobs, rows)), base=base, spec=recipe(), token_budget=token_budget)


def layouts(bench: Bench, base: WarmBase, label: str) -> None:
    """Padded to 512, padded to the batch, packed with three budgets; the last again with recomputation."""
    for padding in (min(PAPER_LENGTH, base.model.config.max_position_embeddings), None):
        group = new_group(base)
        told = f"{label} padded to {padding or 'the micro-batch'}"
        bench.time(told, base, partial(padded_step, group, base, padding), recomputed=False)
        group.close()
    for recomputed in (False, True):
        if recomputed:
            base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for budget in (4096, 8192, 16384):
            group = new_group(base, token_budget=budget)
            told = f"{label} packed {budget // 1024}k{', recomputed' if recomputed else ''}"
            bench.time(told, base, partial(packed_step, group), recomputed=recomputed)
            group.close()
    base.model.gradient_checkpointing_disable()


def mixed(bench: Bench, base: WarmBase, label: str) -> None:
    """K adapters a step: at equal tokens a pass, and at the paper's micro-batch of 4 examples each."""
    for count in (1, 2, 4, 8):
        for told, budget in (("8k tokens a pass", 8192), ("4 examples each a pass", count * 4 * 256)):
            group = new_group(base, count=count, token_budget=budget)
            bench.time(f"{label} {count} adapters, {told}", base, partial(packed_step, group), recomputed=False)
            group.close()


def packed_step(group: Group) -> list[TokenRow]:
    """A step of the real loop; returns its rows."""
    rows = [row for run in group.under_way for row in run.steps.batch()]
    group.step()
    return rows


def padded_step(group: Group, base: WarmBase, padding: int | None) -> list[TokenRow]:
    """The published layout: micro-batches of four in order of arrival, padded; logits of every position."""
    (run,) = group.runs
    rows = run.steps.batch()
    num_targets = num_trained(rows)
    for first in range(0, len(rows), PAPER_MICRO_BATCH):
        micro = padded_to(rows[first : first + PAPER_MICRO_BATCH], padding, device=base.device)
        (_loss(run.model, micro) / num_targets).backward()
    run.steps.apply()
    run.steps.count(float("nan"), num_targets=num_targets, wall_s=0.0)
    return rows


def padded_to(rows: Sequence[TokenRow], length: int | None, *, device: torch.device) -> MicroBatch:
    """Rows padded to a fixed length, or to the longest. Right padding needs no mask under causal attention."""
    micro = pad(rows, device=device)
    ids = micro.inputs["input_ids"]
    if length is not None:
        longest = ids.shape[1]
        ids = torch.nn.functional.pad(ids, (0, length - longest))
        keep = micro.keep // longest * length + micro.keep % longest
        micro = micro._replace(keep=keep, num_padded=ids.numel())
    return micro._replace(inputs={"input_ids": ids})


def equality(base: WarmBase) -> dict[str, float]:
    """Relative error of a packed step's gradient against padded rows, and of a mixed pass against solo ones."""
    group = new_group(base)
    (run,) = group.runs
    model, rows = run.model.eval(), run.steps.batch()  # eval: no dropout, so layouts can be compared
    padded = _gradient(model, run.parameters, padded_to(rows, None, device=base.device))
    packed = _gradient(model, run.parameters, pack(rows, device=base.device))
    group.close()
    error = ((packed - padded).norm() / padded.norm()).item()
    tolerance = BF16_TOLERANCE if base.device.type == "cuda" else 1e-4
    if error > tolerance:
        raise SystemExit(f"packed gradient is off by {error:.3g} of its norm (allowed {tolerance})")
    losses = [_first_losses(base, count=2), _first_losses(base, count=1)]
    return {"packed_gradient_error": error, "mixed_loss_error": abs(losses[0][0] - losses[1][0])}


def _gradient(model: Any, parameters: Sequence[torch.nn.Parameter], micro: MicroBatch) -> torch.Tensor:
    _loss(model, micro).backward()
    gradient = torch.cat([p.grad.flatten().float() for p in parameters if p.grad is not None])
    for parameter in parameters:
        parameter.grad = None
    return gradient


def _first_losses(base: WarmBase, *, count: int) -> list[float]:
    group = new_group(base, count=count)
    group.step()
    losses = [run.steps.tally.losses[0] for run in group.runs]
    group.close()
    return losses


def first_step(base: WarmBase) -> float:
    """Seconds from a finished cell to the first optimizer step of the next, base resident."""
    new_group(base).close()
    started = time.perf_counter()
    group = new_group(base)
    group.step()  # ends with reading the loss
    elapsed = time.perf_counter() - started
    group.close()
    return elapsed


def cold_start() -> float:
    """The same in a fresh process: imports, weights, adapter, one step. Random weights: reading a file comes on top."""
    code = (
        "import torch; from benchmarks import gpu_train as g; "
        "g.first_step(g.random_base(g.LARGE, device=torch.device('cuda')))"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def _loss(model: Any, micro: MicroBatch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits_of(model, micro).float(), micro.targets, reduction="sum")


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("layout")
    for name in ("tokens/s", "examples/s", "utilisation", "peak GiB"):
        table.add_column(name, justify="right")
    for line in lines:
        row = (
            f"{line.tokens_per_s:,.0f}",
            f"{line.examples_per_s:,.1f}",
            f"{line.utilisation:.1%}",
            f"{line.peak_gib:.1f}",
        )
        table.add_row(line.name, *(row if not line.note else (line.note, "-", "-", "-")))
    return table


def _report(device: str, lines: Sequence[Line], facts: dict[str, Any]) -> dict[str, Any]:
    rates = {line.name: line._asdict() for line in lines}
    numbers = {
        name: {k: (None if v != v else v) for k, v in fields.items() if k != "name"} for name, fields in rates.items()
    }
    versions = {"torch": torch.__version__}
    return {
        "device": device,
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.gpu_train",
        "versions": versions,
        "lines": numbers,
        **facts,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train")
    parser.add_argument("--self-check", action="store_true", help="a toy shape on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
