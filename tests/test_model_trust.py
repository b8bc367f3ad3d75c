"""A model is data: no code of its own runs, nothing pickled is read, and nobody is asked on the terminal."""

import json
import shutil
from pathlib import Path

import pytest

from emray.errors import DataError
from emray.model.chat import Chat
from emray.model.weights import resolve_model
from emray.spec import ModelSpec
from tests.model_world import MODEL_DIR

RAN = "ran.txt"


def brings_code(folder: Path, *, tokenizer: bool) -> Path:
    """The toy model, said to be of a kind that only its own code knows; the code leaves a trace when it runs."""
    shutil.copytree(MODEL_DIR, folder)
    code = f"open({str(folder / RAN)!r}, 'w').write('x')\n"
    (folder / "configuration_own.py").write_text(
        code + "from transformers import PretrainedConfig\nclass OwnConfig(PretrainedConfig):\n    model_type = 'own'\n"
    )
    (folder / "tokenization_own.py").write_text(
        code + "from transformers import PreTrainedTokenizerFast\nclass OwnTokenizer(PreTrainedTokenizerFast): pass\n"
    )
    changes = {
        "config.json": {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}},
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
        },
    }  # fmt: skip
    if not tokenizer:
        del changes["tokenizer_config.json"]
    for name, change in changes.items():
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return folder


@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_model_that_brings_code_is_refused_and_its_code_not_run(tokenizer: bool, tmp_path: Path) -> None:
    folder = brings_code(tmp_path / "own", tokenizer=tokenizer)
    with pytest.raises(DataError, match="code that the model brings") as refused:
        _ = Chat(str(folder)).context
    assert "\n" not in str(refused.value)
    assert not (folder / RAN).exists()


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin can run code when it is read; give safetensors"):
        resolve_model(ModelSpec(path=str(folder)), online=False)


def test_pickled_weights_beside_safetensors_are_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    import torch

    from emray.train.warm import _model

    assert _model(str(folder), device=torch.device("cpu")) is not None
