"""What stands at the desk of a room of machines: a bucket, a judge, and a look at what a run left in the bucket."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests import machines
from tests.commands import ROOT
from tests.machines import Machine

TALLY = """
import json, sys
from emray.store import Kind, Store
store = Store(sys.argv[1])
rows = {kind: [row for part in store.iter_parts(kind) for row in part.to_pylist()] for kind in Kind}
verdicts = [(row["generation"], row["metric"]) for row in rows[Kind.VERDICTS]]
print(json.dumps({
    "trained": sorted(record.status for record in store.adapter_records().values()),
    "seeds": sorted({row["seed"] for row in rows[Kind.GENERATIONS]}),
    "answers": len(rows[Kind.GENERATIONS]), "different": len({row["key"] for row in rows[Kind.GENERATIONS]}),
    "finished": sorted({row["finish_reason"] for row in rows[Kind.GENERATIONS]}),
    "verdicts": len(verdicts), "judged": len(set(verdicts)),
    "outcomes": sorted({row["outcome"] for row in rows[Kind.VERDICTS]}),
    "report": store.exists("report/report.html"),
}))
"""
JUDGE = """
import os, sys, threading
from aiohttp import ClientSession, web
from emray.localapi import serving
async def forward(request):
    headers = {"Authorization": request.headers.get("Authorization", ""), "Content-Type": "application/json"}
    async with ClientSession() as session:
        url = inner + request.path.removeprefix("/v1")
        async with session.request(request.method, url, data=await request.read(), headers=headers) as reply:
            body = await reply.read()
            return web.Response(status=reply.status, body=body, content_type=reply.content_type)
def leave():
    sys.stdin.read()  # until the test is over
    os._exit(0)
threading.Thread(target=leave, daemon=True).start()
with serving(responder="emray.toy.rules:reply", rpm=6000.0, api_key=sys.argv[2]) as server:
    inner = server.base_url
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host=sys.argv[1], port=8400, print=lambda *_: print("ready", flush=True))
"""
JUDGE_PORT, JUDGE_KEY = 8400, "a-key-of-the-tests"


@contextmanager
def serving_at(desk: Machine) -> Iterator[dict[str, str]]:
    """An S3 server; yields the environment that leads there."""
    with _running(desk, "-m", "tests.s3_server", desk.address) as first:
        yield json.loads(first)


@contextmanager
def judging_at(desk: Machine) -> Iterator[str]:
    """The toy's judge, at an address that every machine reaches, a hundred requests a second; yields its base URL."""
    with _running(desk, "-c", JUDGE, desk.address, JUDGE_KEY):
        yield f"http://{desk.address}:{JUDGE_PORT}/v1"


@contextmanager
def _running(desk: Machine, *words: str) -> Iterator[str]:
    """A Python there until the end; yields the first line it says."""
    process = subprocess.Popen(
        desk.command([sys.executable, *words], folder=ROOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=machines.environment() | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline()
    finally:
        process.communicate()  # closes its standard input, at which it ends


def tally(desk: Machine, out: str, bucket: Mapping[str, str]) -> dict[str, Any]:
    """What a run folder in the bucket holds."""
    return json.loads(desk.run(sys.executable, "-c", TALLY, out, folder=ROOT, PYTHONPATH=str(ROOT), **bucket))
