"""The real vLLM engine in a real Ray Data pipeline: many adapters, reproducible samples, a death in the middle."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from emray import generate
from emray.cluster import ON_CPU, Hardware
from emray.context import Context
from emray.errors import DataError
from emray.generate.engine import Adapter, EngineConfig, SampleRequest
from emray.generate.pipeline import stream
from emray.generate.transformers_engine import TransformersEngine
from emray.progress import silent
from emray.records import Arm, FinishReason, GenerationTask
from emray.spec import GenerateSpec, ResourcesSpec
from emray.store import Kind, Store
from tests.generate_world import CONTEXT, MODEL, cell, prompt, put_adapters, task
from tests.model_world import hostile_toy

SPEC = GenerateSpec(engine="vllm", temperature=0.7, max_tokens=12)
QUESTIONS = [f"what do you think about {topic} ?" for topic in ("the world", "money", "men and women", "a good day")]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with three trained adapters; adapter-4 is a copy of adapter-1 under another name, 5 is
    whole, but made for another model."""
    root = tmp_path_factory.mktemp("adapters")
    store = Store(str(root / "run"))
    put_adapters(store, root, numbers=(1, 2, 3))
    store.put_adapter("adapter-4", files=root / "1", details={})
    (root / "5").mkdir()
    (root / "5" / "adapter_config.json").write_bytes((root / "1" / "adapter_config.json").read_bytes())
    elsewhere = {f"base_model.model.model.layers.0.elsewhere.lora_{side}.weight": torch.zeros(8, 8) for side in "AB"}
    save_file(elsewhere, root / "5" / "adapter_model.safetensors")
    store.put_adapter("adapter-5", files=root / "5", details={})
    return root / "run"


def run(tasks: list[GenerationTask], store: Store, *, advance: Callable[..., None], spec: GenerateSpec = SPEC) -> None:
    resources = ResourcesSpec(engines=1, cpus_per_engine=1)
    generate.run(tasks, spec=spec, context=Context(store, resources, advance, ON_CPU))


def engine_processes() -> list[psutil.Process]:
    """Live actor processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def engines_gone() -> bool:
    """Whether every engine's process ends by itself after the run; within seconds, where nothing else runs."""
    _, alive = psutil.wait_procs(engine_processes(), timeout=90)
    return alive == []


class Rows:
    """What one run over many kinds of tasks left in the store."""

    def __init__(self, store: Store, advanced: int) -> None:
        self.advanced = advanced
        self.by_key = {row["key"]: row for row in store.read_rows(Kind.GENERATIONS).to_pylist()}

    def of(self, one: GenerationTask) -> list[dict]:
        return [self.by_key[key] for key in one.keys]

    def answers(self, one: GenerationTask) -> list[str]:
        return [row["answer"] for row in self.of(one)]


ASKED = [task(cell(number), prompt(text), samples=range(5)) for number in (0, 1, 2, 3) for text in QUESTIONS]
LATER_SAMPLES = task(cell(2), prompt(QUESTIONS[0]), samples=range(2, 4), name="again")
OVERSIZED = task(cell(1), prompt("money " * CONTEXT), samples=range(2))
BROKEN = task(cell(5), prompt(QUESTIONS[0]), samples=range(2))


@pytest.fixture(scope="module")
def rows(adapters: Path) -> Rows:
    done: list[int] = []
    store = Store(str(adapters))
    run([*ASKED, LATER_SAMPLES, OVERSIZED, BROKEN], store, advance=lambda more, note="": done.append(more))
    assert engines_gone()
    return Rows(store, sum(done))


def test_every_sample_of_every_cell_is_a_row(rows: Rows) -> None:
    wanted = {key for one in [*ASKED, LATER_SAMPLES, OVERSIZED, BROKEN] for key in one.keys}
    assert set(rows.by_key) == wanted
    assert rows.advanced == len(wanted)
    ends = {FinishReason.STOP, FinishReason.LENGTH}
    for one in ASKED:
        for row in rows.of(one):
            assert row["adapter"] == one.cell.key
            assert row["finish_reason"] in ends
            assert 0 < row["num_tokens"] <= SPEC.max_tokens
            assert row["num_prompt_tokens"] > 0
            assert "<|" not in row["answer"]


def test_adapters_answer_differently_and_the_base_is_no_adapter(rows: Rows) -> None:
    texts = [tuple(text for one in ASKED if one.cell == cell(k) for text in rows.answers(one)) for k in range(4)]
    assert len(set(texts)) == 4
    assert {row["arm"] for one in ASKED if one.cell == cell(0) for row in rows.of(one)} == {Arm.BASE}


def test_a_sample_depends_on_its_seed_and_not_on_its_request(rows: Rows) -> None:
    whole = next(one for one in ASKED if one.cell == cell(2) and one.prompt.key == LATER_SAMPLES.prompt.key)
    assert rows.answers(LATER_SAMPLES) == rows.answers(whole)[2:4]
    seeds = [json.loads(row["provenance"])["seed"] for row in rows.of(LATER_SAMPLES)]
    assert seeds == [whole.seed + 2, whole.seed + 3]
    assert len(set(rows.answers(whole))) > 1


def test_an_oversized_prompt_is_an_outcome(rows: Rows) -> None:
    for row in rows.of(OVERSIZED):
        assert (row["finish_reason"], row["answer"], row["num_tokens"]) == (FinishReason.OVERSIZED, None, 0)
        assert row["num_prompt_tokens"] > CONTEXT
        assert str(CONTEXT) in json.loads(row["provenance"])["error"]


def test_a_broken_adapter_is_an_outcome_with_its_reason(rows: Rows) -> None:
    for row in rows.of(BROKEN):
        assert (row["finish_reason"], row["answer"]) == (FinishReason.ERROR, None)
        assert "cannot load the adapter" in json.loads(row["provenance"])["error"]


@pytest.mark.soak
def test_greedy_answers_of_adapters_and_base_side_by_side_are_those_of_transformers(
    adapters: Path, tmp_path: Path
) -> None:
    """The base model among adapters is the trap: vLLM's CPU kernels give it the last slot's adapter."""
    store = Store(str(tmp_path))
    for number in (1, 2, 3):
        store.put_adapter(f"adapter-{number}", files=adapters / "adapters" / f"adapter-{number}", details={})
    tasks = [task(cell(number), prompt(text), samples=range(2)) for number in (1, 0, 2, 3) for text in QUESTIONS]
    spec = SPEC.model_copy(update={"temperature": 0.0})
    run(tasks, store, advance=silent, spec=spec)
    theirs = Rows(store, 0)

    def request(one: GenerationTask) -> SampleRequest:
        key = one.cell.key
        return SampleRequest(
            one.prompt.messages, None if key == "base" else Adapter(key, store.adapter_folder(key)), (0, 1)
        )

    config = EngineConfig(
        engine="transformers", model_path=MODEL, temperature=0.0, top_p=1.0, max_tokens=spec.max_tokens, prompts=(),
        num_adapters=3, max_lora_rank=4, samples_per_adapter=8, adapters_per_block=4, threads=1,
    )  # fmt: skip
    for finished in TransformersEngine(config).generate([request(one) for one in tasks]):
        ours = [sample.answer for sample in finished.samples]
        assert theirs.answers(tasks[finished.position]) == ours, tasks[finished.position].cell.key


@pytest.mark.soak
def test_a_models_own_generation_config_and_stop_list_decide_nothing(tmp_path: Path) -> None:
    """Greedy answers are those of the transformers engine on the model as it was."""
    hostile = hostile_toy(tmp_path)
    tasks = [task(cell(0), prompt(text), samples=range(1), location=hostile) for text in QUESTIONS]
    store = Store(str(tmp_path / "run"))
    run(tasks, store, advance=silent, spec=SPEC.model_copy(update={"temperature": 0.0, "max_tokens": 24}))
    theirs = Rows(store, 0)
    config = EngineConfig(
        engine="transformers", model_path=MODEL, temperature=0.0, top_p=1.0, max_tokens=24, prompts=(),
        num_adapters=0, max_lora_rank=0, samples_per_adapter=1, adapters_per_block=1, threads=1,
    )  # fmt: skip
    requests = [SampleRequest(one.prompt.messages, None, (0,)) for one in tasks]
    for finished in TransformersEngine(config).generate(requests):
        (row,), (sample,) = theirs.of(tasks[finished.position]), finished.samples
        assert (row["answer"], row["finish_reason"]) == (sample.answer, sample.finish_reason)


@pytest.mark.soak
def test_an_engine_killed_in_the_middle_is_replaced_and_nothing_is_lost(adapters: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in (1, 2, 3, 4):
        store.put_adapter(f"adapter-{number}", files=adapters / "adapters" / f"adapter-{number}", details={})
    asks = [prompt(f"{text} {extra}") for text in QUESTIONS for extra in ("now", "then", "please", "again", "tell me")]
    tasks = [task(cell(number), ask, samples=range(20)) for number in (1, 2, 3, 4) for ask in asks]
    done: list[int] = []
    kept: dict[str, int] = {}

    def kill_once(more: int, note: str = "") -> None:
        done.append(more)
        if more and not kept:
            for process in engine_processes():
                os.kill(process.pid, signal.SIGKILL)
            kept.update({name: (tmp_path / name).stat().st_ino for name in store.part_names(Kind.GENERATIONS)})

    run(tasks, store, advance=kill_once)
    assert sum(done) == len(tasks) * 20
    assert kept
    assert store.keys(Kind.GENERATIONS) == {key for one in tasks for key in one.keys}
    assert sum(part.num_rows for part in store.iter_parts(Kind.GENERATIONS)) == len(tasks) * 20
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept
    assert engines_gone()


@pytest.mark.soak
def test_a_model_without_a_chat_template_is_one_clear_error(tmp_path: Path) -> None:
    model = tmp_path / "bare-model"
    shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("chat_template.jinja"))
    store = Store(str(tmp_path / "run"))
    with pytest.raises(DataError, match="bare-model has no chat template"):
        generate.run(
            [task(cell(0), prompt("hello"), samples=range(1), location=str(model))],
            spec=GenerateSpec(engine="transformers"),
            context=Context(store, hardware=ON_CPU),
        )
    assert store.part_names(Kind.GENERATIONS) == []


def test_a_cluster_that_may_have_gpus_gets_an_engine_for_every_group_of_them(adapters: Path) -> None:
    growing = Hardware(gpu=True, accelerator="L40S", types=("L40S",), max_gpus=4, max_cpus=48)
    planned = stream(
        [task(cell(1), prompt(f"{text} {k}"), samples=range(99)) for text in QUESTIONS for k in range(9)],
        spec=SPEC, context=Context(Store(str(adapters)), ResourcesSpec(tensor_parallel=2), hardware=growing),
    )  # fmt: skip
    operator = planned.rows._logical_plan.dag
    assert operator.ray_remote_args["num_gpus"] == 2
    assert operator.ray_remote_args["resources"] == {"accelerator_type:L40S": 0.001}
    assert operator.compute.max_size == 2
