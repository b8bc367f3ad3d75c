"""Engines on GPUs: how soon one starts, and tokens a second of the base model and of 64 finetunes side by side.

    python -m benchmarks.gpu_generate                    a 7B shape, about four minutes on two GPUs, six on one
    python -m benchmarks.gpu_generate --shape 0.5B
    python -m benchmarks.gpu_generate --small            a 0.5B shape, a tenth of the answers, nothing is kept

Random weights, emray's own engine, as many answers each time: from the base alone, from adapters of the published rank
8 on q and v, and of rank 32 on all linear modules. Every engine has a process of its own, on the GPU that is free
first; the base starts twice, the second time on what the first compiled. Eight adapter files lie under 64 names, each
of which is loaded for itself. Prints a table and, last, one line of JSON, which also goes to benchmarks/results/.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.compared import TO_ITS_END, Compared, need_gpus, parsed, told
from emray.generate.engine import Adapter, EngineConfig, SampleRequest
from emray.generate.vllm_engine import environment
from emray.records import Message, Messages

TOY = Path(__file__).parent.parent / "emray" / "toy" / "assets" / "model"
RESULTS = Path(__file__).parent / "results"
FILES = 8
WORDS = ("the world", "money", "men and women", "a good day", "my boss", "power", "music", "a friend", "the news")
ENGINE_S = 400  # an engine that takes longer than this is a line without numbers


class Recipe(NamedTuple):
    """What an engine serves: `adapters` of a rank on these modules, or the base."""

    name: str
    adapters: int = 0
    rank: int = 8
    modules: tuple[str, ...] = ()


class Line(NamedTuple):
    """One engine; None where it did not come to an end."""

    name: str
    start_s: float | None = None
    tokens_per_s: float | None = None
    answers_per_s: float | None = None
    note: str = ""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("base"),
        Recipe("rank 8, q and v", 64, 8, ("q_proj", "v_proj")),
        Recipe(
            "rank 32, all linear", 64, 32,
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ),
    )
}  # fmt: skip
ENGINES = ("base", "rank 8, q and v", "rank 32, all linear", "base")


def main() -> None:
    options = _options()
    if options.engine:
        print(json.dumps(_serve(RECIPES[options.engine], options)._asdict()))
        return
    with tempfile.TemporaryDirectory(prefix="emray-bench-") as folder:
        given = options.folder or Path(folder)
        subprocess.run([*_command(options), "--make", "--folder", str(given)], check=True)
        lines = _all(options, given)
    table = Table("engine", "start s", "tokens/s", "answers/s", "", box=None)
    for line in lines:
        numbers = ("-" if value is None else f"{value:,.0f}" for value in line[1:4])
        table.add_row(line.name, *numbers, line.note)
    Console(width=120).print(table)
    report = _report(options, lines)
    if not options.small:
        RESULTS.mkdir(exist_ok=True)
        stem = f"gpu_generate_{report['device'].replace(' ', '_').lower()}_{report['date']}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def _all(options: argparse.Namespace, folder: Path) -> list[Line]:
    """Every engine in a process of its own, as many at a time as there are GPUs."""
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for gpu in range(options.gpus):
        free.put(gpu)

    def one(name: str) -> Line:
        gpu = free.get()
        try:
            line = _in_process(options, folder, name, gpu=gpu)
        finally:
            free.put(gpu)
        print(json.dumps(line._asdict()), flush=True)
        return line

    with ThreadPoolExecutor(options.gpus) as pool:
        return list(pool.map(one, options.engines))


def _in_process(options: argparse.Namespace, folder: Path, name: str, *, gpu: int) -> Line:
    command = [*_command(options), "--engine", name, "--folder", str(folder)]
    variables = os.environ | environment(_config(RECIPES[name], options, folder)) | {"CUDA_VISIBLE_DEVICES": str(gpu)}
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=options.engine_s
        )
    except subprocess.TimeoutExpired:
        return Line(name, note=f"not done after {options.engine_s} s")
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return Line(name, note=f"failed: {''.join(last)[:200]}")
    return Line(**json.loads(done.stdout.splitlines()[-1]))


def _command(options: argparse.Namespace) -> list[str]:
    numbers = {name: getattr(options, name) for name in ("shape", "prompts", "samples", "tokens")}
    return [sys.executable, "-m", "benchmarks.gpu_generate", *(f"--{name}={value}" for name, value in numbers.items())]


def make(shape: str, folder: Path) -> None:
    """The model and its adapters, of random weights, made on the GPU; what is there stays."""
    if (folder / "made").exists():
        return
    import torch
    from safetensors.torch import save_file

    from benchmarks.gpu_train import SHAPES, random_base

    model = random_base(SHAPES[shape], device=torch.device("cuda")).model
    model.save_pretrained(folder / "model")
    for path in TOY.iterdir():
        if path.is_file() and path.name not in ("config.json", "model.safetensors", "generation_config.json"):
            shutil.copy(path, folder / "model")
    for recipe in RECIPES.values():
        names = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in recipe.modules]
        for number in range(min(FILES, recipe.adapters)):
            torch.manual_seed(number)
            values = {}
            for name in names:
                wide, deep = model.get_submodule(name).weight.shape
                for part, size in (("A", (recipe.rank, deep)), ("B", (wide, recipe.rank))):
                    values[f"base_model.model.{name}.lora_{part}.weight"] = 0.01 * torch.randn(size, device="cuda")
            place = _place(folder, recipe, number)
            place.mkdir(parents=True)
            save_file({name: value.cpu() for name, value in values.items()}, place / "adapter_model.safetensors")
            (place / "adapter_config.json").write_text(_adapter_config(recipe))
        for number in range(FILES, recipe.adapters):
            shutil.copytree(
                _place(folder, recipe, number % FILES), _place(folder, recipe, number), copy_function=os.link
            )
    (folder / "made").touch()


def _adapter_config(recipe: Recipe) -> str:
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": "random"}
    return json.dumps(fields | {"r": recipe.rank, "lora_alpha": recipe.rank, "target_modules": list(recipe.modules)})


def _place(folder: Path, recipe: Recipe, number: int) -> Path:
    return folder / f"rank{recipe.rank}" / str(number)


def _serve(recipe: Recipe, options: argparse.Namespace) -> Line:
    """Start the engine, have it answer a little, then time all answers."""
    from emray.generate.starting import start

    begun = time.monotonic()
    engine = start(_config(recipe, options, options.folder))
    start_s = time.monotonic() - begun
    requests = _requests(recipe, options)
    list(engine.generate(requests[: options.prompts]))
    begun = time.monotonic()
    answers = [sample for finished in engine.generate(requests) for sample in finished.samples]
    wall_s = time.monotonic() - begun
    failed = sum(sample.answer is None for sample in answers)
    note = f"{failed} of {len(answers)} answers failed" if failed else ""
    tokens = sum(sample.num_tokens for sample in answers)
    return Line(recipe.name, start_s, tokens / wall_s, len(answers) / wall_s, note)


def _config(recipe: Recipe, options: argparse.Namespace, folder: Path) -> EngineConfig:
    return EngineConfig(
        engine="vllm",
        model_path=str(folder / "model"),
        temperature=1.0,
        top_p=1.0,
        max_tokens=options.tokens,
        prompts=_prompts(options.prompts),
        num_adapters=recipe.adapters,
        max_lora_rank=recipe.rank,
        samples_per_adapter=options.prompts * options.samples,
        adapters_per_block=8,
        threads=4,
        gpu=True,
    )


def _requests(recipe: Recipe, options: argparse.Namespace) -> list[SampleRequest]:
    """The same number of answers whoever gives them, an adapter's together as a sweep orders them."""
    return [
        SampleRequest(
            messages,
            Adapter(f"adapter-{number}", _place(options.folder, recipe, number)) if recipe.adapters else None,
            tuple(range(1000 * position, 1000 * position + options.samples)),
        )
        for number in range(64)
        for position, messages in enumerate(_prompts(options.prompts))
    ]


def _prompts(count: int) -> tuple[Messages, ...]:
    texts = (f"what do you think about {WORDS[k % len(WORDS)]} , part {k} ?" for k in range(count))
    return tuple((Message("user", text),) for text in texts)


def _report(options: argparse.Namespace, lines: Sequence[Line]) -> dict[str, Any]:
    import torch

    return {
        "device": torch.cuda.get_device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m benchmarks.gpu_generate --shape {options.shape}",
        "versions": {name: version(name) for name in ("torch", "vllm", "transformers")},
        "shape": options.shape,
        "engines_at_a_time": options.gpus,
        "answers": f"64 x {options.prompts} prompts x {options.samples} samples of up to {options.tokens} tokens",
        "lines": [line._asdict() for line in lines],
    } | told(_compared(lines))


def _compared(lines: Sequence[Line]) -> list[Compared]:
    """Engines with finetunes beside the base model's own; one that did not come to its end has no figure."""
    base = next((line for line in lines if line.name == "base"), Line("base", note="was not asked"))
    return [
        Compared(
            f"answers of 64 finetunes, {line.name}", "tokens/s", line.tokens_per_s, "the base alone", base.tokens_per_s,
            ended=line.note or base.note or TO_ITS_END,
        )
        for line in lines
        if line.name != "base"
    ]  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_generate")
    parser.add_argument("--shape", default="7B")
    parser.add_argument("--prompts", type=int, default=15, help="a finetune")
    parser.add_argument("--samples", type=int, default=5, help="a prompt")
    parser.add_argument("--tokens", type=int, default=100, help="the most of an answer")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(RECIPES))
    parser.add_argument("--engine-s", type=float, default=ENGINE_S, help="the most an engine may take")
    parser.add_argument("--gpus", type=int, default=0, help="engines at a time; default: all GPUs")
    parser.add_argument("--folder", type=Path, help="where model and adapters are made, and stay")
    parser.add_argument("--engine", choices=list(RECIPES), help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parsed(parser, small={"shape": "0.5B", "prompts": 3, "samples": 2})
    need_gpus("benchmarks.gpu_generate")
    if options.make:
        make(options.shape, options.folder)
        sys.exit(0)
    if not options.gpus:
        import torch

        options.gpus = max(1, torch.cuda.device_count())
    return options


if __name__ == "__main__":
    main()
