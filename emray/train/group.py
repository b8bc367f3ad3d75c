"""The cells one worker trains at a time on its warm base: usually one, with `adapters_per_step` several in one pass.

Several adapters share every forward and backward pass of the frozen base; each token meets only its own cell's adapter.
Not for scheduling. The invariant: each cell's order, loss, clipping, optimizer and schedule are its own, so its result
is that of training alone (up to the rounding of larger matrix products).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch._dynamo.exc import TorchDynamoException

from emray.errors import DataError, StageError
from emray.model.micro_batch import logits_of, pack
from emray.model.rows import TokenRow
from emray.spec import TrainSpec
from emray.train import adapter
from emray.train.adapter import Attached
from emray.train.cell import CellRun, Lesson
from emray.train.compiled import Unsuitable
from emray.train.compiled_cells import CompiledCells
from emray.train.loop import check_finite, num_trained
from emray.train.losses import PassLoss, loss_of
from emray.train.warm import WarmBase

MIN_BUDGET = 256  # tokens of a pass that are not halved any more when memory is short


class Span(NamedTuple):
    """Tokens first .. last - 1 of a packed row belong to one adapter."""

    adapter: str
    first: int
    last: int


class Part(NamedTuple):
    """One cell's examples in a shared pass, and how many tokens its whole step trains on."""

    run: CellRun
    rows: list[TokenRow]
    num_targets: int


class Group:
    """Cells under way together. Call `step()` until `finished`, then `close()`; a run's `error` says it diverged."""

    def __init__(self, lessons: Sequence[Lesson], *, base: WarmBase, spec: TrainSpec, token_budget: int) -> None:
        """Raises DataError when the adapter does not fit the model, or several cells need a model that packs."""
        if len(lessons) > 1 and not base.packs:
            raise DataError(f"{base.path} cannot pack examples; set resources.adapters_per_step to 1")
        attached = adapter.attach(base.model, spec=spec, seeds=[lesson.job.cell.seed for lesson in lessons])
        self._model, self._base = attached.model, base
        try:
            self.runs = [
                CellRun(lesson, one=one, base=base, spec=spec, token_budget=token_budget // len(lessons))
                for lesson, one in zip(lessons, attached.each(), strict=True)
            ]
        except DataError:
            adapter.detach(attached.model)
            raise
        self.step_wall_s = 0.0
        self._spans: list[Span] = []
        self._compiled = self._on_compiled_step(attached, token_budget=token_budget)
        if len(lessons) > 1:
            for layer in adapter.lora_layers(attached.model):
                layer.forward = _MixedForward(layer, self._spans)

    @property
    def under_way(self) -> list[CellRun]:
        return [run for run in self.runs if not (run.finished or run.error)]

    @property
    def finished(self) -> bool:
        return not self.under_way

    def step(self) -> list[CellRun]:
        """One optimizer step of every cell under way; returns those that made it."""
        started = time.perf_counter()
        runs = self.under_way
        if self._compiled is None or not self._step_compiled(self._compiled, runs):
            while not self._step_eager(runs):
                for run in runs:
                    run.steps.halve()
        self.step_wall_s += time.perf_counter() - started
        return [run for run in runs if not run.error]

    def close(self) -> None:
        """Leave the base as it was found."""
        adapter.detach(self._model)

    def _on_compiled_step(self, attached: Attached, *, token_budget: int) -> CompiledCells | None:
        try:
            return CompiledCells(attached, self.runs, base=self._base, token_budget=token_budget)
        except Unsuitable as error:
            self._say(f"eager: {error}")
            return None

    def _step_compiled(self, cells: CompiledCells, runs: Sequence[CellRun]) -> bool:
        """False where there is no compiler on this machine, or it cannot take this model."""
        try:
            cells.step(runs)
        except TorchDynamoException as error:
            cells.abandon()
            self._compiled = None
            self._say(f"eager: {str(error).splitlines()[0]}")
            return False
        return True

    def _step_eager(self, runs: Sequence[CellRun]) -> bool:
        """False where passes need more memory than there is, and smaller ones may not."""
        try:
            if len(self.runs) == 1:
                _step_alone(runs[0])
            else:
                self._step_together(runs)
        except torch.OutOfMemoryError:
            if min(run.steps.token_budget for run in runs) < MIN_BUDGET:
                raise
            return False
        return True

    def _say(self, arithmetic: str) -> None:
        """How steps are computed stands in every cell's record."""
        for run in self.runs:
            run.arithmetic = arithmetic

    def _step_together(self, runs: Sequence[CellRun]) -> None:
        started = time.perf_counter()
        losses = {run.name: (0.0, 0.0) for run in runs}
        for parts in _passes(runs):
            for part, share in zip(parts, self._backward(parts), strict=True):
                entropy, divergence = losses[part.run.name]
                losses[part.run.name] = (entropy + share.entropy.item(), divergence + share.divergence.item())
        share_s = (time.perf_counter() - started) / len(runs)
        for run in runs:
            entropy, divergence = losses[run.name]
            self._apply(run, loss=entropy, divergence=divergence, wall_s=share_s)

    def _backward(self, parts: Sequence[Part]) -> list[PassLoss]:
        """One pass over the base for several cells, and a bare one where any of them is held near it; returns each
        one's share of its step's loss."""
        micro = pack([row for part in parts for row in part.rows], device=self._base.device)
        pulls = [part.run.steps.pull for part in parts]
        pull = next(filter(None, pulls), None)
        base = pull.base_logits(micro) if pull else None
        self._mark(parts)
        counts = [num_trained(part.rows) for part in parts]
        logits, targets = (tensor.split(counts) for tensor in (logits_of(self._model, micro), micro.targets))
        bases = [None] * len(parts) if base is None else base.split(counts)
        shares = [
            loss_of(mine, wanted, num_targets=part.num_targets, base=bare, weight=own.weight if own else 0.0)
            for part, own, mine, wanted, bare in zip(parts, pulls, logits, targets, bases, strict=True)
        ]
        torch.stack([share.total for share in shares]).sum().backward()
        for part in parts:
            num_tokens = sum(len(row.ids) for row in part.rows)
            part.run.steps.count_tokens(num_tokens, num_tokens)
        return shares

    def _mark(self, parts: Sequence[Part]) -> None:
        """Tell the layers whose tokens are whose."""
        self._spans.clear()
        first = 0
        for part in parts:
            last = first + sum(len(row.ids) for row in part.rows)
            self._spans.append(Span(part.run.name, first, last))
            first = last

    def _apply(self, run: CellRun, *, loss: float, divergence: float, wall_s: float) -> None:
        try:
            check_finite(loss + divergence, step=run.steps.done, spec=run.spec)
        except StageError as error:
            run.error = error
            return
        num_targets = num_trained(run.steps.batch())
        run.steps.apply()
        run.steps.count(loss, num_targets=num_targets, wall_s=wall_s, divergence=divergence)


def _step_alone(run: CellRun) -> None:
    try:
        run.steps.step()
    except StageError as error:
        run.error = error


def _passes(runs: Sequence[CellRun]) -> Iterator[list[Part]]:
    """The shared passes of one step: the n-th micro-batch of every cell that has one."""
    batches = [run.steps.batch() for run in runs]
    cuts = [run.steps.cut(rows) for run, rows in zip(runs, batches, strict=True)]
    for number in range(max(len(cut) for cut in cuts)):
        parts = []
        for run, rows, cut in zip(runs, batches, cuts, strict=True):
            if number < len(cut):
                run.steps.on_micro(run.steps.done, number)
                parts.append(Part(run, [rows[index] for index in cut[number]], num_trained(rows)))
        yield parts


class _MixedForward:
    """A LoRA layer's forward pass in which each span of tokens meets its own adapter."""

    def __init__(self, layer: LoraLayer, spans: list[Span]) -> None:
        self._layer, self._spans = layer, spans

    def __call__(self, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer = self._layer
        result = layer.base_layer(tokens, *args, **kwargs)
        pieces = []
        for span in self._spans:
            low = layer.lora_A[span.adapter](layer.lora_dropout[span.adapter](tokens[:, span.first : span.last]))
            pieces.append(layer.lora_B[span.adapter](low) * layer.scaling[span.adapter])
        return result + torch.cat(pieces, dim=1).to(result.dtype)
