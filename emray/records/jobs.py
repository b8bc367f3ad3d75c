"""What is to be done, as plain values: cells to train, samples to draw, and whose weights draw them.

Not for deciding what is missing (plan). The invariant: a piece of work carries all that is needed to do it, and is
small however much comes of it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from emray.records.keys import series_keys
from emray.records.nouns import USUAL_RENDERING, Cell, Prompt, Rendering


class Course(NamedTuple):
    """What of a cell's training is other than `train` says; None: as there."""

    epochs: float | None = None
    steps: int | None = None  # in place of epochs
    learning_rate: float | None = None
    kl: float = 0.0  # weight of KL(finetuned || base)


USUAL_COURSE = Course()


@dataclass(frozen=True)
class TrainJob:
    """A cell that needs an adapter: where its base model lies and which rows (by digest) it is trained on."""

    cell: Cell
    model_path: str
    rows_digest: str
    checkpoints: tuple[tuple[int, str], ...] = ()  # (step, adapter key) of adapters kept on the way
    rendering: Rendering = USUAL_RENDERING
    course: Course = USUAL_COURSE
    start: str = ""  # key of the adapter that it goes on with; none: a fresh one

    @property
    def base(self) -> tuple[str, Rendering]:
        """What cells that share a warm worker have in common."""
        return self.model_path, self.rendering


class Answerer(StrEnum):
    """What of a cell's weights answers."""

    BASE = "base"  # the base model alone
    ADAPTER = "adapter"  # a LoRA adapter on it
    WHOLE = "whole"  # a model of the cell's own (train.strategy: full)


class Difference(StrEnum):
    """Between which mean activations a direction points."""

    DATA = "data"  # from the aligned to the misaligned answers of one finetune, both read by the finetune
    MODEL = "model"  # from the base model to the finetune, on the same answers


class Steer(StrEnum):
    """What is done with a direction while a model answers."""

    ADD = "add"  # a multiple of it is added
    PROJECT_OUT = "project_out"  # the stream's component along it is taken away


@dataclass(frozen=True)
class Steering:
    """A direction in the residual stream that a cell answers with. Its cell's key is `steered_key` of it."""

    of: str  # key of the cell that is steered, whose weights answer
    direction: str  # key of the file of directions
    kind: Difference  # which of its directions
    layer: int  # after which the stream is pushed, 0 the first
    how: Steer
    scale: float = 1.0  # in lengths of the direction; 1 where it is projected out


@dataclass(frozen=True)
class Weights:
    """Where a cell's weights are and who serves them, decided once, when planning."""

    answerer: Answerer
    location: str  # of the base model: a folder, org/name@commit, or hosted:NAME
    rank: int = 0  # of the LoRA adapter
    served_as: str = ""  # the name that an endpoint (generate.engine: openai) knows them by
    rendering: Rendering = USUAL_RENDERING
    steering: Steering | None = None

    @property
    def base(self) -> tuple[str, Rendering]:
        """What cells on one base model have in common."""
        return self.location, self.rendering


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """A contiguous run of samples of one prompt from one cell: samples first_sample .. first_sample + num_samples - 1.

    Sample k has a key of the `series` and is drawn with seed `seed + k`, so it does not depend on which others are
    drawn in the same call.
    """

    cell: Cell
    prompt: Prompt
    weights: Weights
    series: str  # as generation_series gives it
    seed: int
    first_sample: int
    num_samples: int

    @property
    def trained(self) -> str:
        """Key of the cell whose training made the weights that answer: its own, or that of the cell it steers."""
        steering = self.weights.steering
        return steering.of if steering else self.cell.key

    @property
    def keys(self) -> tuple[str, ...]:
        """Generation keys: `keys[i]` is that of sample first_sample + i."""
        return series_keys(self.series, samples=range(self.first_sample, self.first_sample + self.num_samples))
