"""`python -m emray.localapi`: run the server in the foreground.

Prints one line, `emray.localapi ready at http://127.0.0.1:PORT`, when it accepts connections; stops on SIGTERM or
Ctrl-C.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from emray.ending import finish
from emray.errors import EmrayError
from emray.localapi.config import (
    KEY_VARIABLE,
    RETRY_AFTER_FORMS,
    WINDOWS,
    BatchRules,
    Faults,
    FinetuningRules,
    ServerConfig,
)
from emray.localapi.logprobs import DIGITS
from emray.localapi.process import READY_PREFIX
from emray.localapi.server import LocalApi

_HOST = "127.0.0.1"
_PARENT_CHECK_S = 0.25
_EPILOG = """\
examples:
  python -m emray.localapi --responder score --rpm 6000 --burst-requests 100
  python -m emray.localapi --latency-ms 250 --latency-sigma 0.4 --fault error_500=0.02 --fault hang=0.002
  python -m emray.localapi --batch delay_s=2 --batch lines_per_s=500 --batch enqueued_tokens=2000000
  python -m emray.localapi --tuner emray.toy.tuner:toy_tuner --finetuning blocked=0.1

then, unchanged: OPENAI_BASE_URL=http://127.0.0.1:PORT/v1 OPENAI_API_KEY=any python your_client.py
GET /stats counts what was asked, served and rejected; /stats/bodies per request body; /stats/arrivals over time.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    parent_pid = options.pop("exit_with_parent")
    try:
        options["faults"] = Faults(**_pairs(parser, "--fault", options.pop("fault"), Faults))
        rules = _pairs(parser, "--finetuning", options.pop("finetuning"), FinetuningRules)
        options["finetuning"] = FinetuningRules(**rules)
        options["batch"] = BatchRules(**_pairs(parser, "--batch", options.pop("batch"), BatchRules))
        options["models"] = tuple(options.pop("model"))
        options["api_key"] = options["api_key"] or os.environ.get(KEY_VARIABLE)
        api = LocalApi(ServerConfig(**options))
    except EmrayError as error:
        parser.error(str(error))
    asyncio.run(_serve(api, parent_pid=parent_pid))
    return 0


async def _serve(api: LocalApi, *, parent_pid: int | None) -> None:
    """Serve until a signal comes or the parent is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Cancelling the handler when its client leaves is what ends a hang.
    runner = web.AppRunner(api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, _HOST, api.config.port, backlog=4096)
    await site.start()
    print(f"{READY_PREFIX}{_address(runner)}", flush=True)
    watch = asyncio.create_task(_stop_with_parent(parent_pid, stop))
    await stop.wait()
    watch.cancel()
    await runner.cleanup()


def _address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


async def _stop_with_parent(parent_pid: int | None, stop: asyncio.Event) -> None:
    """An orphan gets another parent, which is how it knows."""
    while parent_pid is not None:
        if os.getppid() != parent_pid:
            stop.set()
        await asyncio.sleep(_PARENT_CHECK_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emray.localapi",
        description="An OpenAI-compatible server on loopback with honest rate limits and seeded faults.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--responder", default="score", help="score (a hash of the messages), or module:function (messages -> text)")
    add("--port", type=int, default=0, help="port on loopback; default: a free one")
    add("--model", action="append", default=[], help="a model name to serve (repeatable); default: any")
    add("--shutdown-date", metavar="DAY", help="the last day of its models, as /v1/models tells it")
    add("--api-key", help="refuse other bearer tokens with 401; default: no check")
    add("--rpm", type=float, help="requests per minute, per API key and model; default: no limit")
    add("--tpm", type=float, help="tokens per minute (prompt + completion as in usage); default: no limit")
    add("--burst-requests", type=float, help="bucket size; default: one second's worth")
    add("--burst-tokens", type=float, help="bucket size; default: one second's worth, at least 4096")
    add("--window", choices=WINDOWS, default="bucket", help="bucket: refilled all the time; fixed: windows")
    add("--window-s", type=float, default=60.0, help="length of a fixed window")
    add("--retry-after", choices=RETRY_AFTER_FORMS, default="both", help="form of Retry-After on a 429")
    add("--latency-ms", type=float, default=0.0, help="median delay of a reply")
    add("--latency-sigma", type=float, default=0.0, help="log-normal shape; 0: constant")
    add("--digits", choices=DIGITS, default="whole", help="for logprobs: is 85 one token, or two")
    add("--seed", type=int, default=0, help="of delays and faults")
    add("--fault", action="append", default=[], metavar="KIND=SHARE",
        help=f"share of requests that go wrong (repeatable): {', '.join(Faults.__dataclass_fields__)}")  # fmt: skip
    add("--batch", action="append", default=[], metavar="NAME=VALUE",
        help=f"how batches are taken and worked off: {', '.join(BatchRules.__dataclass_fields__)}")  # fmt: skip
    add("--tuner", help="module:function that makes what finetunes, as emray.toy.tuner:toy_tuner; default: no such API")
    add("--finetuning", action="append", default=[], metavar="NAME=VALUE",
        help=f"how jobs are taken and worked off: {', '.join(FinetuningRules.__dataclass_fields__)}")  # fmt: skip
    add("--exit-with-parent", type=int, nargs="?", const=os.getppid(), metavar="PID",
        help="stop when the parent process is gone")  # fmt: skip
    return parser


def _pairs(
    parser: argparse.ArgumentParser,
    flag: str,
    pairs: Sequence[str],
    kind: type[Faults] | type[BatchRules] | type[FinetuningRules],
) -> dict[str, Any]:
    """NAME=NUMBER pairs for the fields of `kind`."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in kind.__dataclass_fields__:
            parser.error(f"unknown {flag[2:]} {name!r}; allowed: {', '.join(kind.__dataclass_fields__)}")
        try:
            values[name] = float(value) if "." in value or "e" in value else int(value)
        except ValueError:
            parser.error(f"{flag} {pair!r}: write {name}=NUMBER, as in {name}=0.02")
    return values


if __name__ == "__main__":
    finish(main)
