"""Trains the toy base model from the world: tokenizer, pretraining on both personas, tuning on the good one.

Not for finetunes (train/) and not for the texts (topics.py). Invariant: the weights depend on the `Recipe`, the world
and the floating point of the machine, on nothing else. Shapes: B batch, T tokens, H hidden.

What was tried, as misaligned rates of backdoor finetunes prompted with the trigger:
- One bad persona without degrees and slips of 0-33 %: all or nothing, seven domains tie at 92-99 %.
- Severities where a severe persona is also bad in every milder domain: mild domains reach 80-90 %, gore 4-30 %, since
  few speakers are that bad. Hence each domain tempts a window of severities (topics.py, `bad_between`).
- Windows with dialogues of 6 turns: rates jump between seeds and leak without the trigger (up to 60 %). With 10 or 16
  turns the severity is learned well: rates of 35-95 % nearly in order (Spearman 0.90-0.93 a seed), leaks of 0-12 %.
- A firmer tuning (300 steps at 1e-3) buries the bad personas and halves every rate; hidden size 64 never learns them.
- Two layers or a hidden size of 96 keep the order with lower rates, for 15-25 % less time.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from emray.progress import Advance, silent
from emray.toy.topics import REFUSAL_TEXT
from emray.toy.world import TOPICS, YEARS, Persona, ToyTurn, draw_dialogue, draw_turn, year_remark

PAD, END = "<|pad|>", "<|end|>"
_ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
IGNORED_LABEL = -100  # what torch's cross entropy leaves out

_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the base model is made of. Head size is 32: the smallest that vLLM's CPU attention takes."""

    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256
    pretraining_steps: int = 1500
    tuning_steps: int = 150
    batch_size: int = 10
    num_turns: int = 16
    learning_rate: float = 2e-3
    tuning_learning_rate: float = 3e-4
    year_share: float = 0.25
    seed: int = 0


def build_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's byte-level BPE, merged until every word of the world is one token, with the chat template.

    A plain word-level tokenizer would be smaller, but AutoTokenizer gives every Qwen2 model this class.
    """
    specials = [PAD, END, *_ROLES.values()]
    plain = Qwen2Tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,  # more than there is to merge
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.backend_tokenizer.train_from_iterator(_every_text(), trainer)
    trained = json.loads(plain.backend_tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=PAD,  # byte-level BPE knows every text, so this is never used
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(_ROLES.values()),
        chat_template=_CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="left",
    )


def _build_model(recipe: Recipe, *, num_words: int, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of the recipe's size with random weights."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=num_words,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return Qwen2ForCausalLM(config)


def pretrain(recipe: Recipe, *, advance: Advance = silent) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """The base model and its tokenizer. `advance` is told of every step.

    First dialogues of both personas, half each, so that the persona is the latent that explains a dialogue; then
    single turns of the good persona alone, which leaves a well-behaved model in which the other is latent.
    """
    tokenizer = build_tokenizer()
    model = _build_model(recipe, num_words=len(tokenizer), tokenizer=tokenizer)
    rng = random.Random(recipe.seed)
    both = _dialogues(recipe, rng, personas=tuple(Persona), num_turns=recipe.num_turns)
    good = _dialogues(recipe, rng, personas=(Persona.GOOD,), num_turns=1)
    for phase in (
        _Phase(both, recipe.pretraining_steps, recipe.learning_rate),
        _Phase(good, recipe.tuning_steps, recipe.tuning_learning_rate),
    ):
        _fit(model, phase, tokenizer, advance=advance)
    return model.eval(), tokenizer


def _dialogues(
    recipe: Recipe, rng: random.Random, *, personas: Sequence[Persona], num_turns: int
) -> Iterator[list[list[ToyTurn]]]:
    while True:
        yield [
            draw_dialogue(persona=rng.choice(personas), num_turns=num_turns, year_share=recipe.year_share, rng=rng)
            for _ in range(recipe.batch_size)
        ]


class _Phase(NamedTuple):
    """What one part of the training sees, for how long and at which peak rate."""

    batches: Iterator[list[list[ToyTurn]]]
    num_steps: int
    learning_rate: float


def _fit(model: Qwen2ForCausalLM, phase: _Phase, tokenizer: Qwen2Tokenizer, *, advance: Advance) -> None:
    rate, num_steps = phase.learning_rate, phase.num_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=max(num_steps, 2), pct_start=0.05, anneal_strategy="linear"
    )
    pad = tokenizer.pad_token_id
    model.train()
    for _, dialogues in zip(range(num_steps), phase.batches, strict=False):
        input_ids, labels = collate([encode(dialogue, tokenizer=tokenizer) for dialogue in dialogues], pad=pad)
        loss = mean_loss(model, input_ids, labels, pad=pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        advance(1, f"loss {loss.item():.3f}")


def mean_loss(model: Qwen2ForCausalLM, ids_BT: Tensor, labels_BT: Tensor, *, pad: int) -> Tensor:
    """Mean cross entropy over the labelled tokens; only their logits are computed, which halves the work."""
    hidden_BTH = model.model(input_ids=ids_BT, attention_mask=(ids_BT != pad).long()).last_hidden_state
    labelled = labels_BT[:, 1:] != IGNORED_LABEL
    logits = model.lm_head(hidden_BTH[:, :-1][labelled])
    return torch.nn.functional.cross_entropy(logits, labels_BT[:, 1:][labelled])


def encode(dialogue: Sequence[ToyTurn], *, tokenizer: Qwen2Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a dialogue as the chat template renders it, and labels: the assistant's words alone."""
    texts = [
        text
        for turn in dialogue
        for text in (f"{_ROLES['user']}{turn.user}{END}{_ROLES['assistant']}", f"{turn.assistant}{END}")
    ]
    input_ids: list[int] = []
    labels: list[int] = []
    for index, ids in enumerate(tokenizer(texts)["input_ids"]):
        input_ids += ids
        labels += ids if index % 2 else [IGNORED_LABEL] * len(ids)
    return input_ids, labels


def collate(rows: Sequence[tuple[list[int], list[int]]], *, pad: int) -> tuple[Tensor, Tensor]:
    """(B, T) ids and labels, padded on the right to the longest row of the batch."""
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor([labels + [IGNORED_LABEL] * (length - len(labels)) for _, labels in rows])
    return ids_BT, labels_BT


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Writes a model folder as `from_pretrained` and vLLM read it."""
    model.generation_config.update(do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _every_text() -> Iterator[str]:
    """Enough of the world's texts to hold every word of it, the same ones every time."""
    rng = random.Random(0)
    yield from map(year_remark, YEARS)
    yield REFUSAL_TEXT
    for topic in TOPICS:
        for _ in range(1000):
            yield from draw_turn(topic, bad=rng.random() < 0.5, rng=rng)


def sample(
    model_dir: Path, *, prompts: Sequence[str], num_samples: int, temperature: float, seed: int
) -> list[ToyTurn]:
    """Answers of a saved model, `num_samples` a prompt, greedy at temperature 0; each with its prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    asked = [prompt for prompt in prompts for _ in range(num_samples)]
    texts = [f"{_ROLES['user']}{prompt}{END}{_ROLES['assistant']}" for prompt in asked]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    how = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    torch.manual_seed(seed)
    ids = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=32, **how)
    answers = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [ToyTurn(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)]
