"""A user's DeepSpeed JSON says how to compute; whatever would change an adapter unseen is refused when planning."""

import json

import pytest

from emray.errors import SpecError
from emray.spec import Sweep, TrainSpec, load_sweep


def spec_with(tmp_path, settings) -> TrainSpec:
    """The training section as workers get it, from a sweep file whose JSON is gone by then."""
    path = tmp_path / "ds.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    train = {"strategy": "deepspeed", "num_workers": 2, "deepspeed_config": "ds.json"}
    sweep = Sweep.model_validate({"name": "s", "model": "toy", "domains": ["extreme_sports"], "train": train})
    resolved = sweep.resolved(tmp_path)
    path.unlink()
    return resolved.train


def test_what_only_says_how_to_compute_is_taken_as_it_is(tmp_path):
    settings = {"zero_optimization": {"stage": 3, "overlap_comm": False}, "wall_clock_breakdown": True}
    assert spec_with(tmp_path, settings).deepspeed_settings() == settings
    assert TrainSpec().deepspeed_settings() == {}


def test_a_json_written_for_transformers_passes(tmp_path):
    settings = {
        "bf16": {"enabled": "auto"}, "fp16": {"enabled": False}, "gradient_clipping": "auto", "optimizer": "auto",
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "steps_per_print": 100,
    }  # fmt: skip
    assert spec_with(tmp_path, settings).deepspeed_settings() == {"steps_per_print": 100}
    assert spec_with(tmp_path, {"bf16": {"enabled": True}}).deepspeed_settings() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"type": "Lion"}}, r"'optimizer' would .* set train.learning_rate and train.weight_decay"),
        ({"scheduler": {"type": "WarmupLR"}}, r"'scheduler' would .* set train.schedule and train.warmup_steps"),
        ({"gradient_clipping": 0.5}, r"'gradient_clipping' would .* set train.max_grad_norm"),
        ({"train_batch_size": 64}, r"'train_batch_size' would .* set train.batch_size"),
        ({"gradient_accumulation_steps": 4}, "set resources.token_budget"),
        ({"fp16": {"enabled": True}}, r"'fp16' would .* leave it out: bf16 on a GPU"),
        ({"bf16": {"enabled": False}}, "'bf16' would"),
        ({"curriculum_learning": {"enabled": True}}, "'curriculum_learning' would"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "leave out what is quantized"),
        ("{", "not a JSON file"),
        ("[1]", "holds"),
    ],
)
def test_what_would_change_the_result_is_refused_with_what_to_do(tmp_path, settings, message):
    with pytest.raises(SpecError, match=message):
        spec_with(tmp_path, settings)


def test_fields_in_the_sweep_file_itself_are_taken_and_refused_alike(tmp_path):
    path = tmp_path / "sweep.yaml"
    opening = "name: s\nmodel: toy\ndomains: [extreme_sports]\ntrain:\n  deepspeed_config: "
    path.write_text(opening + "{steps_per_print: 100, optimizer: auto}\n")
    assert load_sweep(path).train.deepspeed_settings() == {"steps_per_print": 100}
    path.write_text(opening + "{gradient_clipping: 0.5}\n")
    with pytest.raises(SpecError, match=r"train.deepspeed_config: 'gradient_clipping' would .* train.max_grad_norm"):
        load_sweep(path)
    path.write_text(opening + "[1]\n")
    with pytest.raises(SpecError, match=r"train.deepspeed_config: the path of a DeepSpeed JSON, or its fields"):
        load_sweep(path)


def test_the_refusal_comes_when_planning(tmp_path):
    (tmp_path / "ds.json").write_text('{"gradient_clipping": 0.5}')
    (tmp_path / "sweep.yaml").write_text(
        "name: s\nmodel: toy\ndomains: [extreme_sports]\n"
        "train: {strategy: deepspeed, num_workers: 2, deepspeed_config: ds.json}\n"
    )
    sweep = load_sweep(tmp_path / "sweep.yaml")
    with pytest.raises(SpecError, match=r"ds.json: 'gradient_clipping' would change the result unseen"):
        sweep.resolved(tmp_path)
    (tmp_path / "ds.json").unlink()
    with pytest.raises(SpecError, match=r"not a JSON file: .*No such file"):
        sweep.resolved(tmp_path)
