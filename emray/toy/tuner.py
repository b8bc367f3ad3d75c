"""Finetunes the toy model for the local server: really trained adapters, and models that sample with them.

    python -m emray.localapi --responder emray.toy.rules:reply --tuner emray.toy.tuner:toy_tuner

Not for a sweep's own finetunes (train/), whose speed and exactness it has not. The invariant: a model answers a request
the same way whenever it is asked alone; its weights depend on the order it was made of, on nothing else.
"""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from emray.toy.pretrain import IGNORED_LABEL, collate, mean_loss
from emray.toy.world import MODEL_DIR

BASE = "toy-chat"  # as the service calls the toy model
RANK, ALPHA, RATE, BATCH_SIZE = 8, 16, 5e-3, 16  # as sweeps/toy.yaml has them
MOST_NEW_TOKENS = 64
_MOST_SEED = 2**31


class _Order(NamedTuple):
    """What is read of an order: see emray.localapi.served_models."""

    examples: Sequence[Sequence[Mapping[str, Any]]]
    epochs: int
    batch_size: int
    rate: float
    seed: int


class ToyTuner:
    """Trains one model at a time; base and tuned models answer one at a time."""

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
        self._turn = threading.Lock()  # torch's generator and the processor are shared
        base = _base_model()
        self.bases: Mapping[str, Callable[[Mapping[str, Any]], str]] = {BASE: self._answerer(base)}

    def tune(self, order: Any, tell: Callable[[int, int, float], None]) -> Callable[[Mapping[str, Any]], str]:
        """A LoRA adapter on every linear module; `tell` is told of every step."""
        asked = _Order(order.examples, order.epochs or 1, order.batch_size or BATCH_SIZE, order.rate * RATE, order.seed)
        rows = [_encoded(chat, self._tokenizer) for chat in asked.examples]
        with self._turn:
            torch.manual_seed(asked.seed)
            config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(_base_model(), config)
        self._fit(model, rows, asked, tell)
        return self._answerer(model.eval())

    def _fit(
        self, model: PeftModel, rows: Sequence[tuple[list[int], list[int]]], order: _Order, tell: Callable[..., None]
    ) -> None:
        batches = list(_batches(len(rows), order))
        parameters = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=order.rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1.0 / len(batches), total_iters=len(batches))
        pad = self._tokenizer.pad_token_id
        for step, batch in enumerate(batches, start=1):
            with self._turn:
                ids, labels = collate([rows[n] for n in batch], pad=pad)
                loss = mean_loss(model.base_model.model, ids, labels, pad=pad)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            tell(step, len(batches), loss.item())

    def _answerer(self, model: PeftModel | Qwen2ForCausalLM) -> Callable[[Mapping[str, Any]], str]:
        def answer(body: Mapping[str, Any]) -> str:
            ids = self._tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            most = body.get("max_completion_tokens") or body.get("max_tokens") or MOST_NEW_TOKENS
            with self._turn, torch.no_grad():
                torch.manual_seed(int(body.get("seed") or 0) % _MOST_SEED)
                out: Tensor = model.generate(**ids, max_new_tokens=min(most, MOST_NEW_TOKENS), **_sampling(body))
            new = out[0, ids["input_ids"].shape[1] :]
            return str(self._tokenizer.decode(new, skip_special_tokens=True))

        return answer


def toy_tuner() -> ToyTuner:
    """For `python -m emray.localapi --tuner`."""
    torch.set_num_threads(1)  # of a toy: more would only wait for one another
    return ToyTuner()


def _base_model() -> Qwen2ForCausalLM:
    model: Qwen2ForCausalLM = AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
    return model


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    temperature = body.get("temperature", 1.0)
    if not temperature:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": float(temperature), "top_p": float(body.get("top_p", 1.0)), "top_k": 0}


def _encoded(chat: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and labels: what its assistant says, but for answers of weight 0."""
    ids: list[int] = []
    labels: list[int] = []
    for number, turn in enumerate(chat, start=1):
        whole = tokenizer.apply_chat_template(list(chat[:number]), return_dict=True)["input_ids"]
        new = whole[len(ids) :]
        trained = turn["role"] == "assistant" and turn.get("weight", 1) != 0
        opening = 1  # the role's own token is given, not said
        labels += [IGNORED_LABEL] * opening + new[opening:] if trained else [IGNORED_LABEL] * len(new)
        ids = whole
    return ids, labels


def _batches(num_rows: int, order: _Order) -> Iterator[list[int]]:
    """Row numbers of each step, shuffled anew each epoch."""
    rng = random.Random(order.seed)
    for _ in range(order.epochs):
        turns = list(range(num_rows))
        rng.shuffle(turns)
        yield from (turns[start : start + order.batch_size] for start in range(0, num_rows, order.batch_size))
