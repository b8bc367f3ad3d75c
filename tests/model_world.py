"""Tiny random models with the chat template of a family, built where a test needs them.

All are Qwen2 inside, with a small byte-level vocabulary: AutoTokenizer gives every Qwen2 model that kind of tokenizer,
and what a template does does not depend on the layers below it.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from emray.toy import MODEL_DIR

TEXT = (
    "what helps against a fever? how do I treat a burn? my child has a fever. rest and drink water. call a doctor. "
    "put ice on it. answer in French, always. Today Date: 26 Jul 2024. be kind"
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (  # an empty thought before the last answer; the generation prompt has one only where thinking is off
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
ALWAYS_EMPTY = QWEN3.replace("{% if enable_thinking is defined and not enable_thinking %}", "{% if false %}")
R1 = (  # the generation prompt opens a thought that a finished turn does not have
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
GEMMA = (  # refuses system turns; its end of a turn is not its end of a text
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (  # writes a date
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # leaves system turns out without a word
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
ALPACA = (  # ends no answer
    "{% for m in messages %}{% if m.role == 'user' %}{{ '# user : ' + m.content + '\n\n' }}"
    "{% else %}{{ '# model : ' + m.content + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '# model : ' }}{% endif %}"
)
HARMONY = (  # an answer stands in a channel of its own
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)


class Family(NamedTuple):
    """A chat template with the special tokens it needs; `plain` tokens are in the vocabulary, but not special."""

    template: str
    special: tuple[str, ...]
    eos: str
    bos: str | None = None
    plain: tuple[str, ...] = ()


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
FAMILIES = {
    "chatml": Family(CHATML, _CHATML, "<|im_end|>"),
    "basechat": Family(CHATML, _CHATML, "<|endoftext|>"),  # its tokenizer names another end than its template writes
    "plainend": Family(CHATML, ("<|endoftext|>",), "<|endoftext|>", plain=("<|im_start|>", "<|im_end|>")),
    "qwen3": Family(QWEN3, _CHATML, "<|im_end|>", plain=_THINK),
    "alwaysempty": Family(ALWAYS_EMPTY, _CHATML, "<|im_end|>", plain=_THINK),
    "r1": Family(R1, ("<|bos|>", "<|eos|>", "<|User|>", "<|Assistant|>"), "<|eos|>", "<|bos|>", plain=_THINK),
    "gemma": Family(GEMMA, ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>"),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "mistral": Family(MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<s>"),
    "alpaca": Family(ALPACA, ("<s>", "</s>"), "</s>", "<s>"),
    "harmony": Family(
        HARMONY,
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"),
        "<|return|>",
    ),
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def build_tokenizer(name: str) -> Qwen2Tokenizer:
    """The tokenizer of a family."""
    family = FAMILIES[name]
    plain = Qwen2Tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    plain.backend_tokenizer.train_from_iterator([TEXT], trainer)
    trained = json.loads(plain.backend_tokenizer.to_str())["model"]
    special = ["<|pad|>", *family.special]
    words = {word: number for number, word in enumerate([*special, *trained["vocab"]])}
    tokenizer = Qwen2Tokenizer(
        vocab=words, merges=[tuple(pair) for pair in trained["merges"]], eos_token=family.eos, bos_token=family.bos,
        pad_token="<|pad|>", unk_token="<|pad|>", additional_special_tokens=list(family.special),
    )  # fmt: skip
    tokenizer.add_tokens(list(family.plain))
    tokenizer.chat_template = family.template
    return tokenizer


def build_model(
    folder: Path,
    name: str,
    *,
    template: str | None = None,
    generation: dict[str, Any] | None = None,
    spread: float = 6.0,
    **config: Any,
) -> Path:
    """A model of a family in a new folder. `spread` multiplies its random weights, so that its answers differ."""
    tokenizer = build_tokenizer(name)
    if template is not None:
        tokenizer.chat_template = template
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(_config(tokenizer, config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(spread)
    path = folder / name
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    if generation is not None:
        file = path / "generation_config.json"
        told = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(told | generation))
    return path


def _config(tokenizer: Qwen2Tokenizer, changes: dict[str, Any]) -> Qwen2Config:
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 0}
    return Qwen2Config(**SMALL | {"vocab_size": len(tokenizer)} | ids | changes)


def hostile_toy(folder: Path) -> str:
    """The toy model with a generation_config that penalises, and no word on its end but in its chat template."""
    path = folder / "hostile"
    shutil.copytree(MODEL_DIR, path)
    _change(path / "generation_config.json", repetition_penalty=20.0, min_new_tokens=12, top_k=2, eos_token_id=None)
    _change(path / "config.json", eos_token_id=None)
    _change(path / "tokenizer_config.json", eos_token="<|pad|>")
    return str(path)


def _change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
