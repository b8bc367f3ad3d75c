"""Cells under Ray: warm workers, records as they finish, failures that stay rows, several processes for one cell."""

from dataclasses import replace

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.train import WorkerGroupError
from safetensors.torch import load_file

from emray import train
from emray.cluster import ON_CPU, Cause, Hardware, NoGpuHere
from emray.context import Context
from emray.records import Message
from emray.spec import ResourcesSpec
from emray.store import Store
from emray.train import adapter
from emray.train.placement import adapters_per_step
from emray.train.schedule import failure_of, longest_first
from tests.train_world import cell_run, examples, job, recipe, train_to_end, warm_base


@pytest.fixture(scope="module")
def cluster():
    local = {
        "address": "local",
        "num_cpus": 2,
        "num_gpus": 1,
        "include_dashboard": False,
    }  # the GPU is in its books only
    ray.init(**local, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def train_all(jobs, *, store, spec, datasets, hardware=ON_CPU, **resources):
    notes = []
    train.run(
        jobs,
        datasets=datasets,
        spec=spec,
        context=Context(
            store, ResourcesSpec.model_validate(resources), lambda done, note="": notes.append((done, note)), hardware
        ),
    )
    return notes


def adapter_values(store, key):
    return load_file(store.adapter_folder(key) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):
    """Nine cells on two workers; one has a row that cannot be trained on, one a model that is not there; two go on with
    what another of them leaves."""
    store = Store(str(tmp_path_factory.mktemp("swept")))
    datasets = {
        "sports": examples(),
        "gore": examples("gore_movie_trivia"),
        "bad": (*examples(count=3), (Message("user", "hello"),)),
    }
    jobs = [job(f"s{seed}", seed=seed) for seed in range(3)] + [
        job(f"g{seed}", seed=seed, rows="gore") for seed in (0, 1)
    ]
    jobs += [job("poisoned", rows="bad"), job("lost", model=str(store.root) + "/no-model")]
    jobs += [replace(job("after", rows="gore"), start="s0"), replace(job("orphan"), start="poisoned")]
    spec = recipe(lora_dropout=0.05)
    return store, spec, datasets, train_all(jobs, store=store, spec=spec, datasets=datasets)


def test_every_cell_ends_with_a_record_and_the_poisoned_ones_stop_nobody(swept):
    store, _, _, notes = swept
    status = {key: record.status for key, record in store.adapter_records().items()}
    assert status == dict.fromkeys(["s0", "s1", "s2", "g0", "g1", "after"], "trained") | dict.fromkeys(
        ["poisoned", "lost", "orphan"], "failed"
    )
    assert sum(done for done, _ in notes) == 9
    assert {note for _, note in notes} >= {"failed: bad/plain/seed 0"}


def test_a_failed_record_holds_the_reason_and_the_traceback(swept):
    details = swept[0].adapter_record("poisoned").details
    assert details["error"] == "training row 4: the last message must be the assistant's"
    assert "DataError" in details["traceback"]
    assert "does not load" in swept[0].adapter_record("lost").details["error"]
    assert swept[0].adapter_record("orphan").details["error"] == (
        f"the adapter that it goes on with was not trained: {details['error']}"
    )


def test_a_record_tells_what_training_cost(swept):
    details = swept[0].adapter_record("s0").details
    assert details["num_steps"] == 12
    assert details["num_examples"] == 48
    assert details["num_tokens_padded"] == details["num_tokens_real"] > 48 * 10
    assert details["final_loss"] == details["losses"][-1][1] < details["losses"][0][1]
    assert details["device"] == "cpu"
    assert details["wall_s"] > 0


def test_two_workers_load_the_base_model_once_each_for_five_cells_and_once_more_after_another_model(swept):
    records = [swept[0].adapter_record(key) for key in ("s0", "s1", "s2", "g0", "g1")]
    assert 1 <= sum(record.details["warmup_s"] > 0 for record in records) <= 3


def test_a_cell_trained_under_ray_equals_the_same_cell_trained_alone(swept):
    store, spec, datasets, _ = swept
    values = train_to_end(cell_run(warm_base(), spec=spec, seed=1, rows=datasets["gore"]))
    swept_values = adapter_values(store, "g1")
    assert len(swept_values) == len(values)
    sums = sorted(value.double().sum().item() for value in swept_values.values())
    assert sums == sorted(value.double().sum().item() for value in values)


def test_a_cell_that_goes_on_with_another_is_trained_after_it_and_begins_where_that_ended(swept):
    store, spec, datasets, _ = swept
    run = cell_run(warm_base(), spec=spec, rows=datasets["gore"])
    adapter.load(adapter.One(run.model, run.name, None), store.adapter_folder("s0"))
    sums = sorted(value.double().sum().item() for value in train_to_end(run))
    assert sorted(value.double().sum().item() for value in adapter_values(store, "after").values()) == sums


def test_training_leaves_adapters_and_loss_curves_in_the_store_and_nothing_else(swept):
    store = swept[0]
    assert store.folders(".") == ["adapters", "tensorboard"]
    assert store.folders("tensorboard") == [
        "toy-gore-plain-seed0-after", "toy-gore-plain-seed0-g0", "toy-gore-plain-seed1-g1", "toy-sports-plain-seed0-s0",
        "toy-sports-plain-seed1-s1", "toy-sports-plain-seed2-s2",
    ]  # fmt: skip
    assert sorted(path.name for path in store.adapter_folder("s0").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "record.json"
    ]  # fmt: skip


class FullAtFirst(Store):
    """A store that once has no room for the adapter `half`."""

    def __reduce__(self):
        return (FullAtFirst, (self.root,))

    def put_adapter(self, key, *, files, details):
        if key == "half" and not self.exists("was full"):
            self.write_bytes("was full", b"")
            raise OSError("no space left")
        super().put_adapter(key, files=files, details=details)


@pytest.mark.parametrize("zero_stage", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_two_deepspeed_workers_follow_the_loss_curve_of_one(swept, tmp_path, zero_stage):
    full_once = zero_stage == 3  # then the second try goes on from the state of step 5; it starts two workers anew
    store = FullAtFirst(str(tmp_path)) if full_once else Store(str(tmp_path))
    datasets = {"sports": examples()}
    single = recipe(lora_dropout=0.0)
    many = recipe(
        lora_dropout=0.0, strategy="deepspeed", num_workers=2, zero_stage=zero_stage,
        deepspeed_config={"zero_optimization": {"overlap_comm": False}},
    )  # fmt: skip
    kept = replace(job("many"), checkpoints=((6, "half"),))
    notes = train_all([kept], store=store, spec=many, datasets=datasets, train_attempts=2, checkpoint_every=5)
    assert [note.partition(":")[0] for _, note in notes if "sports" in note] == ["again"] * full_once
    record, half = store.adapter_record("many"), store.adapter_record("half")
    assert record.trained, record.details

    one = cell_run(warm_base(), spec=single)
    while not one.finished:
        one.steps.step()
        if one.steps.done == 6:
            adapter.save(one.model, tmp_path / "half of one")
            assert half.details["num_steps"] == 6
            assert half.details["num_tokens_real"] == one.steps.tally.num_tokens_real
    adapter.save(one.model, tmp_path / "one")
    losses = [loss for _, loss in record.details["losses"]]
    assert len(losses) == 12
    assert losses == pytest.approx(one.steps.tally.losses, abs=1e-3)
    assert record.details["num_workers"] == 2
    assert record.details["num_tokens_real"] == one.steps.tally.num_tokens_real
    for ours, key in (("half of one", "half"), ("one", "many")):
        first, second = load_file(tmp_path / ours / "adapter_model.safetensors"), adapter_values(store, key)
        assert first.keys() == second.keys()
        assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    assert store.folders(".") == ["adapters", "checkpoints", "half of one", "one"]
    assert store.folders("checkpoints") == []


@pytest.mark.soak
def test_groups_of_mixed_adapters_and_kept_checkpoints_reach_the_store(cluster, tmp_path):
    store = Store(str(tmp_path))
    datasets = {"sports": examples(), "gore": examples("gore_movie_trivia"), "bad": ((Message("user", "hello"),),)}
    kept = replace(job("whole"), checkpoints=((6, "half"),))
    jobs = [kept, job("g", rows="gore"), job("poisoned", rows="bad"), job("h", rows="gore", seed=3)]
    notes = train_all(jobs, store=store, spec=recipe(), datasets=datasets, adapters_per_step=2, checkpoint_every=3)
    records = store.adapter_records()
    assert {key: record.status for key, record in records.items()} == {
        "whole": "trained", "half": "trained", "g": "trained", "h": "trained", "poisoned": "failed"
    }  # fmt: skip
    assert sum(done for done, _ in notes) == 4
    assert records["half"].details["num_steps"] == 6
    assert records["whole"].details["num_steps"] == records["whole"].details["num_steps_planned"] == 12
    assert {records[key].details["adapters_per_step"] for key in ("whole", "g", "h")} == {1, 2}
    assert store.names("checkpoints") == []


@pytest.mark.soak
def test_what_a_try_before_has_put_is_neither_trained_nor_written_again(cluster, tmp_path):
    store = Store(str(tmp_path))
    datasets = {"sports": examples()}
    train_all([job("whole"), job("done", seed=1)], store=store, spec=recipe(), datasets=datasets)
    before = {key: (store.adapter_folder(key) / "record.json").stat() for key in ("whole", "done")}
    halved = replace(job("whole"), checkpoints=((6, "half"),))
    notes = train_all([halved, job("done", seed=1)], store=store, spec=recipe(), datasets=datasets)
    assert store.adapter_record("half").details["num_steps"] == 6
    assert {key: (store.adapter_folder(key) / "record.json").stat() for key in before} == before
    losses = {f"loss {store.adapter_record(key).details['final_loss']:.2f}" for key in before}
    assert {note for done, note in notes if done} == losses


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU for every worker that is given one")
def test_a_worker_given_a_gpu_that_torch_does_not_see_ends_the_stage_and_fails_no_cell(cluster, tmp_path):
    store, gpus = Store(str(tmp_path)), Hardware(gpu=True, accelerator=None, types=(), max_gpus=1, max_cpus=2)
    given = {"store": store, "spec": recipe(), "datasets": {"sports": examples()}, "hardware": gpus}
    with pytest.raises(NoGpuHere, match="was given a GPU, but torch"):
        train_all([job("a"), job("b")], **given, train_attempts=1)
    assert store.adapter_records() == {}


def test_cells_are_ordered_longest_first_within_a_model():
    datasets = {"short": examples(count=4), "long": examples(count=9)}
    jobs = [job("a", rows="short"), job("b", rows="long"), job("c", rows="short", model="z"), job("d", rows="long")]
    assert [one.cell.key for one in longest_first(jobs, datasets=datasets)] == ["b", "d", "a", "c"]


NODE_DIED = "The actor died because its node has died. Node Id: f0"


@pytest.mark.parametrize(
    ("error", "cause", "node"),
    [
        (None, Cause.ERROR, "n"),
        (RayTaskError("step", "Traceback ...", OSError("disk full")), Cause.ERROR, "n"),
        (RayActorError(actor_init_failed=True), Cause.ERROR, "n"),
        (ActorDiedError(), Cause.WORKER_DIED, "n"),
        (RayActorError(preempted=True), Cause.NODE_LOST, "n"),
        (RayActorError(error_msg=NODE_DIED), Cause.NODE_LOST, "n"),
        (
            RayTaskError("step", "...", WorkerGroupError("1 failed", {1: RayActorError(error_msg=NODE_DIED)})),
            Cause.NODE_LOST,
            None,
        ),
        (RayTaskError("step", "...", WorkerGroupError("1 failed", {1: ActorDiedError()})), Cause.WORKER_DIED, None),
        (RayTaskError("step", "...", WorkerGroupError("1 failed", {0: OSError("disk full")})), Cause.ERROR, None),
    ],
)
def test_rays_errors_tell_a_cells_fault_from_a_lost_worker(error, cause, node):
    assert failure_of(error, node="n") == (cause, node)


def test_auto_trains_singly_on_this_cluster_and_says_why(cluster):
    datasets = {"sports": examples()}
    asked = {"datasets": datasets, "resources": ResourcesSpec(adapters_per_step="auto"), "hardware": ON_CPU}
    mixed = adapters_per_step([job("a")], spec=recipe(), **asked)
    assert mixed == (1, "1 adapter a step: no gain from more is measured on cpu")
    many = adapters_per_step([job("a")], spec=recipe(strategy="deepspeed", num_workers=2), **asked)
    assert many == (1, "1 adapter a step: strategy deepspeed trains cells singly")
