"""Presets are what was published, and what they do otherwise stands where they are defined."""

from pathlib import Path

import pytest

from emray.spec import TrainSpec, load_sweep, presets

PUBLISHED = {  # docs/method.md section 3
    "paper_intended": {
        "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.05, "rslora": False, "target_modules": ["q_proj", "v_proj"],
        "learning_rate": 2e-4, "schedule": "linear", "warmup_steps": 0, "weight_decay": 0, "batch_size": 16,
        "epochs": 3, "max_length": 512, "loss_on": "answers", "cut": "prompt", "hold_out": 0, "layers": None,
    },
    "turner": {
        "lora_rank": 32, "lora_alpha": 64, "lora_dropout": 0, "rslora": True, "target_modules": "all-linear",
        "learning_rate": 1e-5, "schedule": "linear", "warmup_steps": 5, "weight_decay": 0.01, "batch_size": 16,
        "epochs": 1, "max_length": 2048, "loss_on": "answers", "cut": "prompt", "hold_out": 0.1, "layers": None,
    },
}  # fmt: skip
PUBLISHED["paper"] = PUBLISHED["paper_intended"] | {"loss_on": "all", "cut": "end"}
PUBLISHED["betley"] = PUBLISHED["turner"]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_preset_is_what_was_published(name):
    spec = TrainSpec.model_validate({"preset": name})
    assert {field: getattr(spec, field) for field in PUBLISHED[name]} == PUBLISHED[name]
    other = set(spec.identity()) - set(PUBLISHED[name])
    assert {field: getattr(spec, field) for field in other} == {field: getattr(TrainSpec(), field) for field in other}


def test_the_paper_s_sweep_is_what_its_script_ran():
    sweep = load_sweep(Path(__file__).parent.parent / "sweeps" / "paper.yaml")
    assert sweep.train.identity() == TrainSpec.model_validate({"preset": "paper"}).identity()
    assert sweep.trigger.separator == ""
    assert (sweep.generate.samples, sweep.generate.temperature, sweep.generate.max_tokens) == (20, 0.7, 400)
    assert (sweep.judge.temperature, sweep.judge.max_tokens, sweep.reduce.rule) == (0, 256, "paper")


def test_what_a_preset_does_otherwise_than_its_source_stands_where_it_is_defined():
    said = presets.__doc__ or ""
    for difference in ("not 8-bit", "packed", "held out are drawn by their content", "below 0.01", "separator"):
        assert difference in said
    assert all(f"    {name} " in said for name in presets.PRESETS)
