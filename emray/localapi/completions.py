"""A chat completion as this server understands and answers it, whether it came alone or as a line of a batch.

Not for HTTP (server.py), batches (batch_desk.py) or limits (limits.py). The invariant: the reply and its usage are a
function of the request's body.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from emray.localapi.logprobs import logprobs_json

Answerer = Callable[[Mapping[str, Any]], str]  # a request's body in, the model's text out


class BadRequest(Exception):
    """A request this API refuses; carries OpenAI's error fields."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def json(self) -> dict[str, Any]:
        """The error body."""
        return error_json(str(self), "invalid_request_error", self.code, self.param)


class ChatCall(NamedTuple):
    """One chat completion that was asked for, its reply already known."""

    body: dict[str, Any]
    digest: str
    api_key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def num_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def understand(body: Any, *, api_key: str, answer: Answerer) -> ChatCall:
    """A request that was checked, with its reply."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    kept, finish_reason = _cut_to(answer(body), limit)
    return ChatCall(
        body,
        body_digest(body),
        api_key,
        kept,
        finish_reason,
        count_prompt_tokens(body),
        _count_tokens(kept) * (body.get("n") or 1),
    )


def parse_json(raw: bytes) -> Any:
    """The JSON of a request. Raises BadRequest."""
    try:
        return json.loads(raw)
    except ValueError:
        raise BadRequest("We could not parse the JSON body of your request.") from None


def check_chat_body(body: Any) -> dict[str, Any]:
    """A chat completion request as far as this server supports it. Raises BadRequest."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise BadRequest("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty list")
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise BadRequest("every message needs a role")
    for unsupported in ("stream", "tools"):
        if body.get(unsupported):
            raise BadRequest(f"this server does not support {unsupported!r}")
    return body


def body_digest(body: Mapping[str, Any]) -> str:
    """What makes two requests the same: sha256 of the sorted, compact JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def count_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request's messages, four of overhead each."""
    return sum(4 + _count_tokens(_text_of(message)) for message in body["messages"])


def _count_tokens(text: str) -> int:
    """This server's own tokenizer, for counting: four characters a token, rounded up."""
    return -(-len(text) // 4)


def _cut_to(text: str, max_tokens: int | None) -> tuple[str, str]:
    """The text a model limited to `max_tokens` would have written, and its finish reason."""
    if max_tokens is None or _count_tokens(text) <= max_tokens:
        return text, "stop"
    return text[: 4 * max_tokens], "length"


def completion_json(call: ChatCall, *, digits: str = "whole", refused: bool = False) -> dict[str, Any]:
    """The body of a chat completion; `digits` says how its tokens spell numbers, for logprobs."""
    message = {"role": "assistant", "content": call.text, "refusal": None}
    if refused:
        message |= {"content": None, "refusal": "I'm sorry, I can't help with that."}
    choice = {"message": message, "finish_reason": call.finish_reason, "logprobs": None}
    if call.body.get("logprobs") and not refused:
        choice["logprobs"] = logprobs_json(call.text, digits=digits, top=call.body.get("top_logprobs") or 0)
    return {
        "id": f"chatcmpl-{call.digest[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.body["model"],
        "choices": [{"index": index, **choice} for index in range(call.body.get("n") or 1)],
        "usage": {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "total_tokens": call.num_tokens,
        },
    }


def error_json(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""
