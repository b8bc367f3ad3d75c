"""A real S3 server on loopback (moto's), one bucket, and what was asked of it."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from moto.server import ThreadedMotoServer

BUCKET = "bucket"


class Bucket(NamedTuple):
    """Where it is, and the environment that leads there."""

    root: str
    environment: dict[str, str]
    requests: list[str]  # "PUT /bucket/run/plan.json", in the order they were answered


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
def serving_bucket() -> Iterator[Bucket]:
    """A bucket that this process, and those it starts with `environment`, can reach."""
    requests, log = _Requests(), logging.getLogger("werkzeug")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = [requests]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    try:
        with patch.dict(os.environ, environment):
            _make_bucket()
            yield Bucket(f"s3://{BUCKET}", environment, requests.lines)
    finally:
        server.stop()


def _make_bucket() -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET)
