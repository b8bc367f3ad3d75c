"""A GGUF file to a folder of safetensors: the same numbers, tokenizer and chat template; anything else is one line."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from emray.errors import DataError, UserError
from emray.model.__main__ import main
from emray.model.dequantise import dequantise, gguf_file
from emray.model.weights import resolve_model
from emray.spec import ModelSpec

HIDDEN, HEADS, MLP = 64, 2, 96
TEMPLATE = "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}{% endfor %}"


def tokens() -> list[str]:
    """Bytes as GPT-2 writes them, one merge, and the marks of a chat."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "ab", "<|im_start|>", "<|im_end|>"]


def weights(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    square, layer = (HIDDEN, HIDDEN), "blk.0."
    shapes = {
        "token_embd.weight": (size, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        **{f"{layer}{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")},
        **{f"{layer}attn_{name}.weight": square for name in ("q", "k", "v", "output")},
        **{f"{layer}ffn_{name}.weight": (MLP, HIDDEN) for name in ("gate", "up")},
        f"{layer}ffn_down.weight": (HIDDEN, MLP),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def packed(path: Path, *, template: str | None = TEMPLATE) -> dict[str, np.ndarray]:
    """Write a small Llama in Q8_0; returns its weights as they were."""
    file, vocabulary = gguf.GGUFWriter(path, "llama"), tokens()
    file.add_context_length(64)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(1)
    file.add_feed_forward_length(MLP)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_rope_dimension_count(HIDDEN // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(vocabulary))
    file.add_tokenizer_model("gpt2")
    file.add_token_list(vocabulary)
    file.add_token_types([gguf.TokenType.NORMAL] * (len(vocabulary) - 2) + [gguf.TokenType.CONTROL] * 2)
    file.add_token_merges(["a b"])
    file.add_bos_token_id(len(vocabulary) - 2)
    file.add_eos_token_id(len(vocabulary) - 1)
    if template:
        file.add_chat_template(template)
    there = weights(len(vocabulary))
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, values in there.items():
        if values.ndim == 1:
            file.add_tensor(name, values)
        else:
            file.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for write in (file.write_header_to_file, file.write_kv_data_to_file, file.write_tensors_to_file, file.close):
        write()
    return there


def test_the_folder_has_the_numbers_of_the_file_its_tokenizer_and_template_and_is_a_model(tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    there = packed(tmp_path / "m.gguf")
    out = tmp_path / "model"
    assert main([str(tmp_path / "m.gguf"), "--out", str(out)]) == 0
    found = load_file(out / "model.safetensors")
    down = found["model.layers.0.mlp.down_proj.weight"]
    assert down == pytest.approx(there["blk.0.ffn_down.weight"], abs=0.02)  # what eight bits leave of it
    assert json.loads((out / "config.json").read_text()).get("quantization_config") is None
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.decode(tokenizer("cab ab")["input_ids"]).removeprefix("<|im_start|>") == "cab ab"
    assert resolve_model(ModelSpec(path=str(out)), online=False).fingerprint.startswith("folder:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "model"]
    with pytest.raises(UserError, match="is there already"):
        dequantise(tmp_path / "m.gguf", out=out)


def test_what_is_no_chat_model_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(tmp_path / "base.gguf", template=None)
    (tmp_path / "noise.gguf").write_bytes(b"no model at all")
    for name, said in {"base": "no chat template", "noise": "does not load as a model"}.items():
        assert main([str(tmp_path / f"{name}.gguf"), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.gguf", "noise.gguf"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.gguf", "no file at missing.gguf"),
        ("no_such_package", "is not installed"),
        ("emray", "carries 0 GGUF files"),
        ("org/name", "is not installed"),
    ],
)
def test_a_source_that_is_none_is_told(source: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        gguf_file(source)
