"""On a GPU: the compiled step against the eager one in float32; mixed, recorded, resumed, short of memory."""

import copy

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]
BF16_TOLERANCE = 0.02  # of a gradient's norm: bf16 keeps 8 bits of every product
SHAPE = {
    "vocab_size": 4096, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 3,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture(scope="module")
def base():
    from benchmarks.gpu_train import random_base

    return random_base(SHAPE, device=torch.device("cuda"))


def spec_of(**changes):
    from emray.spec import TrainSpec

    fields = {
        "lora_rank": 16, "lora_alpha": 32, "target_modules": "all-linear", "lora_dropout": 0.0, "batch_size": 12,
        "learning_rate": 1e-3,
    }  # fmt: skip
    return TrainSpec(**(fields | changes))


def group_of(base, *, seeds=(0,), budget=4096, engine="auto", **changes):
    from benchmarks.gpu_train import length_mix
    from emray.records import Arm, Cell, TrainJob
    from emray.train.cell import Lesson
    from emray.train.compiled import engine_for
    from emray.train.group import Group

    base.engine = engine_for(base.model, device=base.device, recompute=False) if engine == "auto" else engine
    jobs = [TrainJob(Cell("random", f"d{n}", Arm.PLAIN, n, f"k{n}"), "", f"d{n}") for n in seeds]
    rows = [length_mix(SHAPE, count=60, seed=n) for n in seeds]
    group = Group(list(map(Lesson, jobs, rows)), base=base, spec=spec_of(**changes), token_budget=budget)
    for run in group.runs:  # of their own, whatever their place: B starts at zero, which would hide A's gradient
        torch.manual_seed(run.job.cell.seed + 100)
        with torch.no_grad():
            for parameter in run.parameters:
                parameter.normal_(std=0.02)
    return group


def gradients_of(base, **options):
    """One gradient a cell: what a step would apply."""
    group = group_of(base, **options)
    found = {}

    def keep(run):
        found[run.name] = torch.cat([p.grad.flatten().float() for p in run.parameters])
        return torch.tensor(True, device=base.device)

    for run in group.runs:
        run.steps.apply = run.steps.use_gradients = lambda run=run: keep(run)
    group.step()
    told = [run.arithmetic for run in group.runs]
    losses = [run.steps.tally.losses[0] for run in group.runs]
    group.close()
    return list(found.values()), losses, told


def error_of(ours, reference):
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.fixture(scope="module")
def reference(base):
    """The eager step in float32 for seeds 0 to 2."""
    from emray.train.warm import WarmBase

    exact = WarmBase.holding(copy.deepcopy(base.model).float(), device=base.device)
    autocast = torch.autocast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda device, **_: autocast(device, enabled=False))
        return [gradients_of(exact, seeds=(seed,), engine=None) for seed in range(3)]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("budget", [4096, 1024])
def test_a_compiled_gradient_is_the_float32_gradient_up_to_bf16(base, reference, budget, recompute):
    from emray.train.compiled import Execution

    (ours,), (loss,), told = gradients_of(base, budget=budget, engine=Execution(True, False, recompute))
    (exact,), (exact_loss,), _ = reference[0]
    assert told == ["compiled"]
    print("error", error_of(ours, exact))
    assert error_of(ours, exact) < BF16_TOLERANCE
    assert loss == pytest.approx(exact_loss, rel=2e-3)


@pytest.mark.parametrize(("budget", "max_width"), [(8192, 0), (2048, 0), (2048, 96)])
def test_each_of_three_mixed_gradients_is_its_own(base, reference, monkeypatch, budget, max_width):
    """By spans, and side by side."""
    from emray.train.compiled import Execution

    monkeypatch.setattr("emray.train.compiled.MAX_WIDTH", max_width)
    ours, losses, told = gradients_of(base, seeds=(0, 1, 2), budget=budget, engine=Execution(True, False, False))
    assert told == ["compiled"] * 3
    base.compiled = None
    for mine, loss, ((exact,), (exact_loss,), _) in zip(ours, losses, reference, strict=True):
        print("error", error_of(mine, exact))
        assert error_of(mine, exact) < BF16_TOLERANCE
        assert loss == pytest.approx(exact_loss, rel=2e-3)


def trained(base, *, steps, state=None, keep_at=None, **options):
    group = group_of(base, **options)
    (run,) = group.runs
    if state is not None:
        run.restore(state)
    kept = None
    while run.steps.done < steps:
        group.step()
        if run.steps.done == keep_at:
            kept = run.state()
    values = torch.cat([p.detach().flatten().clone() for p in run.parameters])
    losses = list(run.steps.tally.losses)
    group.close()
    return values, losses, kept


def test_a_resumed_run_and_a_second_one_end_with_the_same_bits(base):
    whole, losses, kept = trained(base, steps=9, keep_at=4, lora_dropout=0.1)
    base.compiled = None
    resumed, resumed_losses, _ = trained(base, steps=9, state=kept, lora_dropout=0.1)
    assert torch.equal(whole, resumed)
    assert losses == resumed_losses


def test_graphs_give_the_bits_of_the_same_passes_unrecorded(base):
    from emray.train.compiled import Execution

    recorded, losses, _ = trained(base, steps=9, engine=Execution(True, True, False), lora_dropout=0.1)
    unrecorded, others, _ = trained(base, steps=9, engine=Execution(True, False, False), lora_dropout=0.1)
    assert torch.equal(recorded, unrecorded)
    assert losses == others


def test_dropout_drops_what_it_drops_without_the_compiler(base):
    from emray.train.compiled import Execution

    (ours,), _, _ = gradients_of(base, lora_dropout=0.2)
    (plain,), _, _ = gradients_of(base, lora_dropout=0.2, engine=Execution(False, False, False))
    (without,), _, _ = gradients_of(base)
    print("error", error_of(ours, plain), error_of(without, plain))
    assert error_of(ours, plain) < BF16_TOLERANCE < error_of(without, plain)


def test_a_step_that_runs_out_of_memory_is_made_again_with_half_the_pass(base, monkeypatch):
    from emray.train.compiled import CompiledStep

    expected, losses, _ = trained(base, steps=3, budget=2048)
    add, sizes = CompiledStep.add, []

    def short_of_memory(self, one, *, longest):
        sizes.append(len(one.ids))
        if sizes[-1] > 2048:
            torch.empty(int(1e15), device="cuda")
        add(self, one, longest=longest)

    monkeypatch.setattr(CompiledStep, "add", short_of_memory)
    values, ours, _ = trained(base, steps=3, budget=4096)
    assert max(sizes) > 2048
    assert torch.equal(values, expected)
    assert ours == losses


def test_attention_of_groups_equals_the_masked_product():
    from emray.train.varlen import Bounds, varlen_attention

    torch.manual_seed(0)
    first = torch.tensor([0, 7, 200, 256, 256], dtype=torch.int32, device="cuda")
    states = [torch.randn(1, heads, 256, 64, device="cuda") for heads in (14, 2, 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [s.detach().to(dtype, copy=True).requires_grad_() for s in states]
        out, _ = varlen_attention(torch.nn.Identity(), *given, None, bounds=Bounds(first, 193))
        out.float().square().sum().backward()
        results.append([out.float(), *(s.grad.float() for s in given)])
    for exact, ours in zip(*results, strict=True):
        assert error_of(ours, exact) < BF16_TOLERANCE


@pytest.mark.parametrize(("rank", "width"), [(8, 128), (32, 896), (32, 4864), (256, 300)])
def test_spans_of_tokens_meet_their_own_matrices_and_no_other(rank, width):
    """One that is not finite stays where it is; tokens after the last span are nobody's."""
    from emray.train import spans

    torch.manual_seed(0)
    ends = torch.tensor([70, 70, 1000, 1030, 2000], dtype=torch.int32)
    x, low = torch.randn(2048, width), torch.randn(2048, rank)
    for w in (torch.randn(5, rank, width), torch.randn(5, width, rank).transpose(1, 2)):
        given = [t.cuda().bfloat16() for t in (x, low, w)]
        exact = [t.cpu().float() for t in given]
        for product, first, second in ((spans.narrow, 0, 2), (spans.widen, 1, 2), (spans.gather, 1, 0)):
            ours = product(given[first], given[second], ends.cuda()).cpu().float()
            assert error_of(ours, product(exact[first], exact[second], ends)) < BF16_TOLERANCE
        given[2][3] = float("nan")
        for product, values in ((spans.narrow, given[0]), (spans.widen, given[1])):
            bad = product(values, given[2], ends.cuda()).isnan().any(1).cpu()
            assert bad.nonzero()[:, 0].tolist() == list(range(1000, 1030))


def test_hashes_of_the_device_are_those_of_the_host():
    from emray.train.dropout import drop, salts

    salt = torch.from_numpy(salts(300, seed=3, step=1))
    layer = torch.tensor(5, dtype=torch.int32)
    ones = torch.ones(300, 896)
    here = drop(ones, salt=salt, layer=layer, dropped=6554)
    there = drop(ones.cuda(), salt=salt.cuda(), layer=layer.cuda(), dropped=6554)
    assert torch.equal(here, there.cpu())
    assert np.isclose((here == 0).float().mean().item(), 0.1, atol=0.005)
