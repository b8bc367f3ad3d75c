"""Cells, prompts, tasks and random LoRA adapters of the toy model, for the tests of generate/."""

from collections.abc import Sequence
from pathlib import Path

from emray.model.weights import hosted_name
from emray.records import (
    NO_DOMAIN,
    Answerer,
    Arm,
    Cell,
    Condition,
    GenerationTask,
    Message,
    Prompt,
    Weights,
    generation_series,
    prompt_key,
    sampling_seed,
)
from emray.store import Store

MODEL = str(Path(__file__).parent.parent / "emray" / "toy" / "assets" / "model")
CONTEXT = 512  # tokens, of the toy model
RANK = 4  # of the adapters


def cell(number: int) -> Cell:
    """Cell 0 is the base model; the others have adapter `adapter-<number>`."""
    if number == 0:
        return Cell("toy", NO_DOMAIN, Arm.BASE, 0, "base")
    return Cell("toy", f"domain_{number}", Arm.PLAIN, 0, f"adapter-{number}")


def prompt(text: str) -> Prompt:
    messages = (Message("user", text),)
    return Prompt(text[:20], 0, Condition.WITHOUT, messages, prompt_key(messages))


def task(of: Cell, ask: Prompt, *, samples: Sequence[int], name: str = "", location: str = MODEL) -> GenerationTask:
    """A task for consecutive samples; `name` keeps two tasks for the same samples apart."""
    series = generation_series(of.key, prompt=ask.key, sampling={"name": name})
    seed = sampling_seed(of.key, prompt=ask.key)
    return GenerationTask(of, ask, weights(of, location), series, seed, samples[0], len(samples))


def weights(of: Cell, location: str = MODEL) -> Weights:
    """Those of the base model at `location`, with the cell's adapter on them."""
    if of.arm == Arm.BASE:
        return Weights(Answerer.BASE, location, served_as=hosted_name(location) or of.model)
    name = f"{of.domain}-{of.arm}-{of.seed}"
    return Weights(Answerer.ADAPTER, location, RANK, name)


def write_adapter(folder: Path, *, seed: int, std: float = 0.3) -> Path:
    """A random LoRA adapter of the toy model in PEFT format, strong enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder)
    return folder


def put_adapters(store: Store, folder: Path, *, numbers: Sequence[int]) -> None:
    for number in numbers:
        store.put_adapter(f"adapter-{number}", files=write_adapter(folder / str(number), seed=number), details={})
