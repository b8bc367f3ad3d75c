"""What stays warm on a worker between cells: the base model, its tokenizer and the tokenised datasets.

Not for adapters or optimizer steps. The invariant: the base's weights are frozen and never change, so a cell's result
does not depend on what the worker trained before.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from emray.errors import DataError
from emray.model.attention import pack_attention
from emray.model.chat import Chat
from emray.model.facts import attention, shape_from_config
from emray.model.rows import RowForm, TokenRows, tokenise
from emray.model.weights import NO_CODE, NO_PICKLE, model_folder
from emray.records import USUAL_RENDERING, Messages, Rendering
from emray.spec import TrainSpec
from emray.train.compiled import CompiledStep, engine_for
from emray.train.cost import pass_size


class WarmBase:
    """One frozen model on one device, ready for a cell."""

    def __init__(
        self,
        path: str,
        *,
        device: torch.device,
        gradient_checkpointing: bool = False,
        rendering: Rendering = USUAL_RENDERING,
    ) -> None:
        """Raises DataError when the path holds no loadable model with a chat template."""
        folder = model_folder(path)
        self.path, self.rendering = path, rendering
        self._hold(_model(folder, device=device), Chat(folder, rendering=rendering), device, gradient_checkpointing)

    @classmethod
    def holding(cls, model: Any, *, device: torch.device, gradient_checkpointing: bool = False) -> "WarmBase":
        """A base made in memory, without a tokenizer: benchmarks bring their own token ids."""
        base = cls.__new__(cls)
        base.path, base.rendering = "", USUAL_RENDERING
        base._hold(model.to(device).requires_grad_(False).train(), None, device, gradient_checkpointing)
        return base

    def _hold(self, model: Any, chat: Chat | None, device: torch.device, gradient_checkpointing: bool) -> None:
        self.model, self.chat, self.device = model, chat, device
        self.packs = pack_attention(model)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.engine = engine_for(model, device=device, recompute=gradient_checkpointing) if self.packs else None
        self.compiled: CompiledStep | None = None
        self._rows: dict[tuple[str, RowForm], TokenRows] = {}

    def pass_size(self, token_budget: int | Literal["auto"], *, spec: TrainSpec) -> int:
        """Tokens of a pass that this device has memory for beside others' work, unless a number is given."""
        shape = shape_from_config(self.model.config.to_dict())
        return pass_size(token_budget, shape=shape, spec=spec, gpu_bytes=_own_bytes(self.device))

    def rows(self, digest: str, *, examples: "Examples", form: RowForm) -> TokenRows:
        """The tokenised dataset with this digest, tokenised on first use."""
        known = self._rows.get((digest, form))
        if known is None:
            assert self.chat is not None, "a base held without one is given token ids"
            known = tokenise(examples[digest], chat=self.chat, form=form)
            self._rows[digest, form] = known
        return known


Examples = Mapping[str, Sequence[Messages]]


def let_memory_grow() -> None:
    """Before a GPU is first used: passes differ in size, and memory that grows in place is not lost to fragments."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def _own_bytes(device: torch.device) -> int:
    """What this process has of the device's memory and may still get; 0 of a CPU."""
    if device.type != "cuda":
        return 0
    free, _total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def _model(path: str, *, device: torch.device) -> Any:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        implementation = attention(AutoConfig.from_pretrained(path, **NO_CODE))
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=implementation, **NO_PICKLE)
    except (OSError, ValueError) as error:
        raise DataError(f"model {path} does not load: {error}") from error
    return model.to(device).requires_grad_(False).train()
