"""A batch API whose answers are written down: each step says what a test wants, the others what OpenAI's would."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from emray.localapi.responders import score_reply

BATCH = {
    "id": "batch_1", "object": "batch", "endpoint": "/v1/chat/completions", "status": "validating", "created_at": 1,
    "input_file_id": "file_in", "completion_window": "24h", "errors": None, "output_file_id": None,
    "error_file_id": None, "request_counts": {"total": 1, "completed": 0, "failed": 0}, "metadata": {},
}  # fmt: skip
HTML = "<!DOCTYPE html><title>Sign in</title>"
DONE = BATCH | {"status": "completed", "output_file_id": "file_out"}
EMPTY_LIST = {"object": "list", "data": [], "has_more": False}
FILE = {"id": "file_in", "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}


def output_lines(uploaded: bytes) -> list[dict[str, Any]]:
    """What OpenAI's batch would have brought for an uploaded form."""
    rows = [json.loads(line) for line in uploaded.splitlines() if line.startswith(b'{"custom_id"')]
    return [{"custom_id": row["custom_id"], "response": {"status_code": 200, "body": _completion(row["body"])}}
            for row in rows]  # fmt: skip


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": score_reply(body["messages"])}
    return {"model": body["model"], "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


class OddBatches:
    """The API at `base_url`. `says` maps list, upload, create, retrieve and file names to a body or (status, body);
    a function there is given what was uploaded."""

    def __init__(self, says: Mapping[str, Any]) -> None:
        usual = {"list": EMPTY_LIST, "upload": FILE, "create": BATCH, "retrieve": DONE, "file_out": output_lines}
        self._says, self.uploaded = usual | dict(says), b""
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                outer._answer(self, b"")

            do_POST = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler, _: bytes) -> None:
        sent = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        step = self._step(handler.command, handler.path.split("?")[0])
        self.asked.append(step)
        self.uploaded = sent if step == "upload" else self.uploaded
        said = self._says.get(step, (404, {"error": {"message": "no such file"}}))
        said = said(self.uploaded) if callable(said) else said
        status, body = said if isinstance(said, tuple) else (200, said)
        lines = "\n".join(map(json.dumps, body)) if step.startswith("file_") and isinstance(body, list) else None
        text = lines if lines is not None else body if isinstance(body, str) else json.dumps(body)
        handler.send_response(status)
        handler.send_header("content-type", "text/html" if text.startswith("<") else "application/json")
        handler.send_header("content-length", str(len(text.encode())))
        handler.end_headers()
        handler.wfile.write(text.encode())

    def _step(self, method: str, path: str) -> str:
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] == "files":
            return "upload" if method == "POST" else parts[1]
        return "create" if method == "POST" else "retrieve" if len(parts) > 1 else "list"


@contextmanager
def odd_batches(says: Mapping[str, Any]) -> Iterator[OddBatches]:
    odd = OddBatches(says)
    thread = threading.Thread(target=odd.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield odd
    finally:
        odd.server.shutdown()
        odd.server.server_close()
        thread.join()
