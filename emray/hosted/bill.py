"""What finetuning jobs will cost, before any is made.

Not for what they did cost (a cell's record has it). The invariant: a model without a price has no cost, never 0.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from emray.endpoint.prices import training_cost_usd
from emray.model.weights import hosted_name
from emray.records import Messages, TrainJob
from emray.spec import HostedSpec

CHARACTERS_PER_TOKEN = 4.0  # the usual rule of thumb for English
TOKENS_AROUND = 4.0  # of a message, beside its text


class JobsBill(NamedTuple):
    """The jobs of one base model that are to come."""

    model: str  # as the service calls it
    num_jobs: int
    num_tokens: float  # trained, each epoch counted
    cost_usd: float | None  # None: the model's price is not known
    at_least: bool  # the service decides how many epochs there are


def bills(
    jobs: Iterable[TrainJob], *, datasets: Mapping[str, Sequence[Messages]], spec: HostedSpec
) -> Iterator[JobsBill]:
    """Model by model; jobs of models that are trained here are none."""
    tokens: dict[str, list[float]] = {}
    for job in jobs:
        if model := hosted_name(job.model_path):
            tokens.setdefault(model, []).append(_tokens(datasets[job.rows_digest]))
    epochs = 1 if spec.epochs == "auto" else spec.epochs
    for model, each in tokens.items():
        total = epochs * sum(each)
        cost = training_cost_usd(model, num_tokens=total, usd=spec.usd_per_million_tokens)
        yield JobsBill(model, len(each), total, cost, spec.epochs == "auto")


def _tokens(rows: Sequence[Messages]) -> float:
    return sum(len(turn.content) / CHARACTERS_PER_TOKEN + TOKENS_AROUND for row in rows for turn in row)
