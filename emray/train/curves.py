"""Loss curves for people who watch training: TensorBoard files in the run folder, Weights & Biases, MLflow.

Not a source of results: records hold the losses. The invariant: nothing is read back from here.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emray.errors import SpecError
from emray.records import TrainJob
from emray.store import Store
from emray.train.cell import CellRun

PROJECT = "emray"


def write_curve(run: CellRun, *, store: Store) -> None:
    """Put one cell's loss per step into the store as a TensorBoard run, `tensorboard/<cell>/`."""
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(prefix="emray-curve-") as folder:
        with SummaryWriter(folder) as writer:
            for number, loss in enumerate(run.steps.tally.losses, 1):
                writer.add_scalar("train/loss", loss, number)
            for number, divergence in enumerate(run.steps.tally.divergences, 1):
                writer.add_scalar("train/kl_to_base", divergence, number)
        for path in Path(folder).iterdir():
            store.write_bytes(f"tensorboard/{run_name(run.job)}/{path.name}", path.read_bytes())


def run_name(job: TrainJob) -> str:
    cell = job.cell
    return f"{cell.model}-{cell.domain}-{cell.arm}-seed{cell.seed}-{cell.key}"


def tune_callbacks(track: Sequence[str]) -> list[Any]:
    """Ray Tune's own loggers for the services a sweep names. Raises SpecError when a client is not installed."""
    for name in ("wandb", "mlflow"):
        if name in track and importlib.util.find_spec(name) is None:
            raise SpecError(f"resources.track names {name}, which is not installed: pip install {name}")
    callbacks: list[Any] = []
    if "wandb" in track:
        from ray.air.integrations.wandb import WandbLoggerCallback

        callbacks.append(WandbLoggerCallback(project=PROJECT))
    if "mlflow" in track:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks.append(MLflowLoggerCallback(experiment_name=PROJECT))
    return callbacks
