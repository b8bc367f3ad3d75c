"""Replies without an end, bombs and heaps of bytes: a real server sends them, a child reads them under a watch."""

import gzip
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.commands import ROOT, environment

REPLY = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "model": "m"}
BOMB = gzip.compress(b" " * (200 * 2**20) + json.dumps(REPLY).encode())  # 200 kB that become 200 MB


class Sender(http.server.BaseHTTPRequestHandler):
    """What it sends is named by the path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        with suppress(OSError):  # the reader has gone
            getattr(self, self.path.split("/")[1])()

    def endless(self) -> None:
        self._head(200, {"transfer-encoding": "chunked"})
        while True:
            self.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")

    def endless_error(self) -> None:
        self._head(500, {"transfer-encoding": "chunked"})
        while True:
            self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def bomb(self) -> None:
        self._whole(BOMB, {"content-encoding": "gzip"})

    def packed(self) -> None:
        self._whole(gzip.compress(json.dumps(REPLY).encode()), {"content-encoding": "gzip"})

    def unasked(self) -> None:
        self._whole(b"(\xb5/\xfd\x04\x00", {"content-encoding": "zstd"})

    def torn(self) -> None:
        self._whole(b"\x1f\x8b nonsense", {"content-encoding": "gzip"})

    def heap(self) -> None:
        self._whole(json.dumps({**REPLY, "pad": "x" * 10 * 2**20}).encode(), {})

    def plain(self) -> None:
        self._whole(json.dumps(REPLY).encode(), {})

    def _whole(self, content: bytes, headers: dict[str, str]) -> None:
        self._head(200, {**headers, "content-length": str(len(content))})
        self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sender)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASKING = """
import asyncio, resource, sys, time
from emray.endpoint.access import Access
from emray.endpoint.client import ChatClient
from emray.endpoint.refusals import CallFailed
from emray.spec import EndpointSpec

async def ask(client):
    try:
        reply, _ = await client.send({"model": "m", "messages": []})
        return f"reply: {reply.text}"
    except CallFailed as failed:
        return f"{failed.kind}: {failed.reason}"

async def main():
    url, number = sys.argv[1], int(sys.argv[2])
    client = ChatClient(EndpointSpec(), Access.read(EndpointSpec(), base_url=url))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = await asyncio.gather(*(ask(client) for _ in range(number)))
    await client.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(sorted(set(said)), grown // 1024, sep="\\n")

asyncio.run(main())
"""


def ask(url: str, *, at_once: int = 1) -> tuple[str, int]:
    """What became of some requests, and by how many MiB a child that sent them grew."""
    result = subprocess.run(
        [sys.executable, "-c", ASKING, url, str(at_once)], capture_output=True, text=True, cwd=ROOT,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    said, grown = result.stdout.splitlines()
    return said, int(grown)


@pytest.mark.parametrize("path", ["endless", "endless_error", "bomb", "heap"])
def test_no_reply_however_long_takes_more_memory_than_its_limit(url: str, path: str) -> None:
    began_s = time.monotonic()
    said, grown_mib = ask(f"{url}/{path}")
    assert said == "['broken: the reply is longer than 4 MiB, and no more of it was read']"
    assert grown_mib < 32
    assert time.monotonic() - began_s < 30


def test_eight_endless_replies_at_once_take_no_more_than_eight_limits(url: str) -> None:
    said, grown_mib = ask(f"{url}/endless", at_once=8)
    assert said.count("broken") == 1
    assert grown_mib < 8 * 4 * 2 + 32


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("plain", "reply: fine"),
        ("packed", "reply: fine"),
        ("unasked", "broken: the reply is packed as 'zstd', which was not asked for"),
        ("torn", "broken: the reply cannot be unpacked: .*"),
    ],
)
def test_a_reply_that_is_packed_is_read_or_refused(url: str, path: str, said: str) -> None:
    assert re.fullmatch(rf"\[['\"]{said}['\"]\]", ask(f"{url}/{path}")[0])
