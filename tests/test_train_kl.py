"""A finetune that is held near its base: the gradient is that of KL(finetuned || base), whatever the passes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from emray.model.rows import RowForm, TokenRow
from emray.records import Course, Messages
from emray.spec import TrainSpec
from emray.store import Store
from emray.train import adapter, states
from emray.train.cell import Lesson
from emray.train.curves import write_curve
from emray.train.group import Group
from emray.train.losses import Pull
from emray.train.schedule import in_groups
from emray.train.warm import WarmBase
from tests.train_world import MODEL, examples, job, mixed_examples, recipe, warm_base

STILL = {"lora_dropout": 0.0, "epochs": 1}


@pytest.fixture(scope="module")
def base() -> WarmBase:
    return warm_base()


def begun(
    base: WarmBase, weights: list[float], *, spec: TrainSpec, rows: tuple[Messages, ...] = (), budget: int = 8192
) -> Group:
    """A cell for each weight, of its own seed."""
    chosen = rows or examples()
    tokens = base.rows(str(hash(chosen)), examples={str(hash(chosen)): chosen}, form=RowForm.of(spec))
    jobs = [replace(job(f"k{n}", seed=n), course=Course(kl=weight)) for n, weight in enumerate(weights)]
    return Group([Lesson(one, tokens) for one in jobs], base=base, spec=spec, token_budget=budget)


def finished(group: Group) -> list[list[torch.Tensor]]:
    while not group.finished:
        group.step()
    assert [run.error for run in group.runs] == [None] * len(group.runs)
    values = [[parameter.detach().clone() for parameter in run.parameters] for run in group.runs]
    group.close()
    return values


def furthest(values: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(values, others, strict=True))


def away(parameters: list[torch.nn.Parameter]) -> None:
    """Set an adapter to what is no base: a fresh one is none yet, and its KL has no gradient."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def reference(rows: list[TokenRow], *, spec: TrainSpec, weight: float) -> tuple[float, float, list[torch.Tensor]]:
    """Loss, KL and gradients by transformers' own model and another copy of it, one example at a time."""
    own, bare = (
        transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
        for _ in range(2)
    )
    model, _ = adapter.attach(own.requires_grad_(False), spec=spec, seeds=[0])
    away(adapter.trainable(model))
    total = sum(len(row.ids) - row.start for row in rows)
    loss = divergence = 0.0
    for row in rows:
        ids = torch.from_numpy(row.ids)[None]
        places = np.arange(row.start - 1, len(row.ids) - 1)
        with torch.no_grad():
            q = torch.softmax(bare(input_ids=ids).logits[0, places].double(), -1)
        p = torch.softmax(model(input_ids=ids).logits[0, places].double(), -1)
        entropy = -p[range(len(places)), row.ids[row.start :]].log().sum() / total
        apart = (p * (p / q).log()).sum() / total
        (entropy + weight * apart).backward()
        loss, divergence = loss + entropy.item(), divergence + apart.item()
    return loss, divergence, [parameter.grad for parameter in adapter.trainable(model)]


# One cell --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("budget", [10_000, 150])
def test_the_gradient_is_that_of_a_reference_on_unpacked_examples(base: WarmBase, packs: bool, budget: int) -> None:
    spec = recipe(**STILL, batch_size=12)
    was, base.packs = base.packs, packs
    try:
        group = begun(base, [0.7], spec=spec, rows=mixed_examples(count=12), budget=budget)
    finally:
        base.packs = was
    (run,) = group.runs
    away(run.parameters)
    gradients: list[torch.Tensor] = []
    run.steps.apply = lambda: gradients.extend(p.grad.clone() for p in run.parameters)  # type: ignore[method-assign]
    batch = run.steps.batch()
    loss, divergence, expected = reference(batch, spec=spec, weight=0.7)
    assert run.steps.step() == pytest.approx(loss, abs=1e-5)
    group.close()
    assert run.steps.tally.divergences == [pytest.approx(divergence, abs=1e-5)]
    assert divergence > 0.01
    assert len(gradients) == len(expected) > 0
    assert furthest(gradients, expected) < 1e-5
    assert furthest(gradients, reference(batch, spec=spec, weight=0.0)[2]) > 1e-3


def test_a_weight_of_nothing_is_plain_training_bit_for_bit(base: WarmBase) -> None:
    spec = recipe(lora_dropout=0.1)
    (plain,) = finished(begun(base, [0.0], spec=spec))
    group = begun(base, [0.0], spec=spec)
    assert group.runs[0].steps.pull is None
    group.runs[0].steps.pull = Pull(0.0, lambda micro: torch.zeros(len(micro.targets), base.model.config.vocab_size))
    (still,) = finished(group)
    assert all(torch.equal(a, b) for a, b in zip(plain, still, strict=True))


def test_more_weight_keeps_the_finetune_nearer_its_base(base: WarmBase) -> None:
    spec = recipe(lora_dropout=0.0, epochs=2)
    ends = []
    for weight in (1e-9, 0.5, 10.0):
        group = begun(base, [weight], spec=spec)
        finished(group)
        tally = group.runs[0].steps.tally
        assert tally.divergences[0] == pytest.approx(0, abs=1e-6)  # a fresh adapter changes nothing
        ends.append((tally.divergences[-1], -tally.losses[-1]))
    assert ends == sorted(ends, reverse=True)
    assert ends[0][0] > 5 * ends[2][0]


def test_a_held_run_that_is_resumed_ends_with_the_same_bits(base: WarmBase, tmp_path: Path) -> None:
    spec, store = recipe(lora_dropout=0.1, epochs=1), Store(str(tmp_path))
    (whole,) = finished(begun(base, [0.3], spec=spec))
    first = begun(base, [0.3], spec=spec)
    for _ in range(3):
        first.step()
    states.keep(first.runs[0], store=store)
    first.close()
    again = begun(base, [0.3], spec=spec)
    states.resume(again.runs[0], store=store)
    (values,) = finished(again)
    assert all(torch.equal(a, b) for a, b in zip(whole, values, strict=True))
    assert len(again.runs[0].steps.tally.divergences) == again.runs[0].steps.num_steps


def test_recomputed_activations_give_the_same_adapter(base: WarmBase) -> None:
    spec = recipe(lora_dropout=0.2, epochs=1)
    saving = WarmBase(MODEL, device=torch.device("cpu"), gradient_checkpointing=True)
    (kept,), (recomputed,) = (finished(begun(one, [0.5], spec=spec)) for one in (base, saving))
    assert furthest(kept, recomputed) < 1e-6


def test_a_whole_model_is_held_near_the_one_it_was_copied_of(base: WarmBase) -> None:
    spec = recipe(strategy="full", epochs=1, learning_rate=1e-3)
    ends = []
    for weight in (1e-9, 10.0):
        group = begun(base, [weight], spec=spec)
        finished(group)
        ends.append(group.runs[0].steps.tally.divergences)
    assert ends[0][0] == pytest.approx(0, abs=1e-6)
    assert ends[0][-1] > 5 * ends[1][-1] > 0


# Several cells ---------------------------------------------------------------------------------------------------


def test_cells_that_share_steps_are_each_held_by_their_own_weight(base: WarmBase) -> None:
    spec = recipe(lora_dropout=0.1, epochs=0.5, learning_rate=1e-3)
    weights = [0.2, 0.0, 3.0]
    together = begun(base, weights, spec=spec)
    values = finished(together)
    for number, (weight, mixed) in enumerate(zip(weights, values, strict=True)):
        alone = _alone(base, number, weight, spec)
        (solo,) = finished(alone)
        assert furthest(solo, mixed) < 1e-4
        kept, told = (group.runs[n].steps.tally for group, n in ((alone, 0), (together, number)))
        assert told.losses == pytest.approx(kept.losses, abs=1e-4)
        assert told.divergences == pytest.approx(kept.divergences, abs=1e-4)
    assert not together.runs[1].steps.tally.divergences


def _alone(base: WarmBase, seed: int, weight: float, spec: TrainSpec) -> Group:
    tokens = base.rows("alone", examples={"alone": examples()}, form=RowForm.of(spec))
    lesson = Lesson(replace(job("alone", seed=seed), course=Course(kl=weight)), tokens)
    return Group([lesson], base=base, spec=spec, token_budget=8192 // 3)


def test_held_cells_share_steps_with_held_ones_alone() -> None:
    jobs = [replace(job(f"k{n}"), course=Course(kl=kl)) for n, kl in enumerate((0.1, 0.2, 0, 0, 0))]
    assert in_groups(jobs, size=4) == [(0, 1), (2, 3, 4)]


# What is told ----------------------------------------------------------------------------------------------------


def test_records_and_curves_show_the_divergence_and_why_steps_are_not_compiled(base: WarmBase, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    group, store = begun(base, [0.3], spec=recipe(epochs=1)), Store(str(tmp_path))
    (run,) = group.runs
    while not group.finished:
        group.step()
    run.publish(store, key="k0", timing={})
    write_curve(run, store=store)
    group.close()
    record = store.adapter_record("k0")
    assert record and record.details["divergences"] == [
        [n, pytest.approx(value, abs=1e-6)] for n, value in enumerate(run.steps.tally.divergences, 1)
    ]
    assert record.details["arithmetic"] == (
        "eager: a KL towards the base takes a pass of the bare base, which is not compiled"
    )
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload().Scalars("train/kl_to_base")
    assert [event.value for event in events] == pytest.approx(run.steps.tally.divergences, rel=1e-6)
