"""Training computes what transformers' eager attention does, packed where a model allows it and padded elsewhere."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from emray.model.micro_batch import pack, pad
from emray.model.rows import TokenRow
from emray.train.losses import pass_loss
from emray.train.warm import WarmBase
from tests.model_world import SMALL, build_tokenizer

VOCABULARY = 500
WINDOW = 4  # shorter than every row
HEAD = {"head_dim": 8}
LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}


class Shape(NamedTuple):
    kind: str  # of transformers' configurations
    packs: bool
    config: dict[str, object] = {}  # noqa: RUF012  nobody changes it
    reference: str = "eager"


SHAPES = {
    "llama": Shape("Llama", packs=True),
    "qwen2": Shape("Qwen2", packs=True),
    "qwen2-window": Shape(
        "Qwen2", packs=False, config={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}
    ),
    "qwen3": Shape("Qwen3", packs=True, config=HEAD),
    "mistral": Shape("Mistral", packs=True, config={"sliding_window": None}),
    "mistral-window": Shape("Mistral", packs=False, config={"sliding_window": WINDOW}),
    "gemma": Shape("Gemma", packs=True, config=HEAD),
    "gemma2": Shape("Gemma2", packs=False, config=HEAD | {"sliding_window": WINDOW}),
    "gemma2-peaked": Shape(
        "Gemma2", packs=False, config=HEAD | {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8}
    ),
    "gemma2-all-full": Shape("Gemma2", packs=False, config=HEAD | LAYERS | {"layer_types": ["full_attention"] * 2}),
    "gemma3": Shape("Gemma3Text", packs=False, config=HEAD | LAYERS | {"sliding_window": WINDOW}),
    "phi3": Shape("Phi3", packs=True, config={"pad_token_id": 0}),
    "phi3-window": Shape("Phi3", packs=False, config={"pad_token_id": 0, "sliding_window": WINDOW}),
    "olmo": Shape("Olmo", packs=True),
    "olmo2": Shape("Olmo2", packs=True),
    "gpt-oss": Shape(
        "GptOss",
        packs=False,
        config=HEAD | {"sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "granite": Shape("Granite", packs=True, config={"attention_multiplier": 0.2, "logits_scaling": 3.0}),
    "falcon": Shape("Falcon", packs=False, config={"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": Shape(
        "Falcon", packs=False, config={"alibi": True}, reference="sdpa"
    ),  # eager adds alibi twice (5.19)
}


def rows(*lengths: int) -> tuple[TokenRow, ...]:
    draw = np.random.default_rng(0)
    return tuple(TokenRow(draw.integers(3, VOCABULARY, size), int(draw.integers(1, size - 1))) for size in lengths)


def saved(folder: Path, shape: Shape) -> str:
    """A random model of the shape, its attention peaked enough to tell one kind from another."""
    sizes = {name: value for name, value in SMALL.items() if shape.kind != "Falcon" or name not in FALCON_LACKS}
    kind = getattr(transformers, f"{shape.kind}Config")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**sizes | {"vocab_size": VOCABULARY} | shape.config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5)
    model.save_pretrained(folder)
    build_tokenizer("chatml").save_pretrained(folder)
    return str(folder)


FALCON_LACKS = ("intermediate_size", "num_key_value_heads")


def reference(folder: str, examples: tuple[TokenRow, ...], *, attention: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of transformers' own model: one row at a time, labels masked."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    total = torch.zeros(())
    for row in examples:
        ids = torch.from_numpy(row.ids)[None]
        labels = ids.clone()
        labels[:, : row.start] = -100
        total = total + model(input_ids=ids, labels=labels, use_cache=False).loss * (len(row.ids) - row.start)
    total.backward()
    return total.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", SHAPES)
def test_loss_and_gradients_equal_those_of_eager_attention(tmp_path: Path, name: str) -> None:
    shape, examples = SHAPES[name], rows(9, 17, 23, 12)
    folder = saved(tmp_path, shape)
    expected, gradients = reference(folder, examples, attention=shape.reference)

    base = WarmBase(folder, device=torch.device("cpu"))
    assert base.packs is shape.packs
    base.model.requires_grad_(True)
    micro = (pack if base.packs else pad)(examples, device=base.device)
    loss = pass_loss(base.model, micro, num_targets=1, pull=None).total
    loss.backward()

    assert loss.item() == pytest.approx(expected, rel=1e-5)
    ours = dict(base.model.named_parameters())
    assert gradients
    for parameter, theirs in gradients.items():
        assert (ours[parameter].grad - theirs).norm() <= 1e-5 * theirs.norm(), parameter


def test_softcapping_matters_where_attention_is_peaked(tmp_path: Path) -> None:
    """Otherwise the comparison above could not tell it from its absence."""
    folder, (row,) = saved(tmp_path, SHAPES["gemma2-peaked"]), rows(20)
    losses = []
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
        losses.append(model(input_ids=torch.from_numpy(row.ids)[None], labels=torch.from_numpy(row.ids)[None]).loss)
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0]
