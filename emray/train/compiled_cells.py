"""A group's cells on a compiled step: whose examples share a pass, and what happens to the gradients.

Not for the arithmetic of a pass (compiled.py). The invariant: a step that runs out of memory leaves no trace; it is
made again with passes of half the size.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch._dynamo.exc import TorchDynamoException

from emray.errors import StageError
from emray.model.rows import TokenRow
from emray.spec import TrainSpec
from emray.train.adapter import Attached
from emray.train.cell import CellRun
from emray.train.compiled import CompiledStep, Unsuitable, check, recorded, signature
from emray.train.dropout import salts
from emray.train.loop import Steps, check_finite, num_trained
from emray.train.passes import Cells, Cut, Pass, Shapes, balanced, lay
from emray.train.warm import WarmBase


class StepRows(NamedTuple):
    """One cell's step: its rows, the salts of their tokens, and 1 / the tokens it trains on."""

    rows: list[TokenRow]
    salts: list[np.ndarray]
    weight: float


class RecordedApply:
    """A cell's clipping and optimizer step: once as it is, then as a CUDA graph. Telling a GPU of hundreds of small
    tensors takes longer than what it has to do."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._rate = steps, torch.zeros((), device=steps.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._finite = self._rate
        self._moments = 0  # where the state lies that the graph changes; one that was restored lies elsewhere

    def __call__(self) -> torch.Tensor:
        """Returns whether the gradient was finite, [] bool."""
        self._rate.fill_(self._steps.learning_rate())
        for group in self._steps.optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        if not self._moments or self._moments != self._address():
            self._graph = None
            self._use_gradients()
            self._moments = self._address()
            return self._finite
        self._graph = self._graph or recorded(self._use_gradients)
        self._graph.replay()
        return self._finite

    def _address(self) -> int:
        return next((state["exp_avg"].data_ptr() for state in self._steps.optimizer.state.values()), 0)

    def _use_gradients(self) -> None:
        self._finite = self._steps.use_gradients()


class CompiledCells:
    """Optimizer steps of cells that train together, or of one."""

    def __init__(self, attached: Attached, runs: Sequence[CellRun], *, base: WarmBase, token_budget: int) -> None:
        """Raises Unsuitable when the base, its device or the adapters leave it to the eager step."""
        if any(run.steps.pull for run in runs):
            raise Unsuitable("a KL towards the base takes a pass of the bare base, which is not compiled")
        names = list(attached.clocks)
        self._seeds = {name: clock.seed for name, clock in attached.clocks.items()}
        self._runs, self._device = list(runs), base.device
        self._longest = max(run.steps.longest for run in runs)
        self._cells = Cells(len(runs), min(run.steps.tokens_a_step for run in runs))
        self._shape(token_budget)
        self._step = _step_of(base, attached, names, shapes=self._shapes)
        self._step.adopt(attached.model, names)
        records = base.engine is not None and base.engine.graphs
        self._apply = {run.name: RecordedApply(run.steps) if records else run.steps.apply_finite for run in runs}
        self._passes: list[Pass] = []
        self._apart = False  # whether the step to come is one to make again, with no cell beside another
        self._gathered: list[tuple[str, int]] = []  # the cells and steps whose gradients are under way

    def step(self, runs: Sequence[CellRun]) -> None:
        """One optimizer step of each of these; a run that diverges gets its error."""
        started = time.perf_counter()
        if self._gathered != _place(runs, ahead=0):
            self._step.clear()  # a cell has left since, or has a step to make again
            self._gather(runs, ahead=0, apart=self._apart)
        self._count(runs)
        finite = [self._apply[run.name]() for run in runs]
        told = self._step.take_losses(*finite)
        self._gather_ahead(runs)
        values = told()  # the device is at the next step's gradients meanwhile
        losses = [values[self._runs.index(run)] for run in runs]
        self._settle(runs, losses, values[len(self._runs) :])
        for run in runs:
            run.steps.tally.step_wall_s += (time.perf_counter() - started) / len(runs)

    def _settle(self, runs: Sequence[CellRun], losses: Sequence[float], applied: Sequence[float]) -> None:
        """Count the steps that were made. What is not finite may come from a neighbour: such a step changed nothing,
        and is made again with no cell beside another. A cell for which that does not help has diverged."""
        lost = []
        for run, loss, was_applied in zip(runs, losses, applied, strict=True):
            if was_applied and math.isfinite(loss):
                run.steps.count(loss, num_targets=num_trained(run.steps.batch()), wall_s=0.0)
            else:
                lost.append((run, loss if was_applied else math.nan))
        self._apart = bool(lost) and len(runs) > 1 and not self._apart
        if not self._apart:
            for run, loss in lost:
                run.error = _divergence(loss, step=run.steps.done, spec=run.spec)

    def abandon(self) -> None:
        """Leave no gradients behind for those who go on without this step."""
        self._step.clear()

    def _gather_ahead(self, runs: Sequence[CellRun]) -> None:
        """The next step's gradients; what the compiler says against them is said when their turn has come."""
        try:
            self._gather([run for run in runs if run.steps.done + 1 < run.steps.num_steps], ahead=1)
        except TorchDynamoException:
            self._gathered = []

    def _gather(self, runs: Sequence[CellRun], *, ahead: int, apart: bool = False) -> None:
        """The gradients of the step so many further on, with passes halved until memory suffices."""
        self._gathered = _place(runs, ahead=ahead)
        while not self._try(runs, ahead=ahead, apart=apart):
            self._halve()

    def _try(self, runs: Sequence[CellRun], *, ahead: int, apart: bool) -> bool:
        shapes = replace(self._shapes, places=1) if apart else self._shapes
        try:
            self._passes = self._laid_out(runs, ahead=ahead, shapes=shapes)
            for one in self._passes:
                self._step.add(one, longest=self._shapes.longest)
        except torch.OutOfMemoryError:
            if self._shapes.token_budget < 2 * self._shapes.grain:
                raise
            return False
        return True

    def _halve(self) -> None:
        self._step.forget_graphs()
        self._step.clear()
        torch.cuda.empty_cache()
        self._shape(self._shapes.token_budget // 2)

    def _shape(self, token_budget: int) -> None:
        self._shapes = Shapes.of(self._longest, token_budget=token_budget, cells=self._cells)

    def _count(self, runs: Sequence[CellRun]) -> None:
        """What fills passes up is shared by tokens."""
        real = [sum(len(row.ids) for row in run.steps.batch()) for run in runs]
        laid_out = sum(len(one.ids) for one in self._passes)
        for run, mine in zip(runs, real, strict=True):
            run.steps.count_tokens(mine, round(laid_out * mine / sum(real)))

    def _laid_out(self, runs: Sequence[CellRun], *, ahead: int, shapes: Shapes) -> list[Pass]:
        """The passes of one step of these cells."""
        turns = {self._runs.index(run): self._turn(run, ahead=ahead) for run in runs}
        lengths = [[len(row.ids) for row in turns[n].rows] if n in turns else [] for n in range(len(self._runs))]
        return [
            lay([_cut(n, turns[n], some) for n, some in chosen.items()], shapes=shapes, device=self._device)
            for chosen in balanced(lengths, shapes=shapes)
        ]

    def _turn(self, run: CellRun, *, ahead: int) -> StepRows:
        rows = run.steps.batch(ahead)
        ends = np.cumsum([len(row.ids) for row in rows])
        salted = salts(int(ends[-1]), seed=self._seeds[run.name], step=run.steps.done + ahead)
        return StepRows(rows, np.split(salted, ends[:-1]), 1 / num_trained(rows))


def _cut(cell: int, turn: StepRows, chosen: Sequence[int]) -> Cut:
    return Cut(cell, [turn.rows[i] for i in chosen], [turn.salts[i] for i in chosen], turn.weight)


def _divergence(loss: float, *, step: int, spec: TrainSpec) -> StageError | None:
    try:
        check_finite(loss, step=step, spec=spec)
    except StageError as error:
        return error
    return None


def _place(runs: Sequence[CellRun], *, ahead: int) -> list[tuple[str, int]]:
    return [(run.name, run.steps.done + ahead) for run in runs]


def _step_of(base: WarmBase, attached: Attached, names: Sequence[str], *, shapes: Shapes) -> CompiledStep:
    """The base's own, where it was made for such adapters; else a new one, checked."""
    if not base.packs:
        raise Unsuitable("its layers are not plain causal attention")
    if not isinstance(attached.model, PeftModel):
        raise Unsuitable("every parameter is trained")
    if base.engine is None:
        raise Unsuitable("this device has no flash attention")
    kept = base.compiled
    if kept is not None and kept.signature == signature(attached.model, names=names, engine=base.engine):
        return kept
    base.compiled = None  # before the new one takes its memory
    step = CompiledStep(attached.model, names=names, engine=base.engine, device=base.device)
    check(step, attached.model, shapes=shapes, vocabulary=base.model.config.vocab_size, device=base.device)
    base.compiled = step
    return step
