"""Generations to verdicts: an OpenAI-compatible judge, asked as fast as its limits allow and never twice.

Not for what verdicts mean (reduce.py). The invariant: every reply that arrived is in the journal before its verdict is
in the table, and a request whose reply is in the journal is not sent.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emray.context import Context
from emray.data import Inquiries
from emray.endpoint.journal import journaled_keys
from emray.endpoint.prices import cost_usd
from emray.judge.tasks import JudgeTask
from emray.judge.unjudged import Unjudged, missing
from emray.spec import JudgeSpec

if TYPE_CHECKING:
    from emray.judge.stage import JudgeRows

__all__ = ["JudgeTask", "Unjudged", "cost_usd", "journaled_keys", "missing", "run", "run_here", "streaming"]


def run(tasks: Iterable[JudgeTask], *, spec: JudgeSpec, base_url: str | None, context: Context) -> None:
    """Write a verdict for every task, within an initialised Ray. `base_url` None: as openai users set it.

    Raises EndpointUnreachable, or StageError when our key, model or quota is refused; what was earned is kept.
    """
    from emray.judge import stage  # the openai SDK loads when there is something to judge

    stage.run(tasks, spec=spec, base_url=base_url, context=context)


def run_here(tasks: Iterable[JudgeTask], *, spec: JudgeSpec, base_url: str | None, context: Context) -> None:
    """The same in this process alone, without Ray."""
    from emray.judge import stage

    stage.run(tasks, spec=spec, base_url=base_url, context=context, alone=True)


@contextmanager
def streaming(
    *, inquiries: Inquiries, spec: JudgeSpec, base_url: str | None, context: Context
) -> "Iterator[JudgeRows]":
    """The sweep's judge at the ready for generations as they come, within an initialised Ray.

    Yields a function that takes a Ray dataset of generations, drives it, and returns when all of its answers have their
    verdicts. It may run in several threads at once: all share one limiter, and equal requests are asked once.
    """
    from emray.judge import stage

    with stage.streaming(inquiries=inquiries, spec=spec, base_url=base_url, context=context) as judge_rows:
        yield judge_rows
