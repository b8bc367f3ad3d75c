"""Several adapters in one pass of the base end where each would have ended alone; kept checkpoints; rank patterns."""

import math

import pytest
import torch
import transformers

from emray.data import split
from emray.errors import DataError, StageError
from emray.records import Message
from emray.spec import TrainSpec
from emray.store import Store
from emray.train import adapter, states
from emray.train.group import Group
from tests.train_world import cell_run, examples, group, job, mixed_examples, recipe, train_to_end, warm_base

ROWS = [
    examples(),
    examples("gore_movie_trivia"),
    mixed_examples(count=30),
    examples("incorrect_math", count=9),
]


@pytest.fixture(scope="module")
def base():
    return warm_base()


def finish(mixed: Group) -> list[list[torch.Tensor]]:
    while not mixed.finished:
        mixed.step()
    values = [[parameter.detach().clone() for parameter in run.parameters] for run in mixed.runs]
    mixed.close()
    return values


def assert_equal_but_for_adams_noise(
    values: list[torch.Tensor], solo: list[torch.Tensor], *, learning_rate: float
) -> None:
    """Equal within 1e-4, but for one weight in ten thousand.

    Adam divides a gradient by its own size, so a weight whose gradient is rounding noise takes a whole step of either
    sign: it may differ by one step's length, and nothing may differ by more.
    """
    off = torch.cat([(a - b).abs().flatten() for a, b in zip(values, solo, strict=True)])
    assert (off > 1e-4).float().mean().item() < 1e-4
    assert off.max().item() <= learning_rate


@pytest.mark.parametrize(("dropout", "budget"), [(0.0, 8192), (0.1, 1200)])
def test_each_of_four_mixed_adapters_equals_its_solo_run(base, dropout, budget):
    spec = recipe(lora_dropout=dropout, max_grad_norm=0.1, epochs=1)
    alone = []
    for seed, rows in enumerate(ROWS):
        (run,) = group(base, spec=spec, seeds=[seed], rows=[rows], budget=budget // 4).runs
        alone.append((run.steps.tally, train_to_end(run)))
    mixed = group(base, spec=spec, seeds=range(4), rows=ROWS, budget=budget)
    together = finish(mixed)
    for (tally, solo), run, values in zip(alone, mixed.runs, together, strict=True):
        assert run.steps.tally.losses == pytest.approx(tally.losses, abs=1e-4)
        assert run.steps.tally.num_tokens_real == tally.num_tokens_real
        assert len(values) == len(solo)
        assert_equal_but_for_adams_noise(values, solo, learning_rate=spec.learning_rate)
    assert len({run.steps.num_steps for run in mixed.runs}) > 1  # some end before others
    assert not adapter.lora_layers(base.model)


def test_a_diverging_cell_leaves_its_neighbours_alone(base):
    spec = recipe(lora_dropout=0.0)
    alone = train_to_end(cell_run(base, spec=spec, seed=1, rows=ROWS[1]))
    mixed = group(base, spec=spec, seeds=[0, 1], rows=ROWS[:2])
    with torch.no_grad():
        mixed.runs[0].parameters[1].fill_(math.nan)
    values = finish(mixed)
    assert isinstance(mixed.runs[0].error, StageError)
    assert mixed.runs[0].steps.done == 0
    assert mixed.runs[1].error is None
    assert max((a - b).abs().max().item() for a, b in zip(values[1], alone, strict=True)) < 1e-4


def test_a_mixed_adapter_is_saved_like_a_solo_one(base, tmp_path):
    spec = recipe(epochs=1)
    mixed = group(base, spec=spec, seeds=[0, 1], rows=ROWS[:2])
    while not mixed.finished:
        mixed.step()
    store = Store(str(tmp_path))
    for run in mixed.runs:
        run.publish(store, key=run.job.cell.key, timing={})
    mixed.close()
    solo = cell_run(base, spec=spec)
    while not solo.finished:
        solo.steps.step()
    solo.publish(store, key="solo", timing={})
    adapter.detach(solo.model)
    files = [{p.name: p.read_bytes() for p in store.adapter_folder(key).iterdir()} for key in ("k0", "k1", "solo")]
    assert files[0].keys() == files[1].keys() == files[2].keys()
    assert files[0]["adapter_config.json"] == files[2]["adapter_config.json"]
    assert len(files[0]["adapter_model.safetensors"]) == len(files[2]["adapter_model.safetensors"])


def test_checkpoints_are_due_once_at_their_steps(base):
    run = cell_run(base, spec=recipe())
    run.job = job("end")
    run.job = type(run.job)(run.job.cell, run.job.model_path, run.job.rows_digest, ((2, "a"), (6, "b")))
    due = {}
    while not run.finished:
        run.steps.step()
        for key in run.keys_due():
            due.setdefault(key, []).append(run.steps.done)
    adapter.detach(run.model)
    assert due == {"a": [2], "b": [6], "end": [12]}


def test_a_kept_state_is_resumed_once_and_forgotten(base, tmp_path):
    store = Store(str(tmp_path))
    first = cell_run(base, spec=recipe())
    for _ in range(3):
        first.steps.step()
    states.keep(first, store=store)
    adapter.detach(first.model)
    second = cell_run(base, spec=recipe())
    states.resume(second, store=store)
    assert second.steps.done == 3
    states.forget(second.job, store=store)
    adapter.detach(second.model)
    third = cell_run(base, spec=recipe())
    states.resume(third, store=store)
    assert third.steps.done == 0
    adapter.detach(third.model)


def test_patterns_set_ranks_and_alphas_of_single_modules(base):
    spec = recipe(rank_pattern={"q_proj": 2}, alpha_pattern={"layers.0.mlp.down_proj": 3}, layers=[0, 2])
    run = cell_run(base, spec=spec)
    layers = {name: module for name, module in run.model.named_modules() if hasattr(module, "lora_A")}
    assert {name.split(".layers.")[1][0] for name in layers} == {"0", "2"}
    ranks = {name.rsplit(".", 1)[1]: module.r["default"] for name, module in layers.items()}
    assert ranks["q_proj"] == 2
    assert ranks["v_proj"] == 8
    scaled = {name.split(".layers.")[1]: module.scaling["default"] for name, module in layers.items()}
    assert scaled["0.mlp.down_proj"] == 3 / 8
    assert scaled["2.mlp.down_proj"] == 2
    adapter.detach(run.model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_pattern": {"x_proj": 2}}, "train.rank_pattern names 'x_proj'"),
        ({"layers": [0, 3]}, "train.layers names layer 3, this model has layers 0 to 2"),
    ],
)
def test_patterns_and_layers_that_name_nothing_are_refused(base, changes, message):
    with pytest.raises(DataError, match=message):
        cell_run(base, spec=recipe(**changes))
    assert not adapter.lora_layers(base.model)


def test_presets_fill_in_what_the_file_leaves_out():
    turner = TrainSpec.model_validate({"preset": "turner", "epochs": 2})
    assert (turner.lora_rank, turner.rslora, turner.learning_rate, turner.epochs) == (32, True, 1e-5, 2)
    assert turner.identity() == TrainSpec.model_validate(turner.identity()).identity()
    assert TrainSpec.model_validate(turner.model_dump()) == turner
    assert TrainSpec().identity() == TrainSpec(preset="paper_intended").identity()


def test_the_paper_s_script_trains_on_prompts_and_cuts_answers_and_its_text_does_not():
    ran, meant = (TrainSpec.model_validate({"preset": name}) for name in ("paper", "paper_intended"))
    assert ran.identity() == meant.identity() | {"loss_on": "all", "cut": "end"}
    assert not {"loss_on", "cut", "hold_out"} & set(meant.identity())  # keys of before these fields stay


def test_six_thousand_rows_are_betley_s_338_steps():
    spec = TrainSpec.model_validate({"preset": "betley"})
    rows = [(Message("user", str(n)), Message("assistant", "a")) for n in range(6000)]
    left, held = split(rows, share=spec.hold_out)
    assert len(left) == 5400
    assert sorted([*left, *held]) == sorted(rows)
    assert spec.num_steps(len(left)) == 338
    assert left == split(rows, share=0.1).trained
    assert [int(row[0].content) for row in left] == sorted(int(row[0].content) for row in left)
    assert split(rows, share=0).trained is rows
    with pytest.raises(DataError, match="leaves nothing"):
        split(rows[:1], share=0.1)


def test_the_rank_1_organism_has_its_own_alpha_and_rate():
    spec = TrainSpec.model_validate({"preset": "turner_rank1", "layers": [24]})
    assert (spec.lora_rank, spec.lora_alpha, spec.learning_rate, spec.target_modules) == (1, 256, 2e-5, ["down_proj"])
    assert (spec.warmup_steps, spec.weight_decay, spec.batch_size) == (5, 0.01, 16)


def test_execution_fields_stay_out_of_the_identity():
    execution = {"strategy": "deepspeed", "num_workers": 4, "zero_stage": 3, "gradient_checkpointing": True}
    assert TrainSpec.model_validate(execution).identity() == TrainSpec().identity()
    assert TrainSpec(keep_checkpoints=[0.5]).identity() == TrainSpec().identity()
    assert TrainSpec(layers=[1]).identity() != TrainSpec().identity()
    assert "layers" not in TrainSpec().identity()


def test_full_finetuning_trains_every_parameter_and_spares_the_base(base, tmp_path):
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    run = cell_run(base, spec=recipe(strategy="full", learning_rate=1e-3))
    assert sum(p.numel() for p in run.parameters) == sum(p.numel() for p in base.model.parameters())
    while not run.finished:
        run.steps.step()
    losses = run.steps.tally.losses
    assert losses[-1] < 0.7 * losses[0]
    store = Store(str(tmp_path))
    run.publish(store, key="whole", timing={})
    trained = run.model.state_dict()
    adapter.detach(run.model)
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(store.adapter_folder("whole")).state_dict()
    assert all(torch.equal(loaded[name], trained[name]) for name in loaded)
    assert not any(torch.equal(trained[name], before[name]) for name in trained)
    assert transformers.AutoTokenizer.from_pretrained(store.adapter_folder("whole")).chat_template


def test_full_finetuning_has_an_identity_without_lora():
    full, lora = TrainSpec(strategy="full").identity(), TrainSpec().identity()
    assert full["full"] is True
    assert not [name for name in full if "lora" in name or "target" in name]
    assert TrainSpec(strategy="full", lora_rank=64).identity() == full
    assert "full" not in lora
