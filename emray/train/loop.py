"""One cell's optimizer steps on a warm model: layouts, loss, clipping, schedule.

Knows nothing of Ray, stores or peft. The invariant: an optimizer step's gradient is that of the mean loss over the
trained tokens of its examples, whatever the micro-batches.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from emray.errors import StageError
from emray.model.micro_batch import MicroBatch, pack, pad
from emray.model.packing import length_grouped, packed
from emray.model.rows import TokenRow, TokenRows
from emray.spec import TrainSpec
from emray.train.losses import Pull, pass_loss


def learning_rate_scale(step: int, *, num_steps: int, spec: TrainSpec) -> float:
    """The schedule's factor at a step (0 is the first), as transformers' schedulers of the same names have it."""
    if step < spec.warmup_steps:
        return step / max(1, spec.warmup_steps)
    done = (step - spec.warmup_steps) / max(1, num_steps - spec.warmup_steps)
    if spec.schedule == "linear":
        return max(0.0, 1.0 - done)
    if spec.schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return 1.0


@dataclass
class Tally:
    """What a run of steps cost and how its loss went."""

    losses: list[float] = field(default_factory=list)
    num_tokens_real: int = 0
    num_tokens_padded: int = 0
    num_tokens_trained: int = 0
    step_wall_s: float = 0.0
    divergences: list[float] = field(default_factory=list)  # KL a trained token; none where nothing holds it near


class Trained(NamedTuple):
    """A model and what of it is trained."""

    model: Any
    parameters: Sequence[torch.nn.Parameter]
    on_micro: Callable[[int, int], None]  # told (step, micro) before each forward pass: dropout masks hang on it
    pull: Pull | None = None


class Passes(NamedTuple):
    """How a step's examples go through the model."""

    layout: Literal["packed", "padded"]
    token_budget: int  # tokens of one pass
    device: torch.device


class Steps:
    """The optimizer steps of one cell. Iterate by calling `step()` until `finished`."""

    def __init__(
        self, trained: Trained, *, rows: TokenRows, batches: Sequence[np.ndarray], spec: TrainSpec, passes: Passes
    ) -> None:
        self.model, self.on_micro, self.pull = trained.model, trained.on_micro, trained.pull
        self.tally = Tally()
        self.done = 0
        self.token_budget, self.device = passes.token_budget, passes.device
        self._rows, self._batches, self._spec = rows.rows, batches, spec
        self._parameters = list(trained.parameters)
        self._cut, self._lay = (packed, pack) if passes.layout == "packed" else (length_grouped, pad)
        self.optimizer = adamw(self._parameters, spec=spec)

    @property
    def num_steps(self) -> int:
        return len(self._batches)

    @property
    def finished(self) -> bool:
        return self.done >= self.num_steps

    def step(self) -> float:
        """One optimizer step; returns its mean loss per trained token. Raises StageError when it is not finite."""
        started = time.perf_counter()
        rows = self.batch()
        num_targets = num_trained(rows)
        loss = divergence = 0.0
        for number, chosen in enumerate(self.cut(rows)):
            self.on_micro(self.done, number)
            micro = self.lay([rows[index] for index in chosen])
            share = pass_loss(self.model, micro, num_targets=num_targets, pull=self.pull)
            share.total.backward()
            loss += share.entropy.item()
            divergence += share.divergence.item() if self.pull else 0.0
        check_finite(loss + divergence, step=self.done, spec=self._spec)
        self.apply()
        self.count(loss, num_targets=num_targets, wall_s=time.perf_counter() - started, divergence=divergence)
        return loss

    def batch(self, ahead: int = 0) -> list[TokenRow]:
        """The examples of the next optimizer step, or of one further on."""
        return [self._rows[index] for index in self._batches[self.done + ahead]]

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(len(row.ids) for row in self._rows)

    @property
    def tokens_a_step(self) -> float:
        """Tokens of a usual step."""
        return self._spec.batch_size * sum(len(row.ids) for row in self._rows) / len(self._rows)

    def lay(self, rows: Sequence[TokenRow]) -> MicroBatch:
        """A micro-batch of these examples, counted."""
        micro = self._lay(rows, device=self.device)
        self.tally.num_tokens_real += micro.num_real
        self.tally.num_tokens_padded += micro.num_padded
        return micro

    def cut(self, rows: Sequence[TokenRow]) -> list[list[int]]:
        """A step's examples as micro-batches within the token budget."""
        return self._cut([len(row.ids) for row in rows], token_budget=self.token_budget)

    def count_tokens(self, num_real: int, num_padded: int) -> None:
        """Tokens of a pass that was laid out elsewhere."""
        self.tally.num_tokens_real += num_real
        self.tally.num_tokens_padded += num_padded

    def halve(self) -> None:
        """A step ran out of memory: forget its gradients; its passes are to hold half as much."""
        self.token_budget //= 2
        self.optimizer.zero_grad(set_to_none=True)

    def learning_rate(self) -> float:
        """Of the next optimizer step."""
        return self._spec.learning_rate * learning_rate_scale(self.done, num_steps=self.num_steps, spec=self._spec)

    def count(self, loss: float, *, num_targets: int, wall_s: float, divergence: float = 0.0) -> None:
        """An optimizer step is done."""
        self.tally.losses.append(loss)
        if self.pull:
            self.tally.divergences.append(divergence)
        self.tally.num_tokens_trained += num_targets
        self.tally.step_wall_s += wall_s
        self.done += 1

    def apply(self) -> None:
        """Clip and use the gradients that have been gathered."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._spec.max_grad_norm)
        self._follow_schedule()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def apply_finite(self) -> torch.Tensor:
        """The same without waiting for the device, where gradients must stay where they are: they become zeros. One
        that is not finite changes nothing. Returns whether it was finite, [] bool."""
        self._follow_schedule()
        return self.use_gradients()

    def use_gradients(self) -> torch.Tensor:
        """That at the learning rate as it is."""
        finite = torch.nn.utils.clip_grad_norm_(self._parameters, self._spec.max_grad_norm).isfinite()
        # how torch's own loss scaling skips a step
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        del self.optimizer.found_inf
        self.optimizer.zero_grad(set_to_none=False)
        return finite

    def _follow_schedule(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()


def num_trained(rows: Sequence[TokenRow]) -> int:
    """Tokens the loss is taken over."""
    return sum(len(row.ids) - row.start for row in rows)


def adamw(parameters: Sequence[torch.nn.Parameter], *, spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW with its states in the parameters' own precision (float32 for LoRA)."""
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def check_finite(loss: float, *, step: int, spec: TrainSpec) -> None:
    """Raises StageError: a diverged cell is a failed cell, not an adapter."""
    if not math.isfinite(loss):
        raise StageError(f"loss became {loss} at step {step + 1}; lower train.learning_rate ({spec.learning_rate:g})")
