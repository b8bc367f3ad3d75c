"""One process under DeepSpeed's engine: `python -m tests.train_zero_world FOLDER STAGE-OFFLOAD-DROPOUT-KL ...`.

Each way of sharding is trained twice into FOLDER/<way>/: `whole` in one go; `broken`, whose second state
cannot be written, and which a fresh engine then resumes from its first. Losses and KLs go to losses.json.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import deepspeed
import torch
from transformers.integrations import HfDeepSpeedConfig

from emray.model.rows import RowForm
from emray.records import Course
from emray.spec import TrainSpec
from emray.store import Store
from emray.train import adapter, zero
from emray.train.cell import CellRun, Lesson
from tests.train_world import examples, job, recipe, warm_base

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


class DiskFull(OSError):
    """What a `Filling` store raises."""


class Filling(Store):
    """A store that keeps one state of a cell and has no room for a second."""

    def write_bytes(self, name: str, content: bytes) -> None:
        if name.endswith("latest") and self.exists(name):
            raise DiskFull(name)
        super().write_bytes(name, content)


def train_one(key: str, *, spec: TrainSpec, course: Course, store: Store) -> CellRun:
    settings = zero.engine_settings(spec, on_gpu=False)
    sharding = HfDeepSpeedConfig(settings) if zero.base_is_sharded(settings) else None
    base = warm_base()
    del sharding
    rows = base.rows("rows", examples={"rows": examples()}, form=RowForm.of(spec))
    (one,) = adapter.attach(base.model, spec=spec, seeds=[0]).each()
    run = CellRun(Lesson(replace(job(key), course=course), rows), one=one, base=base, spec=spec, token_budget=8192)
    zero.train_sharded(run, settings=settings, store=store, checkpoint_every=5)
    return run


def main(folder: Path, ways: list[str]) -> None:
    os.environ.update(ALONE)
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    torch.set_num_threads(1)
    for way in ways:
        stage, offload, dropout, kl = way.split("-")
        spec = recipe(lora_dropout=float(dropout), strategy="deepspeed", zero_stage=int(stage), offload=offload)
        course = Course(kl=float(kl))
        root = str(folder / way)
        whole = train_one("whole", spec=spec, course=course, store=Store(root))
        with suppress(DiskFull):
            train_one("broken", spec=spec, course=course, store=Filling(root))
        kept = Store(root).read_bytes("checkpoints/broken/latest").decode()
        resumed = train_one("broken", spec=spec, course=course, store=Store(root))
        tallies = {"whole": whole.steps.tally, "resumed": resumed.steps.tally}
        losses = {name: [tally.losses, tally.divergences] for name, tally in tallies.items()} | {"kept": kept}
        Path(root, "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
