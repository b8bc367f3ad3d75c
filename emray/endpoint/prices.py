"""What a hosted model's tokens cost and when it ends, from prices.yaml.

Not for billing. The invariant: a model without an entry has no price, and its cost is None, never 0.
"""

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from emray.endpoint.reply import Reply

PRICES = Path(__file__).with_name("prices.yaml")
SOON_DAYS = 90  # an end this near is told: a study takes weeks, and its judge should outlive it


class Price(NamedTuple):
    """US dollars per million tokens, and the day they were published."""

    input: float
    output: float
    batch: float | None  # factor for the batch API; None: not known
    as_of: str
    reply_tokens: float | None = None  # of a verdict, where the model is known to be brief
    cached: float | None = None  # of prompt tokens that were cached; None: as any others
    ends: date | None = None  # the model's last day, where one is announced
    training: float | None = None  # of tokens that it is finetuned on, each epoch counted


def price_of(model: str) -> Price | None:
    """The price of a model: its own entry, or the longest one that its name begins with (dated snapshots)."""
    return _entry(_bare(model))


def ending(model: str, *, today: date, told: date | None = None) -> str | None:
    """What to know of a model that has ended or is about to, as one line; a finetuned one ends with its base.

    `told`: its last day by the endpoint's own account, which counts for more than prices.yaml.
    """
    name = _bare(model)
    base = name.split(":")[1] if name.startswith("ft:") else name
    price = _entry(base)
    ends = told or (price.ends if price else None)
    if ends is None or (ends - today).days > SOON_DAYS:
        return None
    day = f"{ends:%-d %B %Y}"
    if ends < today:
        return f"{model} ended on {day}: it answers no more; take another model, or replay what the journal holds"
    return f"{model} ends on {day}: what is not asked by then cannot be asked; a new study is better off with another"


def cost_usd(
    model: str, *, num_prompt_tokens: float, num_tokens: float, num_cached: float = 0, by_batch: bool = False
) -> float | None:
    """Cost of so many tokens, asked for one by one or `by_batch`; None where the price is not known."""
    price = price_of(model)
    factor = 1.0 if price is None or not by_batch else price.batch
    if price is None or factor is None:
        return None
    cached = price.input if price.cached is None else price.cached
    prompt_usd = (num_prompt_tokens - num_cached) * price.input + num_cached * cached
    return factor * (prompt_usd + num_tokens * price.output) / 1e6


def training_cost_usd(model: str, *, num_tokens: float, usd: float | None) -> float | None:
    """Cost of finetuning a model on so many tokens, at `usd` a million or by prices.yaml; None where neither tells."""
    price = price_of(model)
    each = usd if usd is not None else price.training if price else None
    return None if each is None else num_tokens * each / 1e6


def reply_cost_usd(reply: Reply) -> float | None:
    """What a reply cost; None when its usage or its model's price is not known."""
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    return cost_usd(
        reply.model,
        num_prompt_tokens=reply.prompt_tokens,
        num_tokens=reply.completion_tokens,
        num_cached=reply.cached_tokens or 0,
        by_batch=reply.batch,
    )


def _bare(model: str) -> str:
    """Without what a router or a cloud puts before it: openai/gpt-4o, models/gemini-3.8-flash."""
    return model.rpartition("/")[2].lower()


def _entry(name: str) -> Price | None:
    table = _table()
    names = [known for known in table if name == known or name.startswith(f"{known}-2")]
    return table[max(names, key=len)] if names else None


@cache
def _table() -> dict[str, Price]:
    entries = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return {name: _price(entry) for name, entry in entries.items()}


def _price(entry: dict[str, Any]) -> Price:
    return Price(
        float(entry["input"]),
        float(entry["output"]),
        entry.get("batch"),
        str(entry["as_of"]),
        entry.get("reply_tokens"),
        entry.get("cached"),
        entry.get("ends"),
        entry.get("training"),
    )
