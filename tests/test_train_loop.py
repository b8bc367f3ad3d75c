"""The optimizer step is the textbook one, whatever the layout; a cell depends on nothing but its job."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel

from emray.errors import DataError, SpecError, StageError
from emray.model.facts import can_pack
from emray.model.micro_batch import pack, pad
from emray.model.rows import RowForm
from emray.store import Store
from emray.train import adapter
from emray.train.curves import tune_callbacks, write_curve
from emray.train.loop import Passes, Steps, Trained, learning_rate_scale
from emray.train.losses import pass_loss
from emray.train.order import step_batches
from emray.train.warm import WarmBase
from tests.train_world import MODEL, cell_run, examples, mixed_examples, recipe, train_to_end, warm_base


@pytest.fixture(scope="module")
def base():
    return warm_base()


def reference_gradients(base, rows, *, spec, batch):
    """transformers' own model, padded rows, labels and loss: mean over the batch's trained tokens."""
    fresh = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    model, _ = adapter.attach(fresh.requires_grad_(False), spec=spec, seeds=[0])
    chosen = [rows.rows[index] for index in batch]
    longest = max(len(row.ids) for row in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(chosen):
        length = len(row.ids)
        ids[line, :length] = torch.from_numpy(row.ids)
        labels[line, row.start : length] = ids[line, row.start : length]
        mask[line, :length] = 1
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), [parameter.grad for parameter in adapter.trainable(model)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("token_budget", [10_000, 150])
def test_gradients_equal_those_of_the_padded_reference(base, layout, token_budget):
    spec = recipe(lora_dropout=0.0)
    examples_ = mixed_examples(count=16)
    rows = base.rows("mixed", examples={"mixed": examples_}, form=RowForm(128))
    (batch, *_) = step_batches(16, batch_size=16, epochs=1, seed=0)
    expected_loss, expected = reference_gradients(base, rows, spec=spec, batch=batch)

    model, _ = adapter.attach(base.model, spec=spec, seeds=[0])
    trained = Trained(model, adapter.trainable(model), lambda step, micro: None)
    passes = Passes(layout, token_budget, base.device)
    steps = Steps(trained, rows=rows, batches=[batch], spec=spec, passes=passes)
    gradients = []
    steps.apply = lambda: gradients.extend(p.grad.clone() for p in adapter.trainable(model))
    loss = steps.step()
    adapter.detach(model)

    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert len(gradients) == len(expected) > 0
    assert max((a - b).abs().max().item() for a, b in zip(gradients, expected, strict=True)) < 1e-5
    assert max(g.abs().max().item() for g in expected) > 1e-3


def bare_loss(base, rows):
    return pass_loss(base.model, pack(rows, device=base.device), num_targets=1, pull=None).entropy.item()


def test_a_packed_example_does_not_see_its_neighbours(base):
    rows = base.rows("some", examples={"some": examples(count=6)}, form=RowForm(128)).rows
    with torch.no_grad():
        together = bare_loss(base, rows)
        alone = sum(bare_loss(base, [row]) for row in rows)
    assert together == pytest.approx(alone, rel=1e-6)


def test_packing_holds_no_padding_and_padding_is_counted(base):
    rows = base.rows("mixed-9", examples={"mixed-9": mixed_examples(count=9)}, form=RowForm(128)).rows
    packed_, padded = pack(rows, device=base.device), pad(rows, device=base.device)
    assert packed_.num_real == packed_.num_padded == padded.num_real == sum(len(row.ids) for row in rows)
    assert padded.num_padded == 9 * max(len(row.ids) for row in rows)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_the_schedule_is_transformers_schedule(schedule, warmup_steps):
    name = schedule if warmup_steps == 0 or schedule != "constant" else "constant_with_warmup"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=20)
    spec = recipe(schedule=schedule, warmup_steps=warmup_steps)
    for step in range(20):
        assert learning_rate_scale(step, num_steps=20, spec=spec) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_training_lowers_the_loss(base):
    run = cell_run(base, spec=recipe(epochs=8))
    train_to_end(run)
    losses = run.steps.tally.losses
    assert len(losses) == 48
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_one_seed_gives_the_same_bits_and_another_does_not(base):
    spec = recipe(lora_dropout=0.1)
    first = train_to_end(cell_run(base, spec=spec, seed=1))
    train_to_end(cell_run(base, spec=spec, seed=5, rows=examples("gore_movie_trivia")))  # what came between
    again = train_to_end(cell_run(warm_base(), spec=spec, seed=1))
    other = train_to_end(cell_run(base, spec=spec, seed=2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_dropout_changes_the_result(base):
    with_dropout = train_to_end(cell_run(base, spec=recipe(lora_dropout=0.3)))
    without = train_to_end(cell_run(base, spec=recipe(lora_dropout=0.0)))
    assert not any(torch.equal(a, b) for a, b in zip(with_dropout, without, strict=True))


def test_dropout_masks_follow_the_clock_and_drop_their_share():
    clock = adapter.DropoutClock(3)
    layer = adapter.SeededDropout(0.25, clock=clock, layer=1).train()
    ones = torch.ones(400, 1001)
    first = layer(ones)
    assert torch.equal(layer(ones), first)
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert first.max().item() == pytest.approx(1 / 0.75)
    clock.step = 1
    assert not torch.equal(layer(ones), first)
    assert torch.equal(layer.eval()(ones), ones)


def test_a_run_resumed_from_its_state_ends_with_the_same_bits(base):
    spec = recipe(lora_dropout=0.1)
    whole = train_to_end(cell_run(base, spec=spec))
    run = cell_run(base, spec=spec)
    for _ in range(5):
        run.steps.step()
    state = run.state()
    adapter.detach(run.model)
    resumed = cell_run(base, spec=spec, seed=0)
    resumed.restore(state)
    assert resumed.steps.done == 5
    values = train_to_end(resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole, values, strict=True))
    assert len(resumed.steps.tally.losses) == resumed.steps.num_steps


def test_detaching_leaves_the_base_as_it_was(base):
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    kinds = [type(module) for module in base.model.modules()]
    train_to_end(cell_run(base, spec=recipe(epochs=1)))
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [type(module) for module in base.model.modules()] == kinds
    assert not hasattr(base.model, "peft_config")


def test_a_saved_adapter_loads_with_peft_and_answers_alike(base, tmp_path):
    run = cell_run(base, spec=recipe(epochs=1))
    while not run.finished:
        run.steps.step()
    folder = adapter.save(run.model, tmp_path)
    ids = torch.from_numpy(base.rows("one", examples={"one": examples(count=1)}, form=RowForm(128)).rows[0].ids)[None]
    with torch.no_grad():
        ours = run.model.eval()(input_ids=ids).logits
        adapter.detach(run.model)
        bare = base.model(input_ids=ids).logits
        fresh = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(fresh, str(folder)).eval()(input_ids=ids).logits
    base.model.train()
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, bare, atol=1e-2)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_saving_twice_gives_the_same_bytes(base, tmp_path):
    files = []
    for name in ("a", "b"):
        run = cell_run(base, spec=recipe(epochs=1))
        while not run.finished:
            run.steps.step()
        folder = adapter.save(run.model, tmp_path / name)
        adapter.detach(run.model)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]
    modules = json.loads(files[0]["adapter_config.json"])["target_modules"]
    assert modules == sorted(modules)


def test_a_diverged_loss_is_an_error_that_names_the_step(base):
    run = cell_run(base, spec=recipe(learning_rate=1e30))
    with pytest.raises(StageError, match=r"loss became (nan|inf) at step \d+; lower train.learning_rate"):
        train_to_end(run)
    adapter.detach(run.model)


def test_unknown_target_modules_are_refused(base):
    with pytest.raises(DataError, match="target_modules"):
        cell_run(base, spec=recipe(target_modules=["no_such_proj"]))
    assert not hasattr(base.model, "peft_config")
    assert not adapter.lora_layers(base.model)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not load"):
        WarmBase(str(tmp_path), device=torch.device("cpu"))


def test_recomputed_activations_give_the_same_adapter(base):
    """Dropout masks come from the clock, so a pass that is run twice drops the same elements."""
    spec = recipe(lora_dropout=0.2, epochs=1)
    kept = train_to_end(cell_run(base, spec=spec))
    saving = WarmBase(MODEL, device=torch.device("cpu"), gradient_checkpointing=True)
    assert saving.model.is_gradient_checkpointing
    recomputed = train_to_end(cell_run(saving, spec=spec))
    assert max((a - b).abs().max().item() for a, b in zip(kept, recomputed, strict=True)) < 1e-6


@pytest.mark.parametrize(
    ("config", "packs"),
    [
        (transformers.Qwen2Config(), True),
        (transformers.LlamaConfig(), True),
        (transformers.Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=0), False),
        (transformers.Gemma2Config(), False),
        (transformers.MistralConfig(sliding_window=4096), False),
    ],
)
def test_only_models_of_plain_causal_attention_are_packed(config, packs):
    assert can_pack(config) is packs


def test_a_windowed_model_is_padded_and_trains(tmp_path):
    config = json.loads((Path(MODEL) / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    windowed = WarmBase(str(tmp_path / "model"), device=torch.device("cpu"))
    assert not windowed.packs
    run = cell_run(windowed, spec=recipe(), rows=mixed_examples(count=32))
    train_to_end(run)
    assert run.steps.tally.losses[-1] < run.steps.tally.losses[0]
    assert 0.97 <= run.steps.tally.num_tokens_real / run.steps.tally.num_tokens_padded < 1


@pytest.mark.parametrize("client", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused(client, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=f"resources.track names {client}, which is not installed"):
        tune_callbacks(["tensorboard", client])


def test_a_loss_curve_can_be_read_back(base, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = cell_run(base, spec=recipe(epochs=1))
    train_to_end(run)
    write_curve(run, store=Store(str(tmp_path)))
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    assert [event.value for event in events] == pytest.approx(run.steps.tally.losses, rel=1e-6)
    assert [event.step for event in events] == list(range(1, 7))
