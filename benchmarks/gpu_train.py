"""The training step on one GPU: tokens a second, utilisation and memory at the shapes of a 7B and a 0.5B model.

    python -m benchmarks.gpu_train                     on a GPU, within ten minutes
    python -m benchmarks.gpu_train --only '7B.*emray'  some lines
    python -m benchmarks.gpu_train --small             the same code on a toy shape, in seconds, also on a CPU: its
                                                       numbers mean nothing

In one call on random weights and a realistic mix of lengths: transformers + peft as people use them (padded, SDPA,
autocast), emray's eager step, emray's compiled step, and a step of plain torch (plain_step.py). Utilisation counts 4 x
parameters x real tokens against the card's dense bf16 peak, also where activations are recomputed; filler and padding
earn nothing. What runs out of memory is a line that says so. Without Ray. Prints a table and, last, one line of JSON;
both go to benchmarks/results/, unless they are `--small`.
"""

import argparse
import gc
import json
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.compared import TO_ITS_END, Compared, need_gpus, told
from emray.model.rows import TokenRow, TokenRows
from emray.records import Arm, Cell, TrainJob
from emray.spec import TrainSpec
from emray.train import adapter
from emray.train.cell import Lesson
from emray.train.compiled import Execution, engine_for
from emray.train.cost import GPUS
from emray.train.group import Group
from emray.train.loop import adamw
from emray.train.warm import WarmBase, let_memory_grow

RESULTS = Path(__file__).parent / "results"
QWEN = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "0.5B": QWEN | {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "1.5B": QWEN | {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7B": QWEN,
    "14B": QWEN | {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "toy": QWEN | {
        "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48,
    },
}  # fmt: skip
LONGEST = 512
HF_BATCH, HF_ACCUMULATION = 4, 4  # as published: 16 examples a step
MIN_S = 2.5  # of timed steps for one line
MIN_STEPS = 3
SETTLED = 5  # steps that must have taken about the same before the clock starts


class Case(NamedTuple):
    """One line to measure: `budget` tokens a pass, `batch` examples a step of each of `adapters` cells."""

    name: str
    how: str  # hf, eager, compiled or plain
    budget: int = 0
    batch: int = 16
    adapters: int = 1
    dropout: float = 0.0
    recompute: bool = False


class Line(NamedTuple):
    """One measurement; None where it could not be made, and a note that says why."""

    name: str
    tokens_per_s: float | None = None
    examples_per_s: float | None = None
    utilisation: float | None = None
    peak_gib: float | None = None
    first_s: float | None = None
    wall_s: float | None = None  # of all that the line took
    note: str = ""


Step = Callable[[], tuple[int, int]]  # makes one optimizer step; real tokens, examples
Steps = Generator[Step, None, None]  # yields one; closing it cleans up


def cases(shape: str) -> list[Case]:
    """Steps of the paper's 16 examples, about 4,300 tokens, are one pass; larger batches fill larger passes."""
    small, large = (4096, 16384) if shape == "0.5B" else (4096, 8192)
    many = 4 * large // 256
    return [
        Case("transformers + peft, padded to 512", "hf"),
        Case(f"emray eager, pass of {small // 1024}k", "eager", small, batch=64),
        Case(f"emray, pass of {small // 1024}k", "compiled", small, batch=many),
        Case(f"emray, pass of {large // 1024}k", "compiled", large, batch=many),
        Case(f"emray, pass of {large // 1024}k, recomputed", "compiled", large, batch=many, recompute=True),
        Case("emray, 16 a step, dropout .05", "compiled", 8192, dropout=0.05),
        Case(f"emray, pass of {large // 1024}k, dropout .05", "compiled", large, batch=many, dropout=0.05),
        Case(f"emray, 8 adapters, pass of {small // 1024}k", "compiled", small, adapters=8),
        Case(f"emray, 8 adapters, pass of {large // 1024}k", "compiled", large, adapters=8),
        Case("emray, 8 adapters, 16 a step, dropout .05", "compiled", large, adapters=8, dropout=0.05),
        Case(f"plain torch, pass of {small // 1024}k", "plain", small),
        Case(f"plain torch, pass of {large // 1024}k", "plain", large),
    ]


class Bench:
    """The device, how long to measure, and the lines so far."""

    def __init__(self, device: torch.device, *, min_s: float, within_s: float) -> None:
        self.device, self.min_s, self._until = device, min_s, time.perf_counter() + within_s
        self.name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.peak_flops = next((gpu.flops for key, gpu in GPUS.items() if key in self.name.lower()), float("nan"))
        self.lines: list[Line] = []

    def measure(self, name: str, step: Callable[[], Steps], *, parameters: int) -> None:
        """Time the step that the iterator makes; closing the iterator cleans up."""
        if time.perf_counter() > self._until:
            self.lines.append(Line(name, note="no time left"))
            return
        self._reset()
        started, made = time.perf_counter(), step()
        try:
            line = self._timed(name, next(made), parameters=parameters)
        except torch.OutOfMemoryError:
            line = Line(name, note="out of memory")
        except Exception as error:  # noqa: BLE001 one line that fails must not cost the others
            line = Line(name, note=f"{type(error).__name__}: {str(error).splitlines()[0][:90]}")
        made.close()
        line = line._replace(wall_s=time.perf_counter() - started)
        self.lines.append(line)
        print(json.dumps(line._asdict()), flush=True)

    def _timed(self, name: str, step: Step, *, parameters: int) -> Line:
        started = self._now()
        step()
        first_s = self._now() - started
        self._warm_up(step)
        begun, tokens, examples, steps = self._now(), 0, 0, 0
        while (elapsed := self._now() - begun) < self.min_s or (steps < MIN_STEPS and self.min_s == MIN_S):
            counts = step()
            tokens, examples, steps = tokens + counts[0], examples + counts[1], steps + 1
        rate = tokens / elapsed
        utilisation = 4 * parameters * rate / self.peak_flops
        return Line(name, rate, examples / elapsed, utilisation, self._peak_gib(), first_s)

    def _warm_up(self, step: Step) -> None:
        """Until sizes of passes that had not been met are compiled or recorded: such a step takes several times as
        long, and a cell of hundreds meets a dozen."""
        begun, took = self._now(), [float("inf")]
        while (elapsed := self._now() - begun) < 4 * self.min_s:
            if elapsed >= self.min_s and max(took[-SETTLED:]) < 1.3 * min(took):
                return
            before = self._now()
            step()
            took.append(self._now() - before)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _reset(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _peak_gib(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None


def main() -> None:
    options = _options()
    let_memory_grow()
    device = torch.device("cpu" if options.small else "cuda")
    bench = Bench(device, min_s=0.3 if options.small else MIN_S, within_s=options.within)
    for shape in ["toy"] if options.small else options.shapes:
        chosen = [case for case in cases(shape) if re.search(options.only, f"{shape} {case.name}")]
        if options.small:
            chosen = [case for case in chosen if case.how != "plain"]
        measure_shape(bench, shape, chosen)
    report = _report(bench, command=options.command)
    Console(width=140).print(_table(bench.lines))
    if not options.small:
        RESULTS.mkdir(exist_ok=True)
        stem = f"gpu_train_{bench.name.replace(' ', '_').lower()}_{report['date']}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def measure_shape(bench: Bench, shape: str, chosen: Sequence[Case]) -> None:
    """Everything that shares a base, then the yardstick, which makes its own."""
    config = SHAPES[shape]
    base: WarmBase | None = None
    torch._dynamo.reset()
    for case in chosen:
        if case.how == "plain":
            base = None
            steps = partial(plain, config, case)
        else:
            base = base or random_base(config, device=bench.device)
            steps = partial(hf if case.how == "hf" else ours, base, case)
        bench.measure(f"{shape} {case.name}", steps, parameters=num_parameters(config))
        del steps


def random_base(config: Mapping[str, Any], *, device: torch.device) -> WarmBase:
    """A Qwen2 of this shape with random weights, bf16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**config)).to(dtype)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(std=0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config).to(device)
    model.tie_weights()
    return WarmBase.holding(model, device=device)


def num_parameters(config: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        return Qwen2ForCausalLM(Qwen2Config(**config)).num_parameters()


def length_mix(config: Mapping[str, Any], *, count: int, seed: int = 0) -> TokenRows:
    """Examples of a realistic mix: median about half the limit (250 of 512), some at it, half of each an answer."""
    rng = np.random.default_rng(seed)
    longest = min(LONGEST, config["max_position_embeddings"])
    lengths = np.clip(rng.lognormal(np.log(0.49 * longest), 0.5, count), longest // 20 + 2, longest).astype(int)
    return TokenRows(tuple(TokenRow(rng.integers(0, config["vocab_size"], n), int(n) // 2) for n in lengths), 0)


def recipe(case: Case) -> TrainSpec:
    return TrainSpec(
        lora_rank=32, lora_alpha=64, target_modules="all-linear", epochs=1000, batch_size=case.batch,
        lora_dropout=case.dropout, learning_rate=1e-5,
    )  # fmt: skip


def new_group(base: WarmBase, case: Case) -> Group:
    """Cells on the base, each with rows of its own."""
    config = base.model.config.to_dict()
    jobs = [TrainJob(Cell("random", f"d{n}", Arm.PLAIN, n, f"k{n}"), "", f"d{n}") for n in range(case.adapters)]
    rows = [length_mix(config, count=512, seed=n) for n in range(case.adapters)]
    return Group(list(map(Lesson, jobs, rows)), base=base, spec=recipe(case), token_budget=case.budget)


def ours(base: WarmBase, case: Case) -> Steps:
    """A group's own step, with the compiler or without."""
    engine = engine_for(base.model, device=base.device, recompute=case.recompute) or Execution(False, False, False)
    base.engine = engine if case.how == "compiled" else None
    group = new_group(base, case)

    def step() -> tuple[int, int]:
        rows = [row for run in group.under_way for row in run.steps.batch()]
        group.step()
        assert not any(run.error for run in group.runs), "random rows do not diverge"
        told = {run.arithmetic for run in group.runs}
        assert case.how == "eager" or told == {"compiled"}, told
        return sum(len(row.ids) for row in rows), len(rows)

    try:
        yield step
    finally:
        group.close()
        base.compiled = None


def hf(base: WarmBase, case: Case) -> Steps:
    """What people run: transformers' model and loss, peft's layers, autocast, rows padded to 512, four at a time."""
    before = base.model.config._attn_implementation
    base.model.set_attn_implementation("sdpa")
    spec = recipe(case)
    model = adapter.attach(base.model, spec=spec, seeds=[0]).model
    parameters = adapter.trainable(model)
    optimizer = adamw(parameters, spec=spec)
    config = base.model.config.to_dict()
    rows, state = _alike(length_mix(config, count=512).rows, HF_BATCH * HF_ACCUMULATION), {"next": 0}
    longest = min(LONGEST, config["max_position_embeddings"])

    def step() -> tuple[int, int]:
        first = state["next"]
        mine = [rows[i % len(rows)] for i in range(first, first + HF_BATCH * HF_ACCUMULATION)]
        state["next"] += len(mine)
        for begin in range(0, len(mine), HF_BATCH):
            inputs = _padded(mine[begin : begin + HF_BATCH], longest, device=base.device)
            with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=base.device.type == "cuda"):
                loss = model(**inputs, use_cache=False).loss / HF_ACCUMULATION
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return sum(len(row.ids) for row in mine), len(mine)

    try:
        yield step
    finally:
        adapter.detach(model)
        base.model.set_attn_implementation(before)


def _alike(rows: Sequence[TokenRow], size: int) -> list[TokenRow]:
    """The same rows in an order in which every `size` of them have about the mean length: padded, a step of short ones
    takes as long as one of long ones, and a few dozen drawn at random would move real tokens a second by percents."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    steps = len(rows) // size
    return [row for step in range(steps) for row in ordered[step::steps]]


def plain(config: Mapping[str, Any], case: Case) -> Steps:
    """The yardstick; small models as a graph."""
    from benchmarks.plain_step import PlainStep

    rows = length_mix(config, count=512).rows
    yield PlainStep(config, rows, num_tokens=case.budget, graph=config["hidden_size"] < 2000).step


def _padded(rows: Sequence[TokenRow], length: int, *, device: torch.device) -> dict[str, torch.Tensor]:
    ids = np.stack([np.pad(row.ids, (0, length - len(row.ids))) for row in rows])
    places = np.arange(length)[None]
    ends = np.array([[len(row.ids)] for row in rows])
    starts = np.array([[row.start] for row in rows])
    labels = np.where((places >= starts) & (places < ends), ids, -100)
    columns = {"input_ids": ids, "attention_mask": (places < ends).astype(np.int64), "labels": labels}
    return {name: torch.from_numpy(values).to(device) for name, values in columns.items()}


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("step")
    for name in ("tokens/s", "examples/s", "utilisation", "peak GiB", "first s"):
        table.add_column(name, justify="right")
    for line in lines:
        numbers = zip(line[1:6], ("{:,.0f}", "{:,.1f}", "{:.1%}", "{:.1f}", "{:.0f}"), strict=True)
        cells = ["-" if value is None else form.format(value) for value, form in numbers]
        table.add_row(line.name, *(cells if not line.note else [line.note, "-", "-", "-", "-"]))
    return table


def _report(bench: Bench, *, command: str) -> dict[str, Any]:
    numbers = {line.name: {k: v for k, v in line._asdict().items() if k != "name" and v == v} for line in bench.lines}
    return {
        "device": bench.name,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "lines": numbers,
    } | told(_compared(bench.lines))


def _compared(lines: Sequence[Line]) -> list[Compared]:
    """The first compiled line of each shape beside what people run and beside plain torch."""
    rows = []
    for shape in dict.fromkeys(line.name.split()[0] for line in lines):
        mine = [line for line in lines if line.name.startswith(f"{shape} emray, pass")]
        for peer in ("transformers + peft", "plain torch"):
            theirs = next((line for line in lines if line.name.startswith(f"{shape} {peer}")), None)
            if mine and theirs:
                notes = [f"{line.name}: {line.note}" for line in (mine[0], theirs) if line.note]
                figures = (mine[0].tokens_per_s, peer, theirs.tokens_per_s)
                rows.append(
                    Compared(f"{shape}: training", "real tokens/s", *figures, ended="; ".join(notes) or TO_ITS_END)
                )
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train")
    parser.add_argument("--small", action="store_true", help="a toy shape on the CPU")
    parser.add_argument("--only", default="", help="a regular expression: which lines")
    parser.add_argument("--within", type=float, default=500, metavar="S", help="start no line after so many seconds")
    parser.add_argument("--shapes", nargs="*", default=["7B", "0.5B"], choices=list(SHAPES))
    options = parser.parse_args()
    if not options.small:
        need_gpus("benchmarks.gpu_train", otherwise="; --small runs the same code on a CPU")
    only = f" --only '{options.only}'" if options.only else ""
    options.command = f"python -m benchmarks.gpu_train{only}"
    return options


if __name__ == "__main__":
    main()
