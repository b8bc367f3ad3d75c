"""Adapters x prompts -> generations: samples answers from every cell and writes them as rows of the store.

    blocks.py                tasks packed into adapter-contiguous blocks
    engine.py                what every engine takes and gives; which engine `auto` means
    starting.py              an engine by its name, loaded
    vllm_engine.py           many LoRA adapters in one vLLM engine
    vllm_cpu_lora.py         its LoRA products on a CPU
    transformers_engine.py   transformers + peft, where vLLM is not
    endpoint_engine.py       any OpenAI-compatible endpoint
    block_attempts.py        what became of each block, and why engines died
    operator.py              the class Ray Data runs in its actors: block in, rows written and passed on
    pipeline.py              Ray Data over a pool of engines

Not for judging, nor for deciding what is missing: it does the tasks it is given. The invariant: a row is in the store
before anything downstream hears of it, and every task leaves as many rows as it has keys, failures included.
Importing this package imports neither ray nor torch.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from emray.context import Context
from emray.records import GenerationTask
from emray.spec import GenerateSpec

if TYPE_CHECKING:
    from emray.generate.pipeline import Stream


def run(tasks: Iterable[GenerationTask], *, spec: GenerateSpec, context: Context) -> None:
    """Do every task and write its rows; `context.advance` counts answers. Ray must be running.

    Raises StageError when no engine can work at all; rows written until then stay.
    """
    from emray.generate.pipeline import generate

    generate(tasks, spec=spec, context=context)


def streams(tasks: Iterable[GenerationTask], *, spec: GenerateSpec, context: Context) -> "Iterator[Stream]":
    """The same for a stage that follows at once: a lazy dataset of rows per model, each row stored before it comes by.

    Chain to `rows` and take what comes out within `followed(advance)`, one stream after the other.
    """
    from emray.generate import pipeline

    return pipeline.streams(tasks, spec=spec, context=context)
