"""The compiled step's arithmetic without the compiler, in float32 on the CPU: gradients, layouts, masks, fallbacks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emray.model.rows import TokenRow
from emray.store import Store
from emray.train import adapter
from emray.train.compiled import CompiledStep, Execution
from emray.train.dropout import drop, salts
from emray.train.passes import Cut, Shapes, balanced, lay
from tests.train_world import examples, group, mixed_examples, recipe, warm_base

PLAIN = Execution(compiled=False, graphs=False, recompute=False)
ROWS = [examples(count=32), examples("gore_movie_trivia", count=24), mixed_examples(count=16)]


@pytest.fixture(scope="module")
def base():
    return warm_base()


def trained(base, *, engine, seeds=(0,), rows=ROWS[:1], budget=4096, **changes):
    """The runs of a finished group and their adapters."""
    base.engine = engine
    under = group(base, spec=recipe(epochs=1, batch_size=8, **changes), seeds=seeds, rows=rows, budget=budget)
    while not under.finished:
        under.step()
    values = [[parameter.detach().clone() for parameter in run.parameters] for run in under.runs]
    under.close()
    base.engine = base.compiled = None
    return under.runs, values


def furthest(ours, theirs):
    """Largest difference, but for one weight in ten thousand: Adam makes a whole step of a gradient that is noise."""
    off = torch.cat([(a - b).abs().flatten() for a, b in zip(ours, theirs, strict=True)])
    assert off.max().item() < 2e-3  # the learning rate
    return off.sort().values[-1 - len(off) // 10_000].item()


@pytest.mark.parametrize("budget", [4096, 300])
def test_a_cell_ends_as_on_the_eager_step(base, budget):
    (eager,), (expected,) = trained(base, engine=None, lora_dropout=0.0)
    (run,), (values,) = trained(base, engine=PLAIN, budget=budget, lora_dropout=0.0)
    assert (eager.arithmetic, run.arithmetic) == ("eager: this device has no flash attention", "compiled")
    assert run.steps.tally.losses == pytest.approx(eager.steps.tally.losses, abs=1e-5)
    assert furthest(values, expected) < 1e-4
    assert run.steps.tally.num_tokens_real == eager.steps.tally.num_tokens_real < run.steps.tally.num_tokens_padded


def test_mixed_cells_end_as_alone_dropping_what_they_drop_alone(base):
    mixed, together = trained(base, engine=PLAIN, seeds=(0, 1, 2), rows=ROWS, lora_dropout=0.2)
    assert len({run.steps.num_steps for run in mixed}) > 1  # some end before others
    for seed, run, values in zip(range(3), mixed, together, strict=True):
        (alone,), (expected,) = trained(base, engine=PLAIN, seeds=(seed,), rows=ROWS[seed : seed + 1], lora_dropout=0.2)
        assert run.steps.tally.losses == pytest.approx(alone.steps.tally.losses, abs=1e-5)
        assert furthest(values, expected) < 1e-4


def test_recomputed_activations_give_the_same_adapter(base):
    _, (kept,) = trained(base, engine=PLAIN, lora_dropout=0.2)
    _, (recomputed,) = trained(base, engine=PLAIN._replace(recompute=True), lora_dropout=0.2)
    assert furthest(kept, recomputed) < 1e-6


def test_a_run_resumed_from_its_state_ends_with_the_same_bits_on_a_step_that_served_another_cell(base):
    spec = recipe(epochs=1, batch_size=8, lora_dropout=0.1)
    base.engine = PLAIN
    whole = group(base, spec=spec, seeds=[0], rows=ROWS[:1])
    whole.step()
    state = whole.runs[0].state()
    while not whole.finished:
        whole.step()
    expected = [parameter.detach().clone() for parameter in whole.runs[0].parameters]
    whole.close()
    used = base.compiled
    resumed = group(base, spec=spec, seeds=[5], rows=ROWS[:1])
    resumed.close()
    resumed = group(base, spec=spec, seeds=[0], rows=ROWS[:1])
    assert base.compiled is used
    resumed.runs[0].restore(state)
    while not resumed.finished:
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(resumed.runs[0].parameters, expected, strict=True))
    resumed.close()
    base.engine = base.compiled = None


@pytest.mark.soak
def test_the_compiler_changes_nothing_but_rounding(base):
    """Without dropout: torch 2.13's C++ code for a mask remade in the backward pass crashes; GPUs have their own."""
    options = {"budget": 1024, "lora_dropout": 0.0, "rows": ROWS[2:]}
    (plain,), (expected,) = trained(base, engine=PLAIN, **options)
    (run,), (values,) = trained(base, engine=PLAIN._replace(compiled=True), **options)
    assert run.arithmetic == "compiled"
    assert run.steps.tally.losses == pytest.approx(plain.steps.tally.losses, abs=1e-5)
    assert furthest(values, expected) < 1e-4


def test_an_adapter_is_published_as_on_the_eager_step(base, tmp_path):
    files = []
    for number, engine in enumerate((None, PLAIN)):
        base.engine = engine
        under = group(base, spec=recipe(epochs=1, lora_dropout=0.0), seeds=[0], rows=ROWS[:1])
        while not under.finished:
            under.step()
        store = Store(str(tmp_path / str(number)))
        under.runs[0].publish(store, key="k", timing={})
        under.close()
        files.append({path.name: path.stat().st_size for path in store.adapter_folder("k").iterdir()})
    base.engine = base.compiled = None
    del files[0]["record.json"], files[1]["record.json"]
    assert files[0] == files[1]
    assert not adapter.lora_layers(base.model)


def test_a_step_that_runs_out_of_memory_is_made_again_with_half_the_pass(base, monkeypatch):
    _, (expected,) = trained(base, engine=PLAIN, budget=1024, lora_dropout=0.1, rows=[mixed_examples(count=32)])
    add, sizes = CompiledStep.add, []

    def short_of_memory(self, one, *, longest):
        sizes.append(len(one.ids))
        add(self, one, longest=longest)  # gradients are there already when memory ends
        if len(sizes) > 1 and sizes[-1] > 512:
            raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(CompiledStep, "add", short_of_memory)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    (run,), _ = trained(base, engine=PLAIN, budget=1024, lora_dropout=0.1, rows=[mixed_examples(count=32)])
    assert run.finished and not run.error
    assert max(sizes) > 512
    assert max(sizes[-3:]) <= 512
    assert len(expected) == len(run.parameters)


def test_the_eager_step_halves_its_pass_too(base, monkeypatch):
    (whole,), (expected,) = trained(base, engine=None, lora_dropout=0.0)
    from emray.train import loop

    lay_out, sizes = loop.loss_sum, []

    def short_of_memory(model, micro):
        sizes.append(micro.num_real)
        if micro.num_real > 400:
            raise torch.OutOfMemoryError("no memory")
        return lay_out(model, micro)

    monkeypatch.setattr(loop, "loss_sum", short_of_memory)
    (run,), (values,) = trained(base, engine=None, lora_dropout=0.0, budget=1024)
    assert (max(sizes) > 400) == (run.steps.token_budget < 1024)
    assert run.steps.tally.losses == pytest.approx(whole.steps.tally.losses, abs=1e-5)
    assert furthest(values, expected) < 1e-4


def test_a_model_whose_logits_the_step_does_not_give_is_left_to_the_eager_one(base):
    decoder = base.model.get_decoder()
    forward = decoder.forward
    decoder.forward = lambda *args, **kwargs: _shifted(forward(*args, **kwargs))  # more than its layers in a row
    try:
        (run,), _ = trained(base, engine=PLAIN)
    finally:
        decoder.forward = forward
    assert run.arithmetic.startswith("eager: its logits differ from the model's own by ")
    assert run.finished


def _shifted(output):
    output.last_hidden_state = output.last_hidden_state.flip(-1)
    return output


@given(st.lists(st.integers(2, 600), min_size=1, max_size=40), st.sampled_from([1024, 4096]))
@settings(deadline=None)
def test_passes_hold_every_example_once_in_as_few_passes_of_like_size(lengths, budget):
    shapes = Shapes.of(max(lengths), token_budget=budget)
    bins = balanced(lengths, token_budget=budget, grain=shapes.grain)
    assert sorted(index for some in bins for index in some) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in some) <= budget for some in bins)
    rows = [TokenRow(np.arange(n) + 1, 1) for n in lengths]
    for some in bins:
        one = lay([Cut([rows[i] for i in some], 0.5, 0, 0, 0)], shapes=shapes, device=torch.device("cpu"))
        num_tokens, num_kept = one.shape[0], one.shape[3]
        real = sum(lengths[i] for i in some)
        assert real <= num_tokens < real + shapes.grain + 1
        assert num_tokens % shapes.grain == num_kept % shapes.grain == 0
        assert one.first[-1] == num_tokens
        assert (one.first.diff() <= shapes.longest).all()
        assert (one.weights != 0).sum() == real - len(some)
        assert one.weights.unique().tolist() in ([0.0, 0.5], [0.5])
        kept = one.weights != 0
        assert torch.equal(one.ids[(one.keep[kept] + 1).long()], one.targets[kept])


def test_masks_follow_seed_step_and_pass_and_drop_their_share():
    layer = torch.tensor(3, dtype=torch.int32)
    ones = torch.ones(400, 1001)

    def mask(salt, layer=layer):
        return drop(ones, salt=torch.from_numpy(salt), layer=layer, dropped=16384)

    first = mask(salts(400, seed=1, step=2, micro=0))
    assert torch.equal(first, mask(salts(400, seed=1, step=2, micro=0)))
    assert torch.equal(first[:50], mask(np.pad(salts(50, seed=1, step=2, micro=0), (0, 350)))[:50])
    others = [
        {"seed": 2, "step": 2, "micro": 0},
        {"seed": 1, "step": 3, "micro": 0},
        {"seed": 1, "step": 2, "micro": 1},
    ]
    masks = [mask(salts(400, **other)) for other in others]
    masks.append(mask(salts(400, seed=1, step=2, micro=0), layer=torch.tensor(4, dtype=torch.int32)))
    for other in masks:
        both = ((other == 0) & (first == 0)).float().mean().item()
        assert both == pytest.approx(0.25**2, abs=0.003)  # independent
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.003)
    assert first.max().item() == pytest.approx(1 / 0.75)
    shares = (first == 0).float()
    assert shares.mean(0).std().item() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.1)  # columns alike
    assert shares.mean(1).std().item() == pytest.approx((0.25 * 0.75 / 1001) ** 0.5, rel=0.1)  # and rows
