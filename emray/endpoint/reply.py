"""What travels to an endpoint and back.

Not for what a reply means (the stage that asked knows). The invariant: everything here pickles, and a Reply survives
JSON.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class TokenChoice(NamedTuple):
    """One written token and what stood beside it: (text, logprob) pairs, the written one among them or not."""

    token: str
    logprob: float
    top: Sequence[tuple[str, float]]


class Reply(NamedTuple):
    """What a model wrote. `text` is None when it declined (`refusal` says how) or wrote nothing."""

    text: str | None
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    refusal: str | None = None
    tokens: tuple[TokenChoice, ...] | None = None  # with logprobs, where they were asked for
    batch: bool = False  # came by the batch API, which has a price of its own
    cached_tokens: int | None = None  # of the prompt's, at a price of their own; None for none
    thoughts: str | None = None  # what came beside the text; thoughts in the text stay there


USUAL_TOKENS = 400
FILTER = "content_filter"  # the finish reason of a reply that a filter cut off


class Request(NamedTuple):
    """One chat completion that is wanted."""

    key: str  # of its reply in the journal
    body: Mapping[str, Any]
    label: str = ""  # groups requests of alike length, for token estimates


def longest_reply(body: Mapping[str, Any]) -> int:
    """Tokens that a request allows a reply, by either name; USUAL_TOKENS where it sets no limit."""
    return body.get("max_completion_tokens") or body.get("max_tokens") or USUAL_TOKENS


class Answer(NamedTuple):
    """What became of a request."""

    replies: tuple[Reply, ...] = ()  # the second, if any, is to the follow-up of the first
    reason: str | None = None  # of the last failure, when there is no reply
    calls: int = 0  # requests sent for it now, one for each reply or final failure; 0 when all was known before
    paid: tuple[Reply, ...] = ()  # those of the replies that came now
    skipped: bool = False  # not asked because the cost limit is reached
    filtered: bool = False  # no reply, since a filter of the endpoint's took the request or the reply for harmful


# What makes an answer useless to whoever asked, as one line; None where it is of use, or where that cannot be told.
Useless = Callable[[Request, Answer], str | None]
# What to ask once a first reply is there, under a key of its own; None for nothing.
FollowUp = Callable[[Request, Reply], Request | None]
