"""A base model loaded into this process to answer or to be read, with one adapter at a time on it.

Not for training (train/warm.py keeps its base in another form) or for vLLM. torch is imported when a model is loaded,
never with this module. The invariant: whatever adapter was on it before, the model is the base plus the one in use, and
nothing is ever merged.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from emray.model.facts import attention
from emray.model.weights import NO_PICKLE


class LoadedModel:
    """A transformers model in evaluation mode: float32 on a CPU, its own type on a GPU."""

    def __init__(self, folder: str, *, config: Any, device: str) -> None:
        import torch
        import transformers

        dtype = torch.float32 if device == "cpu" else "auto"
        base = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention(config), **NO_PICKLE
        )
        self.device = torch.device(device)
        self.base: Any = base.to(self.device).eval()
        self.model: Any = self.base  # with the adapter in use
        self._name: Hashable | None = None

    def use(self, name: Hashable | None, folder: Path | None) -> None:
        """Make the model the base plus the adapter in `folder` alone; None: the base. Equal names are one adapter.

        Raises whatever a file makes peft raise; the base is bare then.
        """
        from peft import PeftModel

        if name == self._name:
            return
        if self._name is not None:
            self.base = self.model.unload()
            self.model, self._name = self.base, None
        if folder is not None:
            self.model = PeftModel.from_pretrained(self.base, str(folder)).eval()
            self._name = name
