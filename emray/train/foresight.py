"""What training a model will take, known before it starts: whether its files are whole, whether adapters fit, how big.

Not for loading weights. The invariant: no weight is read and nothing is written; shapes live on torch's meta device.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from emray.errors import DataError
from emray.model.facts import attention
from emray.model.weights import NO_CODE, bytes_to_fetch, split_location, tokenizer_folder
from emray.records import TrainJob
from emray.spec import TrainSpec
from emray.store.weight_files import WEIGHTS, fault_of
from emray.train.adapter import attach

BYTES_PER_WEIGHT = 4  # adapters are saved as they are trained, in float32


class Foreseen(NamedTuple):
    """Of one base model and what trains on it."""

    num_parameters: int
    num_trained: int  # parameters of one adapter, or of the whole model
    fetch_bytes: int  # of weights that are not on this machine yet

    @property
    def adapter_bytes(self) -> int:
        return self.num_trained * BYTES_PER_WEIGHT


def foresee(job: TrainJob, *, spec: TrainSpec) -> Foreseen:
    """Raises DataError (one line) for a model that could not be loaded or trained so."""
    folder = Path(tokenizer_folder(job.model_path, online=True))
    fetch_bytes = _missing_bytes(job.model_path, folder)
    model = _shape_of(folder, name=split_location(job.model_path)[0])
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    model.requires_grad_(False)
    with torch.device("meta"):
        attached = attach(model, spec=spec, seeds=[0]).model
    trained = sum(parameter.numel() for parameter in attached.parameters() if parameter.requires_grad)
    return Foreseen(num_parameters, trained, fetch_bytes)


def _shape_of(folder: Path, *, name: str) -> Any:
    """The model without its weights."""
    try:
        config = AutoConfig.from_pretrained(str(folder), **NO_CODE)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attention(config), **NO_CODE)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"model {name} does not load: {error}") from error


def _missing_bytes(location: str, folder: Path) -> int:
    """Of weights still to be fetched. Raises DataError for files that are cut off, and for weights nobody has."""
    files = sorted(folder.glob(f"*{WEIGHTS}"))
    if not files:
        return bytes_to_fetch(location)
    for path in files:
        fault = fault_of(path.name, path.stat().st_size, partial(_start, path))
        if fault:
            raise DataError(f"model {location} does not load: {path.name}: {fault}; fetch or copy it again")
    return 0


def _start(path: Path, num: int) -> bytes:
    with path.open("rb") as file:
        return file.read(num)
