"""The transformers engine: a sample depends on its own prompt, adapter and seed alone; failures are outcomes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from emray.generate.engine import Adapter, EngineConfig, Sample, SampleRequest
from emray.generate.transformers_engine import TransformersEngine, _SeededSampler
from emray.records import FinishReason, Message
from tests.generate_world import CONTEXT, MODEL, write_adapter
from tests.model_world import hostile_toy

CONFIG = EngineConfig(
    engine="transformers",
    model_path=MODEL,
    temperature=0.7,
    top_p=1.0,
    max_tokens=8,
    prompts=(),
    num_adapters=1,
    max_lora_rank=4,
    samples_per_adapter=1,
    adapters_per_block=1,
    threads=1,
)
SHORT, LONG = "how are you ?", "tell me what you think about the world , please . " * 3


def request(text: str, *seeds: int, adapter: Adapter | None = None) -> SampleRequest:
    return SampleRequest((Message("user", text),), adapter, seeds)


def samples(engine: TransformersEngine, *requests: SampleRequest) -> list[tuple[Sample, ...]]:
    finished = {one.position: one.samples for one in engine.generate(requests)}
    return [finished[position] for position in range(len(requests))]


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(CONFIG)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return Adapter("one", write_adapter(tmp_path_factory.mktemp("adapter"), seed=1))


def test_a_sample_does_not_depend_on_its_batch_mates(engine: TransformersEngine) -> None:
    (alone,) = samples(engine, request(SHORT, 5))
    together = samples(engine, request(LONG, 1, 2, 3), request(SHORT, 4, 5, 6))
    assert together[1][1] == alone[0]
    assert len(set(together[0] + together[1])) > 1  # seeds do matter


def test_an_adapter_changes_answers_and_the_base_comes_back_unharmed(
    engine: TransformersEngine, adapter: Adapter
) -> None:
    base, adapted, again = (
        samples(engine, request(SHORT, 1, 2, 3, adapter=which))[0] for which in (None, adapter, None)
    )
    assert base == again
    assert base != adapted


def test_greedy_answers_are_those_of_peft_alone(adapter: Adapter) -> None:
    engine = TransformersEngine(replace(CONFIG, temperature=0.0))
    ours = samples(engine, request(SHORT, 1, 2, adapter=adapter))[0]
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), adapter.folder).eval()
    chat = [{"role": "user", "content": SHORT}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    theirs = model.generate(**ids, do_sample=False, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
    text = tokenizer.decode(theirs, skip_special_tokens=True).strip()
    assert [sample.answer for sample in ours] == [text, text]
    assert text


def test_a_prompt_beyond_the_context_is_an_outcome(engine: TransformersEngine) -> None:
    too_long, fine = samples(engine, request(SHORT * CONTEXT, 1, 2), request(SHORT, 1))
    assert too_long == (Sample(None, FinishReason.OVERSIZED, 0),) * 2
    assert fine[0].finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_a_models_own_generation_config_decides_nothing(tmp_path: Path) -> None:
    """Nor does an answer need its tokenizer or configuration to name the end that the chat template writes."""
    texts = ["Hi.", "How do I start skating?", "What is 2 plus 3?"]
    greedy = replace(CONFIG, temperature=0.0, max_tokens=24)
    plain, hostile = (
        [samples(TransformersEngine(replace(greedy, model_path=path)), request(text, 1)) for text in texts]
        for path in (MODEL, hostile_toy(tmp_path))
    )
    assert hostile == plain
    assert {sample.finish_reason for ((sample,),) in plain} == {FinishReason.STOP}


def test_an_adapter_that_is_not_there_is_an_outcome(engine: TransformersEngine, tmp_path: Path) -> None:
    missing, fine = samples(engine, request(SHORT, 1, adapter=Adapter("gone", tmp_path)), request(SHORT, 1))
    assert missing == (Sample(None, FinishReason.ERROR, 0),)
    assert fine[0].answer is not None


def test_a_length_stop_is_told_from_a_stop(engine: TransformersEngine) -> None:
    (answers,) = samples(engine, request(LONG, *range(20)))
    assert all((sample.num_tokens == 8) or sample.finish_reason == FinishReason.STOP for sample in answers)
    brief = TransformersEngine(replace(CONFIG, max_tokens=1))
    assert {sample.finish_reason for sample in samples(brief, request(LONG, 1))[0]} == {FinishReason.LENGTH}


def test_the_seeded_sampler_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    num_draws, temperature = 20_000, 0.5
    sampler = _SeededSampler(range(num_draws), temperature=temperature, top_p=1.0, device="cpu")
    drawn = sampler(torch.zeros(num_draws, 1, dtype=torch.long), logits.repeat(num_draws, 1)).argmax(-1)
    seen = torch.bincount(drawn, minlength=4) / num_draws
    expected = torch.softmax(logits / temperature, -1)  # 0.865, 0.117, 0.016, 0.002
    assert torch.allclose(seen, expected, atol=4 * (0.25 / num_draws) ** 0.5)


def test_top_p_leaves_the_tail_out() -> None:
    sampler = _SeededSampler(range(500), temperature=1.0, top_p=0.6, device="cpu")
    drawn = sampler(torch.zeros(500, 1, dtype=torch.long), torch.tensor([3.0, 1.0, 0.0]).repeat(500, 1)).argmax(-1)
    assert set(drawn.tolist()) == {0}  # the first alone holds 0.84
