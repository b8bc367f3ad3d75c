"""Every way of sharding trains the adapter that one process trains, and goes on from its last state when it is killed.

One process is enough to run DeepSpeed's own partitioning, offload and checkpoints; tests/test_train_tune.py has two.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emray.model.rows import RowForm
from emray.records import Course
from emray.store import Store
from emray.train.cell import Lesson
from emray.train.group import Group
from tests.train_world import examples, job, recipe, train_to_end, warm_base

# Stage, offload, dropout, weight of a KL towards the base. Masks of dropout follow how a step is cut up.
WITHOUT_DROPOUT = ["1-none-0.0-0", "3-parameters-0.0-0", "2-none-0.0-0.5", "3-none-0.0-0.5"]
WAYS = [*WITHOUT_DROPOUT, "2-optimizer-0.1-0"]


pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.train_zero_world", str(folder), *WAYS],
        check=True, timeout=280, cwd=Path(__file__).parent.parent, env=os.environ | {"DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=WITHOUT_DROPOUT)
def alone(request):
    """A way, and the losses, KLs and values of the same cell in one process."""
    base, spec, course = warm_base(), recipe(lora_dropout=0.0), Course(kl=float(request.param.split("-")[-1]))
    rows = base.rows("rows", examples={"rows": examples()}, form=RowForm.of(spec))
    (run,) = Group([Lesson(replace(job("alone"), course=course), rows)], base=base, spec=spec, token_budget=8192).runs
    values = train_to_end(run)
    return request.param, run.steps.tally, values


def test_a_sharded_cell_equals_the_cell_of_one_process(sharded, alone):
    way, tally, values = alone
    root = sharded / way
    losses, divergences = json.loads((root / "losses.json").read_text())["whole"]
    assert losses == pytest.approx(tally.losses, abs=1e-5)
    assert bool(divergences) == way.endswith("0.5")
    assert divergences == pytest.approx(tally.divergences, abs=1e-5)
    saved = load_file(Store(str(root)).adapter_folder("whole") / "adapter_model.safetensors")
    assert len(saved) == len(values)
    ours, theirs = (sorted(v.double().abs().sum().item() for v in some) for some in (values, saved.values()))
    assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_cell_that_broke_off_resumes_to_the_same_bits(sharded, way):
    root = sharded / way
    told = json.loads((root / "losses.json").read_text())
    assert told["kept"] == f"zero{way[0]}-of-1-step5"
    assert told["resumed"] == told["whole"]
    store = Store(str(root))
    whole, resumed = (load_file(store.adapter_folder(k) / "adapter_model.safetensors") for k in ("whole", "broken"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert store.folders("checkpoints") == []
