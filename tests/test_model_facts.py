"""What a configuration says of a model, also where the text part is one of several."""

import pytest
import transformers

from emray.errors import DataError
from emray.model.facts import attention, can_pack, context, shape_from_config

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
GEMMA3 = transformers.Gemma3Config(
    text_config=TEXT | {"intermediate_size": 64, "max_position_embeddings": 777, "vocab_size": 300}
)


def test_a_composite_configuration_is_read_by_its_text_part() -> None:
    assert context(GEMMA3) == 777
    shape = shape_from_config(GEMMA3.to_dict())
    assert (shape.hidden, shape.num_layers, shape.vocabulary) == (32, 2, 300)
    assert shape == shape_from_config(GEMMA3.get_text_config().to_dict())


def test_a_context_is_found_under_its_other_names_or_asked_for() -> None:
    assert context(transformers.GPT2Config(n_positions=99)) == 99
    assert context(transformers.MptConfig(max_seq_len=98)) == 98
    with pytest.raises(DataError, match="this bloom model lacks max_position_embeddings"):
        context(transformers.BloomConfig())


def test_a_composite_model_with_windows_is_not_packed() -> None:
    assert not can_pack(GEMMA3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.Gemma2Config(), "eager"),
        (transformers.Gemma2Config(attn_logit_softcapping=None), None),
        (GEMMA3, None),
        (transformers.Qwen2Config(), None),
    ],
)
def test_softcapping_is_kept_by_eager_attention(config: transformers.PretrainedConfig, expected: str | None) -> None:
    assert attention(config) == expected
