"""The compiled step's arithmetic without the compiler, in float32 on the CPU: gradients, layouts, masks, fallbacks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emray.cluster import ON_CPU, Attempts
from emray.context import Context
from emray.model.rows import TokenRow
from emray.store import Store
from emray.train import adapter
from emray.train.compiled import CompiledStep, Execution
from emray.train.dropout import drop, salts
from emray.train.passes import Cells, Cut, Shapes, balanced, lay
from emray.train.queue import CellQueue
from emray.train.schedule import _Outcomes
from emray.train.spans import gather, narrow, widen
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


@pytest.mark.parametrize("max_width", [0, 96])
def test_mixed_cells_end_as_alone_dropping_what_they_drop_alone(base, monkeypatch, max_width):
    """By spans, and side by side."""
    monkeypatch.setattr("emray.train.compiled.MAX_WIDTH", max_width)
    mixed, together = trained(base, engine=PLAIN, seeds=(0, 1, 2), rows=ROWS, lora_dropout=0.2)
    assert len({run.steps.num_steps for run in mixed}) > 1  # some end before others
    for seed, run, values in zip(range(3), mixed, together, strict=True):
        (alone,), (expected,) = trained(base, engine=PLAIN, seeds=(seed,), rows=ROWS[seed : seed + 1], lora_dropout=0.2)
        assert run.steps.tally.losses == pytest.approx(alone.steps.tally.losses, abs=1e-5)
        assert furthest(values, expected) < 1e-4


def test_each_span_of_tokens_meets_its_own_matrices():
    """An empty span among them, and tokens after the last that are nobody's."""
    torch.manual_seed(0)
    ends = torch.tensor([5, 5, 12], dtype=torch.int32)
    x, low, w = torch.randn(15, 7), torch.randn(15, 3), torch.randn(3, 3, 7)
    whose = torch.tensor([[1.0, 0, 0]] * 5 + [[0.0, 0, 1]] * 7 + [[0.0, 0, 0]] * 3)
    assert torch.allclose(narrow(x, w, ends), torch.einsum("tc,tn,crn->tr", whose, x, w), atol=1e-5)
    assert torch.allclose(widen(low, w, ends), torch.einsum("tc,tr,crn->tn", whose, low, w), atol=1e-5)
    assert torch.allclose(gather(low, x, ends), torch.einsum("tc,tr,tn->crn", whose, low, x), atol=1e-5)


def test_a_cell_that_diverges_beside_others_fails_alone(base):
    """What is not finite spoils the gradients of whoever shares its pass: they make that step again."""
    base.engine = PLAIN
    spec = recipe(epochs=1, batch_size=8, lora_dropout=0.0)
    under = group(base, spec=spec, seeds=(0, 1, 2), rows=ROWS, budget=4096)
    under.step()
    with torch.no_grad():
        under.runs[1].parameters[0].fill_(float("inf"))
    while not under.finished:
        under.step()
    values = [[parameter.detach().clone() for parameter in run.parameters] for run in under.runs]
    under.close()
    base.engine = base.compiled = None
    assert str(under.runs[1].error).startswith("loss became nan at step ")
    for number in (0, 2):
        (alone,), (expected,) = trained(
            base, engine=PLAIN, seeds=(number,), rows=ROWS[number : number + 1], lora_dropout=0.0
        )
        run = under.runs[number]
        assert not run.error and run.steps.done == alone.steps.done
        assert run.steps.tally.losses == pytest.approx(alone.steps.tally.losses, abs=1e-5)
        assert furthest(values[number], expected) < 1e-4


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
    (run,), (values,) = trained(base, engine=PLAIN, budget=1024, lora_dropout=0.1, rows=[mixed_examples(count=32)])
    assert run.finished and not run.error
    assert max(sizes) > 512
    assert max(sizes[-3:]) <= 512
    assert furthest(values, expected) < 1e-4  # masks do not hang on passes


def test_the_eager_step_halves_its_pass_too(base, monkeypatch):
    (whole,), (expected,) = trained(base, engine=None, lora_dropout=0.0)
    from emray.train import loop

    lay_out, sizes = loop.pass_loss, []

    def short_of_memory(model, micro, **options):
        sizes.append(micro.num_real)
        if micro.num_real > 400:
            raise torch.OutOfMemoryError("no memory")
        return lay_out(model, micro, **options)

    monkeypatch.setattr(loop, "pass_loss", short_of_memory)
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


def test_why_steps_on_a_gpu_are_not_compiled_is_said_once(capsys, tmp_path):
    context = Context(Store(str(tmp_path)), hardware=ON_CPU)
    attempts = Attempts(most=1, nodes=list)
    outcomes = _Outcomes((), context=context, queue=CellQueue([], attempts=attempts), attempts=attempts)
    for how in ("", "compiled", "eager: its output head is more than a product", "compiled"):
        for _ in range(2):
            outcomes.tell_how(how)
    told = capsys.readouterr().err
    assert told == "train: steps are not compiled, eager: its output head is more than a product\n"


def _shifted(output):
    output.last_hidden_state = output.last_hidden_state.flip(-1)
    return output


lengths_of_cells = st.lists(st.lists(st.integers(2, 600), max_size=20), min_size=1, max_size=6)


@given(lengths_of_cells, st.sampled_from([1024, 4096]), st.integers(1, 4))
@settings(deadline=None)
def test_passes_hold_every_example_once_in_few_passes_of_like_size(lengths, budget, places):
    longest = max((max(mine, default=0) for mine in lengths), default=0)
    shapes = replace(Shapes.of(longest, token_budget=budget, cells=Cells(len(lengths))), places=places)
    passes = balanced(lengths, shapes=shapes)
    found = [(cell, index) for chosen in passes for cell, some in chosen.items() for index in some]
    assert sorted(found) == [(cell, index) for cell, mine in enumerate(lengths) for index in range(len(mine))]
    for chosen in passes:
        assert 1 <= len(chosen) <= places
        assert sum(lengths[cell][i] for cell, some in chosen.items() for i in some) <= budget
        _check_pass(lengths, chosen, shapes)


def _check_pass(lengths, chosen, shapes):
    """Ids say the cell and the place in it, salts the cell."""
    cuts = []
    for cell, some in chosen.items():
        rows = [TokenRow(np.arange(lengths[cell][i]) + 1000 * (cell + 1), 1) for i in some]
        cuts.append(Cut(cell, rows, [np.full(len(row.ids), cell + 1, np.int32) for row in rows], 0.5 / (cell + 1)))
    one = lay(cuts, shapes=shapes, device=torch.device("cpu"))
    num_tokens, num_kept = one.shape[0], one.shape[3]
    real = sum(len(row.ids) for cut in cuts for row in cut.rows)
    assert real <= num_tokens < real + shapes.grain
    assert num_tokens % shapes.grain == num_kept % shapes.grain == 0
    assert one.first[-1] == num_tokens
    assert (one.first.diff() <= shapes.longest).all()
    kept = one.weights != 0
    assert kept.sum() == real - sum(len(cut.rows) for cut in cuts)
    assert torch.equal(one.ids[(one.keep[kept] + 1).long()], one.targets[kept])
    assert torch.equal(one.cells[kept], one.targets[kept] // 1000 - 1)
    assert torch.allclose(one.weights[kept], 0.5 / (one.cells[kept] + 1))
    span = torch.searchsorted(one.ends, torch.arange(num_tokens, dtype=torch.int32), right=True)
    assert one.ends[-1] == real
    assert torch.equal(one.which[span[:real]], one.salt[:real] - 1)
    assert one.place.tolist() == [list(chosen).index(cell) if cell in chosen else -1 for cell in range(len(lengths))]


def test_cells_of_sixteen_examples_share_passes_that_are_nearly_full():
    rng = np.random.default_rng(0)
    lengths = [np.clip(rng.lognormal(np.log(250), 0.5, 16), 27, 512).astype(int).tolist() for _ in range(8)]
    for budget, most in ((4096, 0.06), (8192, 0.06), (16384, 0.08)):
        shapes = Shapes.of(512, token_budget=budget, cells=Cells(8, 4200))
        sizes = [
            sum(lengths[c][i] for c, some in chosen.items() for i in some)
            for chosen in balanced(lengths, shapes=shapes)
        ]
        laid_out = sum(-(-size // shapes.grain) * shapes.grain for size in sizes)
        assert sum(sizes) == sum(map(sum, lengths)) >= (1 - most) * laid_out
        assert len(sizes) <= -(-sum(sizes) // budget) + 1


def test_a_pass_has_places_for_the_cells_whose_steps_it_can_hold():
    assert Cells().places(8192) == 1
    assert Cells(8, 4200).places(4096) == 2
    assert Cells(8, 4200).places(16384) == 5
    assert Cells(8, 100).places(16384) == 8


def test_masks_follow_seed_and_step_and_drop_their_share():
    layer = torch.tensor(3, dtype=torch.int32)
    ones = torch.ones(400, 1001)

    def mask(salt, layer=layer):
        return drop(ones, salt=torch.from_numpy(salt), layer=layer, dropped=16384)

    first = mask(salts(400, seed=1, step=2))
    assert torch.equal(first, mask(salts(400, seed=1, step=2)))
    assert torch.equal(first[:50], mask(np.pad(salts(50, seed=1, step=2), (0, 350)))[:50])
    others = [
        {"seed": 2, "step": 2},
        {"seed": 1, "step": 3},
    ]
    masks = [mask(salts(400, **other)) for other in others]
    masks.append(mask(salts(400, seed=1, step=2), layer=torch.tensor(4, dtype=torch.int32)))
    for other in masks:
        both = ((other == 0) & (first == 0)).float().mean().item()
        assert both == pytest.approx(0.25**2, abs=0.003)  # independent
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.003)
    assert first.max().item() == pytest.approx(1 / 0.75)
    shares = (first == 0).float()
    assert shares.mean(0).std().item() == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.1)  # columns alike
    assert shares.mean(1).std().item() == pytest.approx((0.25 * 0.75 / 1001) ** 0.5, rel=0.1)  # and rows
