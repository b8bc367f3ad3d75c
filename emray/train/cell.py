"""One cell from a warm base to a published adapter, without Ray.

Not for scheduling or retries. The invariant: the same job on the same kind of device gives the same bytes, whichever
worker runs it, whatever it trained before, and whether or not it was interrupted.
"""

import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from emray.errors import DataError, EmrayError
from emray.model.micro_batch import MicroBatch, logits_of
from emray.model.rows import TokenRows
from emray.records import TrainJob
from emray.software import COMMIT, versions
from emray.spec import TrainSpec
from emray.store import Store
from emray.train import adapter
from emray.train.adapter import One
from emray.train.loop import Passes, Steps, Tally, Trained
from emray.train.losses import Pull
from emray.train.order import step_batches
from emray.train.warm import WarmBase

_VERSIONS = ("emray", COMMIT, "torch", "transformers", "peft", "ray")  # that a record names

MAX_RECORDED_LOSSES = 200


class Lesson(NamedTuple):
    """A job, its examples as tokens, and the folder of the adapter that it goes on with."""

    job: TrainJob
    rows: TokenRows
    start: Path | None = None

    @classmethod
    def of(cls, job: TrainJob, rows: TokenRows, *, store: Store) -> Self:
        """Raises DataError where what the job goes on with was not trained."""
        if not job.start:
            return cls(job, rows)
        record = store.adapter_record(job.start)
        if record is None or not record.trained:
            cause = record.details.get("error") if record else "there is no record of it"
            raise DataError(f"the adapter that it goes on with was not trained: {cause}")
        return cls(job, rows, store.adapter_folder(job.start))


class CellRun:
    """A cell under way on a warm base that carries its adapter."""

    def __init__(
        self,
        lesson: Lesson,
        *,
        one: One,
        base: WarmBase,
        spec: TrainSpec,
        token_budget: int,
    ) -> None:
        job, rows, start = lesson
        if start:
            adapter.load(one, start)
        self.spec = spec = spec.on_course(job.course, num_examples=len(rows.rows))
        self.job, self.name, self.model = job, one.name, one.model
        self.parameters = adapter.trainable(one.model, adapter=one.name)
        self.error: EmrayError | None = None
        self.arithmetic = "compiled"  # or why not; the group says
        self._base, self._rows = base, rows

        def on_micro(step: int, micro: int) -> None:
            one.clock.step, one.clock.micro = step, micro

        self.steps = Steps(
            Trained(one.model, self.parameters, on_micro, pull_of(job, one.model, base=base)),
            rows=rows,
            batches=step_batches(len(rows.rows), batch_size=spec.batch_size, epochs=spec.epochs, seed=job.cell.seed),
            spec=spec,
            passes=Passes("packed" if base.packs else "padded", token_budget, base.device),
        )

    @property
    def finished(self) -> bool:
        return self.steps.finished

    def keys_due(self) -> list[str]:
        """Adapter keys to publish now: the cell's own at the end, a kept checkpoint's on the way."""
        steps = self.steps
        kept = [key for step, key in self.job.checkpoints if step == steps.done]
        return [*kept, self.job.cell.key] if self.finished else kept

    def publish(self, store: Store, *, key: str, timing: Mapping[str, float]) -> None:
        """Put the adapter as it is now, with its record, under a key; what a try before has put stays as it is."""
        if is_trained(key, store=store):
            return
        details = self.details() | dict(timing)
        with tempfile.TemporaryDirectory(prefix="emray-adapter-") as folder:
            files = adapter.save(self.model, Path(folder), adapter=self.name)
            if self.spec.strategy == "full" and self._base.chat:
                self._base.chat.tokenizer.save_pretrained(str(files))  # a model that can be used without its base
            store.put_adapter(key, files=files, details=details)

    def details(self) -> dict[str, Any]:
        """What the record says of the training so far."""
        tally = self.steps.tally
        return {
            **tally_details(tally),
            "num_steps": self.steps.done,
            "num_examples": len(self._rows.rows),
            "num_overlong": self._rows.num_overlong,
            "layout": "packed" if self._base.packs else "padded",
            "arithmetic": self.arithmetic,
            "device": device_name(self._base.device),
            "num_steps_planned": self.steps.num_steps,
            "num_threads": torch.get_num_threads(),
            **({"goes_on_with": self.job.start} if self.job.start else {}),
            "versions": {name: versions()[name] for name in _VERSIONS},
        }

    # Interrupted runs ------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything a fresh run of the same job needs to go on from here (masks and order come from the seed)."""
        values = [parameter.detach().cpu() for parameter in self.parameters]
        buffer = io.BytesIO()
        steps = self.steps
        torch.save(
            {
                "values": values,
                "optimizer": steps.optimizer.state_dict(),
                "done": steps.done,
                "tally": vars(steps.tally),
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """Go on from a `state()` of the same job."""
        saved = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, saved["values"], strict=True):
                parameter.copy_(value)
        self.steps.optimizer.load_state_dict(saved["optimizer"])
        self.steps.done = saved["done"]
        self.steps.tally = Tally(**saved["tally"])


def pull_of(job: TrainJob, model: Any, *, base: WarmBase) -> Pull | None:
    """What holds a job's finetune near its base, where anything does."""
    if not job.course.kl:
        return None
    bare = model if adapter.lora_layers(model) else base.model  # of a whole model it is a copy

    @torch.no_grad()
    def base_logits(micro: MicroBatch) -> torch.Tensor:
        with adapter.switched_off(model):
            return logits_of(bare, micro)

    return Pull(job.course.kl, base_logits)


def is_trained(key: str, *, store: Store) -> bool:
    record = store.adapter_record(key)
    return record is not None and record.trained


def tally_details(tally: Tally) -> dict[str, Any]:
    """The part of a record that counts tokens and losses."""
    every = -(-len(tally.losses) // MAX_RECORDED_LOSSES) or 1
    kept = [n for n in range(len(tally.losses)) if n % every == 0 or n == len(tally.losses) - 1]
    return {
        "losses": [[n + 1, round(tally.losses[n], 6)] for n in kept],
        "final_loss": round(tally.losses[-1], 6),
        **({"divergences": [[n + 1, round(tally.divergences[n], 6)] for n in kept]} if tally.divergences else {}),
        "num_tokens_real": tally.num_tokens_real,
        "num_tokens_padded": tally.num_tokens_padded,
        "num_tokens_trained": tally.num_tokens_trained,
        "wall_s": round(tally.step_wall_s, 4),
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class Stopwatch:
    """Seconds since it was started or last read."""

    def __init__(self) -> None:
        self._from = time.perf_counter()

    def peek(self) -> float:
        return time.perf_counter() - self._from

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._from = now - self._from, now
        return elapsed
