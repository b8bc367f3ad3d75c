"""The lines of a batch's files: requests as they go in, replies and failures as they come out.

Not for sending files. The invariant: a line that cannot be read is nobody's reply.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from emray.endpoint.batch.service import ENDPOINT
from emray.endpoint.completion import reply_of
from emray.endpoint.refusals import LONGEST_REASON, CallFailed, Failure, refusal
from emray.endpoint.reply import Reply, Request
from emray.errors import StageError

TOKENS_PER_CHAR, TOKENS_PER_MESSAGE = 0.3, 4  # of a prompt; on the safe side for English


class Unanswered(NamedTuple):
    """Why a line of a batch has no reply."""

    kind: Failure
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def request_line(request: Request) -> bytes:
    """A request as a line of a batch's file."""
    row = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": request.body}
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def results_of(*files: Sequence[Any], asked: Sequence[str]) -> tuple[dict[str, Reply], dict[str, Unanswered]]:
    """Replies and failures by key, of the lines of the result files of a batch that asked these keys.

    A reply without its key is that of the only request that no line names. Raises StageError where there are more: they
    are paid for, and nobody knows whose they are.
    """
    rows = [row for lines in files for row in lines if isinstance(row, Mapping)]
    named = [row for row in rows if isinstance(row.get("custom_id"), str)]
    nameless = [row for row in rows if not isinstance(row.get("custom_id"), str) and _is_reply(row)]
    left = sorted(set(asked) - {row["custom_id"] for row in named})
    if nameless and left and (len(nameless), len(left)) != (1, 1):
        raise StageError(
            f"{len(nameless)} of {len(rows)} result lines have no custom_id, and {len(left)} requests no line of their "
            f"own: nobody can tell whose these replies are ({json.dumps(nameless[0])[:LONGEST_REASON]}); have the "
            "endpoint put them right and run again, or delete the batch's record in journal/batches to ask, and pay "
            "for, its requests once more"
        )
    named += [{**row, "custom_id": key} for row, key in zip(nameless, left, strict=False)]
    return _by_key(named)


def _is_reply(row: Mapping[str, Any]) -> bool:
    response = row.get("response")
    return isinstance(response, Mapping) and response.get("status_code") == 200


def _by_key(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Reply], dict[str, Unanswered]]:
    replies: dict[str, Reply] = {}
    failures: dict[str, Unanswered] = {}
    for key, result in map(_result, rows):
        if isinstance(result, Reply):
            replies[key] = result
        else:
            failures[key] = result
    return replies, failures


def _result(row: Mapping[str, Any]) -> tuple[str, Reply | Unanswered]:
    """(key, reply or why there is none) of a line of an output or error file."""
    key, response, error = row["custom_id"], row.get("response"), row.get("error")
    if not isinstance(response, Mapping):
        code = error.get("code") if isinstance(error, Mapping) else None
        return key, Unanswered(Failure.SERVER, str(code or "no response"))
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            return key, reply_of(body, headers={})._replace(batch=True)
        except CallFailed as failure:
            return key, Unanswered(failure.kind, failure.reason)
    said = refusal(status if isinstance(status, int) else 500, body, headers={})
    return key, Unanswered(said.kind, said.reason)


def prompt_tokens(request: Request) -> float:
    """An estimate."""
    messages = request.body["messages"]
    return sum(TOKENS_PER_MESSAGE + TOKENS_PER_CHAR * len(message["content"]) for message in messages)
