"""A real S3 server on loopback (moto's), one bucket, and what was asked of it."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.request import Request, urlopen

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"


class Bucket(NamedTuple):
    """Where it is, and the environment that leads there."""

    root: str
    environment: dict[str, str]
    requests: list[str]  # "PUT /bucket/run/plan.json", in the order they were answered
    refuses: Event  # set: what writes is denied, as when a role has run out


class _Requests(logging.Handler):
    """What the server logs, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        request = re.search(r"([A-Z]+ /\S*) HTTP", record.getMessage())
        if request:
            self.lines.append(request[1])


@contextmanager
def serving_bucket(host: str = "127.0.0.1") -> Iterator[Bucket]:
    """A bucket that this process, and those it starts with `environment`, can reach."""
    requests, log = _Requests(), logging.getLogger("werkzeug")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = [requests]
    refuses = Event()
    app = _one_at_a_time(DomainDispatcherApplication(create_backend_app), refuses)
    server = make_server(host, 0, app, threaded=True)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = server.server_port
    environment = {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "NO_PROXY": host,
    }  # fmt: skip
    try:
        with patch.dict(os.environ, environment):
            _make_bucket(f"http://{host}:{port}")
            yield Bucket(f"s3://{BUCKET}", environment, requests.lines, refuses)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def _one_at_a_time(app: Callable[..., Any], refuses: Event) -> Callable[..., list[bytes]]:
    """A condition and its put are one step in S3; moto's threads look first and write later."""
    lock = Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if refuses.is_set() and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            start_response("403 Forbidden", [("content-type", "application/xml")])
            return [_DENIED]
        with lock:
            return list(app(environ, start_response))

    return answer


def _make_bucket(address: str) -> None:
    import boto3

    # moto's objects belong to the process: without this, a bucket would hold what an earlier one was given.
    urlopen(Request(f"{address}/moto-api/reset", method="POST"), timeout=30).close()
    boto3.client("s3").create_bucket(Bucket=BUCKET)


def main() -> None:
    """Serve a bucket on the address that is named until the input ends; the first line out is the way there."""
    with serving_bucket(sys.argv[1]) as bucket:
        print(json.dumps(bucket.environment), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
