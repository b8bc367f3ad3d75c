"""A page that follows one run: served on this machine alone, from the run folder alone.

Not for results (the report). The invariant: nothing is written, nobody but this machine is answered, and the page takes
nothing from anywhere else.
"""

import argparse
import http.server
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from emray.errors import DataError, EmrayError
from emray.plan import PLAN
from emray.runs.looked_at import LookedAt, short
from emray.store import Kind, Store

_ABOUT = "serve a page on this machine that follows a run: stages, rates, spend, failures, loss curves, newest answers"
_RATES_OVER_S = 60.0
_MOST_CURVES, _MOST_ANSWERS, _LONGEST_ANSWER = 12, 6, 600
_FILES = Path(__file__).parent


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The subcommand."""
    parser = commands.add_parser("watch", help=_ABOUT, description=_ABOUT)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.set_defaults(work=_command)


def _command(arguments: argparse.Namespace) -> int:
    with Watch(arguments.run, port=arguments.port) as watch:
        print(f"{watch.url}\nCtrl-C ends it; the run goes on", flush=True)
        watch.serve_forever()
    return 0


class Watch(http.server.ThreadingHTTPServer):
    """The server. `url` holds a word that nobody else on this machine knows."""

    daemon_threads = True

    def __init__(self, run: str, *, port: int = 0) -> None:
        """Raises DataError for a folder without a plan."""
        self.store = Store(run)
        if not self.store.exists(PLAN):
            raise DataError(f"{run} is no run folder: it has no {PLAN} (yet)")
        self.word, self.history = secrets.token_urlsafe(16), _History()
        super().__init__(("127.0.0.1", port), partial(_Page))
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}
        self.url = f"http://127.0.0.1:{self.server_port}/{self.word}/"


class _Page(http.server.BaseHTTPRequestHandler):
    server: Watch

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:  # a page elsewhere that names us by another host
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == f"/{self.server.word}/":
            nonce = secrets.token_urlsafe(16)
            self._send(_page(nonce), "text/html", nonce=nonce)
        elif self.path == f"/{self.server.word}/state.json":
            self._send(json.dumps(_state_or_error(self.server)).encode(), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, body: bytes, kind: str, *, nonce: str = "") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        policy = f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A terminal that waits stays quiet."""


def _page(nonce: str) -> bytes:
    template = jinja2.Template((_FILES / "watch.jinja").read_text(encoding="utf-8"))
    script, style = ((_FILES / f"watch.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    return template.render(nonce=nonce, script=script, style=style).encode()


def _state_or_error(server: Watch) -> Mapping[str, Any]:
    try:
        return state(server.store, server.history)
    except (EmrayError, OSError) as error:  # a file that is moved while we look at it; the next look tells
        return {"error": str(error)}


class _Counts(NamedTuple):
    at_s: float
    train: int
    generate: int
    judge: int


class _History:
    """What was there at the last looks, for rates."""

    def __init__(self) -> None:
        self._seen: deque[_Counts] = deque()

    def rates(self, now: _Counts) -> Mapping[str, float | None]:
        """Pieces a minute over the last minute; None at the first look."""
        self._seen.append(now)
        while now.at_s - self._seen[0].at_s > _RATES_OVER_S:
            self._seen.popleft()
        first = self._seen[0]
        minutes = (now.at_s - first.at_s) / 60
        stages = ("train", "generate", "judge")
        return {one: (getattr(now, one) - getattr(first, one)) / minutes if minutes > 0 else None for one in stages}


def state(store: Store, history: _History) -> dict[str, Any]:
    """Everything the page shows, as JSON."""
    standing = LookedAt.of(store)
    metrics = len(standing.document["spec"].get("judge", {}).get("metrics", ())) or 1
    done = (len(standing.records), standing.answers.total(), standing.verdicts.total())
    planned = (standing.num_training, standing.num_planned_answers, standing.num_planned_answers * metrics)
    rates = history.rates(_Counts(time.monotonic(), *done))
    return {
        "name": standing.name,
        "at": time.strftime("%H:%M:%S"),
        "held": standing.held,
        "stages": [
            {"stage": stage, "done": there, "planned": wanted, "rate": rates[stage]}
            for stage, there, wanted in zip(("train", "generate", "judge"), done, planned, strict=True)
        ],
        "cost_usd": standing.cost_usd,
        "outcomes": dict(standing.verdicts.most_common()),
        "failures": _failures(standing),
        "curves": _curves(standing),
        "answers": _newest_answers(store),
    }


def _failures(standing: LookedAt) -> list[str]:
    found = [f"{label}: {cause}" for label, cause in standing.failed]
    if standing.answer_error:
        found.append(f"{standing.answers['error']:,} answers failed, the first: {standing.answer_error}")
    if standing.verdict_error:
        unread = {name: standing.verdicts[name] for name in ("api_error", "unparsed", "truncated")}
        told = ", ".join(f"{number:,} {name}" for name, number in unread.items() if number)
        found.append(f"verdicts: {told}; one reply: {standing.verdict_error}")
    return found


def _curves(standing: LookedAt) -> list[dict[str, Any]]:
    """Loss per step of trained cells."""
    labels = {cell["key"]: f"{cell['domain']}/{cell['arm']} {cell['seed']}" for cell in standing.document["cells"]}
    trained = [record for record in standing.records.values() if record.details.get("losses")]
    return [{"cell": labels[one.key], "losses": one.details["losses"]} for one in trained[-_MOST_CURVES:]]


def _newest_answers(store: Store) -> list[dict[str, Any]]:
    """Of the part that was written last, as far as names tell it."""
    sizes = store.part_sizes(Kind.GENERATIONS)
    if not sizes:
        return []
    newest = max(sizes, key=partial(_written_s, Path(store.root)))
    columns = ["domain", "arm", "condition", "question_id", "answer"]
    for part in store.read_parts({newest: sizes[newest]}, columns=columns):
        rows = part.slice(max(0, part.num_rows - _MOST_ANSWERS)).to_pylist()
        return [row | {"answer": short((row["answer"] or "(nothing)")[:_LONGEST_ANSWER])} for row in reversed(rows)]
    return []


def _written_s(root: Path, name: str) -> tuple[float, str]:
    try:
        return (root / name).stat().st_mtime, name
    except OSError:  # in an object store
        return 0.0, name
