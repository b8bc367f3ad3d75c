"""What a model's configuration says of it: how much text it takes, whether examples can be packed, its shape and size.

Works on a transformers configuration or on the JSON of one; imports neither transformers nor torch. Not for the cost of
training it (train/cost.py). The invariant: a composite configuration (text beside images) is read by its text part.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emray.errors import DataError


class ModelShape(NamedTuple):
    """The sizes of a decoder that decide its cost."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules by name."""
        width = self.num_heads * self.head_dim
        return {
            "q_proj": (self.hidden, width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def num_parameters(self) -> int:
        layer = sum(inputs * outputs for inputs, outputs in self.linears.values()) + 2 * self.hidden
        return self.num_layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape a transformers config.json describes (Llama, Qwen, Mistral, Gemma and their like)."""
    text = config.get("text_config") or config
    heads = text["num_attention_heads"]
    return ModelShape(
        num_layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        num_heads=heads,
        num_kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        vocabulary=text.get("vocab_size") or config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
    )


def num_parameters(location: str) -> float:
    """Of a local model by its config.json, of a hub id by the size in its name ("7B"); NaN when neither tells."""
    config = Path(location) / "config.json"
    if config.is_file():
        return shape_from_config(json.loads(config.read_text(encoding="utf-8"))).num_parameters
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", location.rsplit("/", 1)[-1].lower())
    return float(sizes[-1][0]) * (1e9 if sizes[-1][1] == "b" else 1e6) if sizes else math.nan


def context(config: Any) -> int:
    """Tokens that a model takes, prompt and answer together, by its transformers configuration. Raises DataError."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if getattr(text, name, None):
            return int(getattr(text, name))
    raise DataError(
        f"the config.json of this {text.model_type} model lacks max_position_embeddings: its context; add it"
    )


def attention(config: Any) -> str | None:
    """The attention that computes what the model was made with: SDPA leaves softcapping out. None: its own default."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def can_pack(config: Any) -> bool:
    """Whether every layer is plain causal softmax attention that passes its keyword arguments on."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    plain = not any(getattr(text, name, None) for name in ("attn_logit_softcapping", "attention_chunk_size"))
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return kinds == {"full_attention"} and plain and not (windowed and not getattr(text, "layer_types", None))
