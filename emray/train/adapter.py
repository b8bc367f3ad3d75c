"""What is trained: LoRA adapters on a warm base, attached, saved in PEFT format and detached; or a copy of the base.

peft makes and runs the layers; this file adds a seeded start and a dropout that can be repeated. Not for optimizer
steps. The invariant: after `detach` the base holds the modules it held before `attach`, untouched.
"""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from emray.errors import DataError
from emray.spec import ALL_LINEAR, TrainSpec

SOLO = "default"  # peft's name for the only adapter


class DropoutClock:
    """Where a cell stands: dropout masks are a function of this and the layer, so a step can be repeated exactly."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.micro = 0

    def generator(self, *, layer: int, device: torch.device) -> torch.Generator:
        """A generator for one layer in one micro-batch of one step."""
        mixed = (((self.seed * 1_000_003 + self.step) * 8191 + self.micro) * 16_381 + layer) % (1 << 63)
        return torch.Generator(device).manual_seed(mixed)


class SeededDropout(torch.nn.Module):
    """Inverted dropout whose mask depends only on the clock and the layer: the same alone, mixed, or recomputed.

    A mask takes 16 random bits an element (four to a draw: drawing floats was a sixth of a toy step), so the
    probability is rounded to a multiple of 2**-16.
    """

    def __init__(self, probability: float, *, clock: DropoutClock, layer: int) -> None:
        super().__init__()
        self.p = probability
        self._dropped = round(probability * 65536)
        self._clock = clock
        self._layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        generator = self._clock.generator(layer=self._layer, device=inputs.device)
        draws = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64, device=inputs.device)
        bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)[: inputs.numel()]
        keep = (bits >= self._dropped - 32768).view(inputs.shape)
        return inputs * keep.to(inputs.dtype).mul_(65536 / (65536 - self._dropped))


class Attached(NamedTuple):
    """Adapters on a base, by name, in the order of their seeds; or a whole model as the only one."""

    model: Any  # PeftModel, or a transformers model where every parameter is trained
    clocks: dict[str, DropoutClock]

    def each(self) -> "list[One]":
        """The adapters one by one."""
        return [One(self.model, name, clock) for name, clock in self.clocks.items()]


class One(NamedTuple):
    """One of the adapters on a base."""

    model: Any
    name: str
    clock: DropoutClock


def lora_config(model: Any, *, spec: TrainSpec) -> LoraConfig:
    """peft's configuration of one adapter on this model."""
    targets = spec.target_modules
    if targets == ALL_LINEAR and spec.layers is not None:  # peft takes layers with names only
        targets = _linear_names(model)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        use_rslora=spec.rslora,
        target_modules=targets,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern=dict(spec.alpha_pattern),
        layers_to_transform=spec.layers,
    )


def attach(model: Any, *, spec: TrainSpec, seeds: Sequence[int]) -> Attached:
    """One fresh adapter on the base for every seed, each as it would be alone.

    Raises DataError when the targets or patterns name nothing in this model.
    """
    if spec.strategy == "full":
        assert len(seeds) == 1, "whole models do not share a base"
        whole = copy.deepcopy(model).float().requires_grad_(True)
        return Attached(whole.train(), {SOLO: DropoutClock(seeds[0])})
    names = [SOLO] if len(seeds) == 1 else [f"cell{number}" for number in range(len(seeds))]
    _check_layers(model, spec=spec)
    config = lora_config(model, spec=spec)
    torch.manual_seed(seeds[0])
    try:
        peft_model = get_peft_model(model, config, adapter_name=names[0])
    except ValueError as error:
        _forget(model)
        raise DataError(f"train.target_modules {spec.target_modules} do not fit this model: {error}") from error
    for name, seed in zip(names[1:], seeds[1:], strict=True):
        torch.manual_seed(seed)
        peft_model.add_adapter(name, config)
    peft_model.base_model.set_adapter(names)
    _check_patterns(peft_model, spec=spec)
    clocks = {name: DropoutClock(seed) for name, seed in zip(names, seeds, strict=True)}
    for name, clock in clocks.items():
        seed_dropout(peft_model, adapter=name, probability=spec.lora_dropout, clock=clock)
    return Attached(peft_model.train(), clocks)


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """While this lasts, the base answers alone, whatever its adapted layers do otherwise."""
    layers = lora_layers(model)
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = layer.get_base_layer().__call__  # with its hooks: sharded weights are gathered by them
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _linear_names(model: Any) -> list[str]:
    """The last part of every linear module's name but the output head's."""
    head = model.get_output_embeddings()
    linear = (name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _check_layers(model: Any, *, spec: TrainSpec) -> None:
    num_layers = model.config.num_hidden_layers
    beyond = [layer for layer in spec.layers or [] if layer >= num_layers]
    if beyond:
        raise DataError(f"train.layers names layer {beyond[0]}, this model has layers 0 to {num_layers - 1}")


def _check_patterns(peft_model: PeftModel, *, spec: TrainSpec) -> None:
    """peft leaves out a pattern that matches nothing without a word."""
    names = [name for name, module in peft_model.named_modules() if isinstance(module, LoraLayer)]
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(spec, field):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                detach(peft_model)
                raise DataError(f"train.{field} names {pattern!r}, which is none of the adapted modules")


def seed_dropout(model: Any, *, adapter: str, probability: float, clock: DropoutClock) -> None:
    """Replace peft's dropout of one adapter by the repeatable one."""
    if probability == 0:
        return
    for number, layer in enumerate(lora_layers(model)):
        layer.lora_dropout[adapter] = SeededDropout(probability, clock=clock, layer=number)


def lora_layers(model: Any) -> list[LoraLayer]:
    """The LoRA layers in the model's own order."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def trainable(model: Any, *, adapter: str = SOLO) -> list[torch.nn.Parameter]:
    """The parameters of one adapter, or all of a whole model, in the model's own order."""
    if not isinstance(model, PeftModel):
        return list(model.parameters())
    return [value for name, value in model.named_parameters() if value.requires_grad and f".{adapter}." in f"{name}."]


def load(one: One, folder: Path) -> None:
    """Take over the values of a saved adapter, or of a whole model; its names and shapes are to be ours.

    Raises DataError for weights that are not there or are of another shape.
    """
    whole = not isinstance(one.model, PeftModel)
    path = folder / ("model.safetensors" if whole else "adapter_model.safetensors")
    if not path.exists():
        raise DataError(f"what it goes on with has no weights: there is no {path}")
    saved = load_file(path)
    mark = f".{one.name}."
    ours = one.model.named_parameters()
    mine = {name if whole else name.replace(mark, "."): value for name, value in ours if whole or mark in name}
    told = {name: tuple(value.shape) for name, value in mine.items()}
    if told != {name: tuple(value.shape) for name, value in saved.items()}:
        raise DataError(f"{path} does not fit: its modules or their ranks are not those of `train`")
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(saved[name])


def save(peft_model: Any, folder: Path, *, adapter: str = SOLO) -> Path:
    """Write adapter_config.json and adapter_model.safetensors; equal adapters give equal bytes.

    A whole model is written as transformers writes it: config.json and model.safetensors, in one file.
    """
    if not isinstance(peft_model, PeftModel):
        peft_model.save_pretrained(str(folder), max_shard_size="1TB")
        return folder
    peft_model.save_pretrained(str(folder), selected_adapters=[adapter], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card says nothing about this adapter
    folder = folder if adapter == SOLO else folder / adapter
    config = folder / "adapter_config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(fields["target_modules"], list):  # peft writes a set in hash order
        fields["target_modules"] = sorted(fields["target_modules"])
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def detach(peft_model: Any) -> None:
    """Leave the base bare again; a whole model was a copy."""
    if not isinstance(peft_model, PeftModel):
        return
    base = peft_model.unload()
    _forget(base)


def _forget(base: Any) -> None:
    """peft leaves its configuration on the base, and would warn of a second adapter."""
    if hasattr(base, "peft_config"):
        del base.peft_config
