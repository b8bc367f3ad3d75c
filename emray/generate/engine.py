"""What every generation engine takes and gives, and which engine a sweep means.

Not for scheduling (pipeline.py) or storage (operator.py). The invariant: `generate` gives each request back exactly
once with one sample per seed; what goes wrong with one request is its FinishReason, what goes wrong with the engine
is EngineDied.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from emray.endpoint.access import Access
from emray.errors import StageError
from emray.model.residual import Push
from emray.records import USUAL_RENDERING, FinishReason, Messages, Rendering
from emray.spec import EndpointSpec, GenerateSpec

EngineName = Literal["vllm", "transformers", "openai"]


class Adapter(NamedTuple):
    """A LoRA adapter in PEFT format; `name` is its key."""

    name: str
    folder: Path


class SampleRequest(NamedTuple):
    """One prompt to one adapter (None: the base model), sampled once per seed. `seeds` are consecutive.

    Only engine transformers takes a `push`; pipeline.py hands it all that is steered.
    """

    messages: Messages
    adapter: Adapter | None
    seeds: tuple[int, ...]
    push: Push | None = None


class Sample(NamedTuple):
    """One sampled answer; `answer` is None when nothing was generated."""

    answer: str | None
    finish_reason: FinishReason
    num_tokens: int


class Finished(NamedTuple):
    """A request's samples in the order of its seeds."""

    position: int  # of the request in the call
    samples: tuple[Sample, ...]
    num_prompt_tokens: int | None
    error: str | None = None


class Served(NamedTuple):
    """Under which names an endpoint serves what is asked here."""

    spec: EndpointSpec
    access: Access
    base: str
    adapters: Mapping[str, str]  # by adapter key
    store: str  # root of the run folder, whose journal keeps the replies


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What an engine needs to start; picklable, made by the driver."""

    engine: EngineName
    model_path: str
    rendering: Rendering = USUAL_RENDERING
    temperature: float
    top_p: float
    max_tokens: int  # new tokens per answer
    prompts: tuple[Messages, ...]  # every distinct prompt to come: the longest sets the context to reserve
    num_adapters: int  # distinct adapters to come
    max_lora_rank: int
    samples_per_adapter: int  # the fewest samples any adapter is asked for
    adapters_per_block: int  # the most adapters in one block
    threads: int  # CPU threads for one engine
    tensor_parallel: int = 1
    gpu: bool = False
    served: Served | None = None  # for engine openai
    whole_cell: str | None = None  # key of the cell whose own model answers, in place of `model_path`


class Engine(Protocol):
    """One loaded model. As many threads as pipeline.py says may be in `generate` at once and share its batches."""

    name: str
    version: str

    def generate(self, requests: Sequence[SampleRequest]) -> Iterator[Finished]:
        """Samples of each request, in the order they finish. Raises EngineDied."""
        ...


@runtime_checkable
class Complaining(Protocol):
    """An engine that waits for others and can say for what."""

    def complaint(self) -> str:
        """Why nothing comes back; empty where it does not know."""
        ...


class EngineDied(StageError):
    """The engine cannot go on in this process; a fresh one can."""


def choose_engine(spec: GenerateSpec) -> EngineName:
    """`auto` is vllm where it is installed. Imports neither."""
    if spec.engine != "auto":
        return spec.engine
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def failed(
    index: int, request: SampleRequest, reason: FinishReason, *, error: str, prompt_tokens: int | None
) -> Finished:
    """The outcome of a request of which nothing was sampled."""
    return Finished(index, (Sample(None, reason, 0),) * len(request.seeds), prompt_tokens, error)


def one_line(error: BaseException) -> str:
    """An exception as one line: its type and the first line of its text."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
