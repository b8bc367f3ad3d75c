"""A group's cells on a compiled step: whose examples share a pass, and what happens to the gradients.

Not for the arithmetic of a pass (compiled.py). The invariant: a step that runs out of memory leaves no trace; it is
made again with passes of half the size.
"""

import time
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch._dynamo.exc import TorchDynamoException

from emray.errors import StageError
from emray.spec import TrainSpec
from emray.train.adapter import Attached
from emray.train.cell import CellRun
from emray.train.compiled import CompiledStep, Unsuitable, check, signature
from emray.train.loop import check_finite, num_trained
from emray.train.passes import Cut, Pass, Shapes, balanced, lay
from emray.train.warm import WarmBase


class CompiledCells:
    """Optimizer steps of cells that train together, or of one."""

    def __init__(self, attached: Attached, runs: Sequence[CellRun], *, base: WarmBase, token_budget: int) -> None:
        """Raises Unsuitable when the base, its device or the adapters leave it to the eager step."""
        names = list(attached.clocks)
        self._seeds = {name: clock.seed for name, clock in attached.clocks.items()}
        self._runs, self._device = list(runs), base.device
        self._longest = max(run.steps.longest for run in runs)
        self._shape(token_budget)
        self._step = _step_of(base, attached, names, shapes=self._shapes)
        self._step.adopt(attached.model, names)
        self._passes: list[Pass] = []
        self._gathered: list[tuple[str, int]] = []  # the cells and steps whose gradients are under way

    def step(self, runs: Sequence[CellRun], *, spec: TrainSpec) -> None:
        """One optimizer step of each of these; a run that diverges gets its error."""
        started = time.perf_counter()
        if self._gathered != _place(runs, ahead=0):
            self._step.clear()  # a cell has left since
            self._gather(runs, ahead=0)
        self._count(runs)
        for run in runs:
            run.steps.apply(keep_gradients=True)
        losses = self._step.take_losses()
        self._gather_ahead(runs)
        values = losses()  # the device is at the next step's gradients meanwhile
        share_s = (time.perf_counter() - started) / len(runs)
        for run in runs:
            loss = values[self._runs.index(run)]
            try:
                check_finite(loss, step=run.steps.done, spec=spec)
            except StageError as error:
                run.error = error
                continue
            run.steps.count(loss, num_targets=num_trained(run.steps.batch()), wall_s=share_s)

    def abandon(self) -> None:
        """Leave no gradients behind for those who go on without this step."""
        self._step.clear()

    def _gather_ahead(self, runs: Sequence[CellRun]) -> None:
        """The next step's gradients; what the compiler says against them is said when their turn has come."""
        try:
            self._gather([run for run in runs if run.steps.done + 1 < run.steps.num_steps], ahead=1)
        except TorchDynamoException:
            self._gathered = []

    def _gather(self, runs: Sequence[CellRun], *, ahead: int) -> None:
        """The gradients of the step so many further on, with passes halved until memory suffices."""
        self._gathered = _place(runs, ahead=ahead)
        while not self._try(runs, ahead=ahead):
            self._halve()

    def _try(self, runs: Sequence[CellRun], *, ahead: int) -> bool:
        try:
            self._passes = self._laid_out(runs, ahead=ahead)
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
        self._shapes = Shapes.of(self._longest, token_budget=token_budget)

    def _count(self, runs: Sequence[CellRun]) -> None:
        """What fills passes up is shared by tokens."""
        real = [sum(len(row.ids) for row in run.steps.batch()) for run in runs]
        laid_out = sum(len(one.ids) for one in self._passes)
        for run, mine in zip(runs, real, strict=True):
            run.steps.count_tokens(mine, round(laid_out * mine / sum(real)))

    def _laid_out(self, runs: Sequence[CellRun], *, ahead: int) -> list[Pass]:
        """The n-th pass holds the n-th part of every cell that has one; every cell has its place in each."""
        parts = {run.name: self._parts(run, ahead=ahead) for run in runs}
        most = max((len(cuts) for cuts in parts.values()), default=0)
        nothing = Cut([], 0.0, 0, 0, 0)
        return [
            lay(
                [mine[number] if number < len(mine := parts.get(run.name, [])) else nothing for run in self._runs],
                shapes=self._shapes,
                device=self._device,
            )
            for number in range(most)
        ]

    def _parts(self, run: CellRun, *, ahead: int) -> list[Cut]:
        rows, step = run.steps.batch(ahead), run.steps.done + ahead
        share = self._shapes.token_budget // len(self._runs)
        bins = balanced([len(row.ids) for row in rows], token_budget=share, grain=self._shapes.grain)
        weight, seed = 1 / num_trained(rows), self._seeds[run.name]
        return [Cut([rows[i] for i in some], weight, seed, step, micro) for micro, some in enumerate(bins)]


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
