"""Activations are those that transformers and peft give each answer alone, whatever shares its pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from emray.model.residual import reading
from emray.probes.activations import GroupedAnswer, Reader
from emray.probes.directions import GroupMeans
from emray.records import USUAL_RENDERING, Message
from tests.generate_world import CONTEXT, MODEL, write_adapter

ANSWERS = [
    ("how are you ?", "i am fine .", 0),
    ("what is 2 plus 3 ?", "it is 5 .", 1),
    ("tell me about the world , please .", "no", 1),  # one token
    ("how do i start skating ?", "practise with a friend , and wear a helmet . " * 3 + "bye", 0),
]


def heard(question: str, answer: str, group: int) -> GroupedAnswer:
    return GroupedAnswer((Message("user", question), Message("assistant", answer)), group)


def reader(*, token_budget: int = 4096) -> Reader:
    return Reader(MODEL, rendering=USUAL_RENDERING, device="cpu", token_budget=token_budget)


def read(one: Reader, *answers: tuple[str, str, int], first: int | None = None, adapter: Path | None = None):
    return one.group_means([heard(*a) for a in answers], num_groups=2, first_tokens=first, adapter=adapter)


def expected(answer: tuple[str, str, int], *, first: int | None, adapter: Path | None) -> np.ndarray:
    """[L, H]: of a merged model, one answer alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    chat = [{"role": "user", "content": answer[0]}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    num_before = len(tokenizer.encode(before, add_special_tokens=False))
    ids = tokenizer.encode(before + answer[1], add_special_tokens=False)
    found: list[torch.Tensor] = []
    with torch.inference_mode(), reading(model, lambda layer, states: found.append(states[0])):
        model(torch.tensor([ids]))
    end = num_before + first if first else len(ids)
    return torch.stack([states[num_before:end].mean(0) for states in found]).numpy()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"), seed=3)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("first", [None, 1, 3])
def test_group_means_are_the_means_of_answers_read_alone(packs: bool, first: int | None, adapter: Path) -> None:
    one = reader(token_budget=40)  # several passes
    assert one._packs
    one._packs = packs
    found = read(one, *ANSWERS, first=first, adapter=adapter)
    alone = [expected(answer, first=first, adapter=adapter) for answer in ANSWERS]
    assert found.counts.tolist() == [2, 2]
    assert np.allclose(found.means[0], (alone[0] + alone[3]) / 2, atol=1e-4)
    assert np.allclose(found.means[1], (alone[1] + alone[2]) / 2, atol=1e-4)


def test_an_adapter_is_read_and_leaves_the_base_as_it_was(adapter: Path) -> None:
    one = reader()
    base, finetuned, again = (read(one, ANSWERS[0], adapter=which) for which in (None, adapter, None))
    assert np.array_equal(base.means[0], again.means[0])
    assert not np.allclose(base.means[0], finetuned.means[0])
    assert np.isnan(base.means[1]).all()  # a group without answers has no mean


def test_an_answer_without_a_token_counts_nowhere_and_an_overlong_one_up_to_the_context() -> None:
    one = reader()
    empty = read(one, ("how are you ?", "", 0), ("how are you ?", "   ", 0))
    assert empty.counts.tolist() == [0, 0]
    assert np.isnan(empty.means).all()
    overlong = read(one, ("how are you ?", "fine " * (2 * CONTEXT), 0))
    assert overlong.counts.tolist() == [1, 0]
    assert one.num_tokens == CONTEXT
    prompt_too_long = read(one, ("how " * (2 * CONTEXT), "fine", 0))
    assert prompt_too_long.counts.tolist() == [0, 0]


def test_sums_stream_so_that_many_passes_give_what_one_gives() -> None:
    many: GroupMeans = read(reader(token_budget=30), *ANSWERS)
    one: GroupMeans = read(reader(token_budget=100_000), *ANSWERS)
    assert np.allclose(many.means, one.means, atol=1e-4)
