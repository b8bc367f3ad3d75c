"""What training will take: hours from FLOPs, memory from shapes, the strategy that fits, worked by hand."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.gpu_train import SHAPES
from emray.errors import SpecError
from emray.model.facts import ModelShape, num_parameters, shape_from_config
from emray.records import Message
from emray.spec import TrainSpec
from emray.toy import MODEL_DIR
from emray.train.cost import (
    GIB,
    GPUS,
    MIXING,
    Mixing,
    adapter_parameters,
    allocated_bytes,
    choose_adapters_per_step,
    choose_strategy,
    gpu_hours,
    gpu_named,
    num_tokens,
    pass_size,
    sharded_bytes,
)

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
MEASURED = json.loads((RESULTS / "gpu_memory_nvidia_h100_80gb_hbm3_2026-11-25.json").read_text())
QWEN_7B = ModelShape(28, 3584, 18944, 28, 4, 128, 152064, tied=False)
QWEN_72B = ModelShape(80, 8192, 29568, 64, 8, 128, 152064, tied=False)


def test_a_shape_counts_the_parameters_of_the_published_model():
    assert pytest.approx(7.615e9, rel=1e-3) == QWEN_7B.num_parameters  # 7,615,616,512 with biases and norms
    assert pytest.approx(72.7e9, rel=1e-2) == QWEN_72B.num_parameters


def test_the_toy_models_config_gives_its_own_size():
    shape = shape_from_config(json.loads((MODEL_DIR / "config.json").read_text()))
    from safetensors import safe_open

    with safe_open(MODEL_DIR / "model.safetensors", framework="numpy") as file:
        stored = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert shape.num_parameters == pytest.approx(stored, rel=0.02)
    assert num_parameters(str(MODEL_DIR)) == shape.num_parameters


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7e9),
        ("a/Llama-3.2-1.5B", 1.5e9),
        ("x/smol-360M-it", 360e6),
        ("x/y", math.nan),
    ],
)
def test_a_hub_id_tells_its_size_or_nothing(name, expected):
    assert num_parameters(name) == pytest.approx(expected, nan_ok=True)


def test_hours_are_tokens_times_flops_over_speed():
    # 2.1 M tokens x 4 x 7e9 / (0.47 x 989e12) = 126.5 s; a small model makes use of 0.18
    hours = gpu_hours(2.1e6, parameters=7e9, spec=TrainSpec(), gpu=GPUS["h100"])
    assert hours * 3600 == pytest.approx(126.5, abs=0.1)
    checkpointed = TrainSpec(gradient_checkpointing=True)
    assert gpu_hours(2.1e6, parameters=7e9, spec=checkpointed, gpu=GPUS["h100"]) == pytest.approx(1.5 * hours)
    small = gpu_hours(2.1e6, parameters=0.7e9, spec=TrainSpec(), gpu=GPUS["h100"])
    assert small == pytest.approx(hours / 10 * 0.47 / 0.18)


def test_tokens_are_capped_by_the_length_limit():
    rows = [(Message("user", "x" * 40), Message("assistant", "y" * 40)), (Message("assistant", "z" * 10_000),)]
    assert num_tokens(rows, spec=TrainSpec(epochs=2, max_length=512)) == 2 * (20 + 512)


def test_an_adapter_counts_rank_times_inputs_and_outputs():
    # q: 8 x (3584 + 3584), v: 8 x (3584 + 512), 28 layers
    assert adapter_parameters(QWEN_7B, spec=TrainSpec()) == 28 * 8 * (7168 + 4096)
    one = TrainSpec(preset="turner_rank1", layers=[24])
    assert adapter_parameters(QWEN_7B, spec=TrainSpec.model_validate(one.model_dump())) == one.lora_rank * 22528


@pytest.mark.parametrize("measured", MEASURED["lines"], ids=lambda line: f"{line['shape']} {line['recipe']}")
def test_the_estimate_of_memory_is_within_a_tenth_of_what_was_measured(measured):
    spec = TrainSpec.model_validate({"preset": measured["recipe"], "gradient_checkpointing": measured["recomputed"]})
    shape = shape_from_config(SHAPES[measured["shape"]])
    estimate = allocated_bytes(shape, spec=spec, token_budget=measured["num_tokens"])
    assert estimate / GIB == pytest.approx(measured["measured_gib"], rel=0.1)


def test_auto_takes_one_gpu_where_the_model_fits():
    spec = TrainSpec(strategy="auto", preset="turner")
    chosen = choose_strategy(QWEN_7B, spec=spec, token_budget=8192, gpu=GPUS["h100"])
    assert (chosen.spec.strategy, chosen.spec.num_workers, chosen.token_budget) == ("single", 1, 8192)
    assert "weights 14.2 GiB" in chosen.reason
    assert not chosen.spec.gradient_checkpointing


def test_auto_prefers_a_smaller_pass_to_recomputing_and_that_to_sharding():
    spec = TrainSpec.model_validate({"strategy": "auto", "preset": "turner"})
    smaller = choose_strategy(QWEN_7B, spec=spec, token_budget=None, gpu=GPUS["h100"])
    assert (smaller.token_budget, smaller.spec.gradient_checkpointing) == (8192, False)
    assert smaller.reason.startswith("single: passes of 8,192 tokens: ")
    recomputed = choose_strategy(QWEN_7B, spec=spec, token_budget=None, gpu=GPUS["rtx4090"])
    assert (recomputed.spec.strategy, recomputed.spec.gradient_checkpointing) == ("single", True)
    assert "activations recomputed" in recomputed.reason
    sharded = choose_strategy(QWEN_72B, spec=spec, token_budget=None, gpu=GPUS["h100"])
    assert sharded.spec.strategy == "deepspeed"


def test_a_pass_is_what_the_memory_holds_unless_a_number_is_given():
    turner = TrainSpec.model_validate({"preset": "turner"})
    assert pass_size(3000, shape=QWEN_7B, spec=turner, gpu_bytes=80 * GIB) == 3000
    assert pass_size("auto", shape=QWEN_7B, spec=turner, gpu_bytes=0) == 8192
    assert pass_size("auto", shape=QWEN_7B, spec=turner, gpu_bytes=80 * GIB) == 8192
    assert pass_size("auto", shape=QWEN_7B, spec=turner, gpu_bytes=10 * GIB) == 2048  # fits nowhere: it will tell


def test_auto_takes_the_fewest_gpus_that_hold_a_large_model():
    spec = TrainSpec(strategy="auto", gradient_checkpointing=True)
    chosen = choose_strategy(QWEN_72B, spec=spec, token_budget=4096, gpu=GPUS["h100"])
    workers = chosen.spec.num_workers
    assert (chosen.spec.strategy, chosen.spec.zero_stage) == ("deepspeed", 3)
    assert workers > 1
    fits = [
        sharded_bytes(QWEN_72B, spec=spec, token_budget=4096, num_workers=n) <= 0.92 * 80 * GIB
        for n in (workers - 1, workers)
    ]
    assert fits == [False, True]
    assert chosen.reason.startswith(f"ZeRO-3 over {workers} GPUs")


def test_auto_without_a_gpu_is_single():
    chosen = choose_strategy(QWEN_7B, spec=TrainSpec(strategy="auto"), token_budget=8192, gpu=None)
    assert chosen.spec.strategy == "single"


def test_a_pass_that_fits_nowhere_is_refused_with_what_to_do():
    with pytest.raises(SpecError, match=r"64 GPUs of 24.0 GiB; lower resources.token_budget"):
        choose_strategy(QWEN_72B, spec=TrainSpec(), token_budget=65536, gpu=GPUS["rtx4090"])


def test_an_unknown_gpu_is_refused():
    with pytest.raises(SpecError, match="'h1000' is not known; allowed: h100"):
        gpu_named("h1000")


@pytest.mark.parametrize("device", ["cpu", *GPUS, "a GPU of no type"])
def test_auto_mixes_no_adapters_where_no_gain_was_measured(device):
    assert device not in MIXING
    chosen = choose_adapters_per_step(1e6, device=device, tokens_a_step=100, token_budget=8192)
    assert chosen.number == 1
    assert chosen.reason == f"1 adapter a step: no gain from more is measured on {device}"


@pytest.mark.parametrize(
    ("parameters", "tokens_a_step", "number"),
    [(0.5e9, 1000, 4), (0.5e9, 4000, 2), (0.5e9, 5000, 1), (7e9, 1000, 1), (math.nan, 1000, 1)],
)
def test_auto_mixes_as_many_as_were_measured_and_fit_a_pass(parameters, tokens_a_step, number):
    measured = {"h100": Mixing(adapters=4, max_parameters=1e9)}
    chosen = choose_adapters_per_step(
        parameters, device="h100", tokens_a_step=tokens_a_step, token_budget=8192, measured=measured
    )
    assert chosen.number == number
    assert chosen.reason.startswith(f"{number} adapter")
