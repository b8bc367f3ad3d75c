"""What is known of a model's end before it is asked: the day that its endpoint's list of models tells, or prices.yaml.

Not for asking a model. The invariant: an endpoint that tells nothing, whatever the reason, is no error here; the stage
that needs it says what is wrong with it.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from emray.endpoint.access import Access
from emray.endpoint.prices import ending
from emray.errors import UserError
from emray.spec import EndpointSpec

TIMEOUT_S = 3.0  # for a courtesy
FIELD = "shutdown_date"  # of an entry of /v1/models


def ending_note(spec: EndpointSpec, *, model: str, base_url: str | None, today: date) -> str | None:
    """What to know of a model that has ended or is about to, as one line; nobody is asked for a replay."""
    told = None if spec.mode == "replay" else shutdown_date(spec, model=model, base_url=base_url)
    return ending(model, today=today, told=told)


def shutdown_date(spec: EndpointSpec, *, model: str, base_url: str | None) -> date | None:
    """The model's last day, where the endpoint (None: as openai users set it) tells it."""
    import httpx2
    import openai

    from emray.endpoint.bodies import MOST_REPLY_BYTES, limiting
    from emray.endpoint.client import Address, sdk_arguments
    from emray.endpoint.refusals import body_of

    try:
        access = Access.read(spec, base_url=base_url)
        direct = Address.of(access).direct
        web = httpx2.Client(trust_env=not direct, event_hooks=limiting(MOST_REPLY_BYTES))
        with openai.OpenAI(**sdk_arguments(access), timeout=TIMEOUT_S, http_client=web) as client:
            content = client.get("/models", cast_to=httpx2.Response).content
    except (UserError, openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, ValueError):
        return None
    return told_day(body_of(content), model)


def told_day(body: Any, model: str) -> date | None:
    """What the body of a list of models tells of one."""
    entries = body.get("data") if isinstance(body, Mapping) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and entry.get("id") == model:
            return _day(entry.get(FIELD))
    return None


def _day(value: Any) -> date | None:
    """A day told as a date, a time, or seconds since 1970."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC).date()
        return datetime.fromisoformat(value).date() if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
