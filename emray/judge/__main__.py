"""`python -m emray.judge`: put a file of prompts to any OpenAI-compatible endpoint, as fast as its limits allow.

The judge stage without a sweep: the same client, limiter and journal. Not for rubrics or verdict statistics. The
invariant: a prompt whose reply is in `--out` is never sent again.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from emray import judge
from emray.cluster import connected
from emray.context import Context
from emray.data import json_rows, mended, read_text
from emray.ending import Stopped, stoppable, tell_how_to_go_on
from emray.errors import DataError, EmrayError
from emray.judge.tasks import JudgeTask, canonical_request, judged, pair
from emray.progress import Terminal, progress_line
from emray.records import Message, Messages, prompt_key, verdict_key
from emray.spec import BatchSpec, JudgeSpec, ResourcesSpec, judge_of
from emray.store import Kind, Store

LABEL = "prompt"  # stands where a sweep has the metric
EPILOG = """\
PROMPTS.jsonl holds one object a line: {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}]}, and "id" if
you like. OUT gets replies.jsonl (one object a prompt, in order) beside the journal and the verdict table.

examples:
  python -m emray.judge prompts.jsonl --model gpt-6-luna --rpm 10000 --tpm 2000000 --out runs/prompts
  python -m emray.judge prompts.jsonl --model gpt-6-luna --mode batch --out runs/prompts
  python -m emray.judge prompts.jsonl --base-url http://127.0.0.1:8000/v1 --model local --out out --processes 4

Run the same command again after a crash: only what has no reply is sent. The last line on stdout is JSON.
"""


class PromptLine(NamedTuple):
    """One line of the file."""

    id: str
    messages: Messages


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        with stoppable():
            print(json.dumps(_run(arguments, Terminal(stderr=True))))
    except EmrayError as error:
        print(f"emray.judge: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stop:
        tell_how_to_go_on()
        return stop.exit_code
    return 0


def _run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Ask what has no reply yet, write replies.jsonl, and return the counts."""
    prompts = list(read_prompts(arguments.prompts))
    spec = _spec(arguments)
    store = Store(arguments.out)
    tasks = _tasks(prompts, spec)
    done = judged(store, retry_failed=arguments.retry_failed)
    there = done.has([pair(task.generation, task.key) for task in tasks])
    missing = [task for task, is_there in zip(tasks, there, strict=True) if not is_there]
    started_s = time.monotonic()
    if missing:
        _judge(missing, spec=spec, store=store, arguments=arguments, console=console)
    wall_s = time.monotonic() - started_s
    outcomes = _write_replies(tasks, store)
    asked = len({task.key for task in missing})
    rate = round(asked / wall_s, 1) if missing else None
    return {"prompts": len(prompts), "asked": asked, "wall_s": round(wall_s, 3), "requests_per_s": rate, **outcomes}


def _spec(arguments: argparse.Namespace) -> JudgeSpec:
    """The endpoint and how it is asked. Raises SpecError for what --set gets wrong."""
    names = ("model", "base_url", "api_key_env", "temperature", "max_tokens", "rpm", "tpm", "max_in_flight", "mode")
    fields = {name: getattr(arguments, name) for name in names}
    return judge_of(fields | {"batch": {"poll_s": arguments.poll_s}}, overrides=arguments.fields)


def read_prompts(path: Path) -> Iterator[PromptLine]:
    """Prompts of a JSONL file. Raises DataError naming file and line."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise DataError(f"cannot read {path}: there is no such file") from None
    for number, (where, row) in enumerate(json_rows(text, source=str(path)), start=1):
        yield _prompt(row, number, where=where)


def _prompt(row: Any, number: int, *, where: str) -> PromptLine:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a line is an object with prompt or messages")
    messages = row.get("messages", [{"role": "user", "content": row.get("prompt")}])
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise DataError(f"{where}: needs a prompt (a text) or messages (a list of role and content, both texts)")
    turns = tuple(Message(mended(message["role"]), mended(message["content"])) for message in messages)
    return PromptLine(mended(str(row.get("id", number))), turns)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))


def _tasks(prompts: Sequence[PromptLine], spec: JudgeSpec) -> list[JudgeTask]:
    """One task a prompt. Raises DataError for an id that stands twice."""
    repeated = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated:
        raise DataError(f"id {repeated[0]!r} stands twice; give each prompt its own, or none")
    return [
        JudgeTask(
            verdict_key(canonical_request(spec, prompt.messages)),
            prompt.id,
            LABEL,
            prompt.messages,
            prompt_key(prompt.messages),
        )
        for prompt in prompts
    ]


def _judge(
    tasks: Sequence[JudgeTask], *, spec: JudgeSpec, store: Store, arguments: argparse.Namespace, console: Console
) -> None:
    alone = arguments.processes == 1 and arguments.address is None
    resources = ResourcesSpec(judge_workers=arguments.processes, retry_failed=arguments.retry_failed)
    with (
        nullcontext() if alone else connected(arguments.address),
        progress_line("judge", total=len(tasks), console=console) as advance,
    ):
        ask = judge.run_here if alone else judge.run
        context = Context(store=store, resources=resources, advance=advance)
        ask(tasks, spec=spec, base_url=arguments.base_url, context=context)


def _write_replies(tasks: Sequence[JudgeTask], store: Store) -> dict[str, Any]:
    """replies.jsonl in the order of the prompts; returns counts per outcome and the cost."""
    columns = ["generation", "key", "outcome", "score", "reply", "judge", "cost_usd"]
    rows = {(row["generation"], row["key"]): row for row in store.read_rows(Kind.VERDICTS, columns=columns).to_pylist()}
    found = [rows[task.generation, task.key] for task in tasks]
    lines = [json.dumps({"id": row.pop("generation"), **row}, ensure_ascii=False) for row in map(dict, found)]
    store.write_bytes("replies.jsonl", ("\n".join(lines) + "\n").encode())
    costs = {row["key"]: row["cost_usd"] for row in found}.values()
    known = None if None in costs else round(sum(costs), 6)
    return {"outcomes": dict(Counter(row["outcome"] for row in found)), "cost_usd": known}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emray.judge",
        description="Put a file of prompts to an OpenAI-compatible endpoint, as fast as its limits allow.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("prompts", type=Path, metavar="PROMPTS.jsonl")
    add("--model", required=True, help="model name sent with each request")
    add("--out", required=True, metavar="DIR", help="folder or s3:// location for replies and journal")
    add("--base-url", help="endpoint; default: $OPENAI_BASE_URL, or OpenAI")
    add("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key")
    add("--rpm", type=float, help="requests per minute; default: what the server's headers state")
    add("--tpm", type=float, help="tokens per minute; default: what the server's headers state")
    add("--max-in-flight", type=int, default=256, help="requests under way in all processes together")
    add("--mode", choices=("online", "batch"), default="online", help="batch: by the batch API, at half the price")
    add("--poll-s", type=float, default=BatchSpec().poll_s, help="longest wait between two looks at the batches")
    add("--max-tokens", type=int, default=400, help="longest reply")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="fields",
        help="a field of a sweep file's judge:, as in omit=[temperature]")  # fmt: skip
    add("--temperature", type=float, default=0.0)
    add("--processes", type=int, default=1, help="judge processes that share the limits (more than 1 start Ray)")
    add("--address", help="Ray cluster whose other drivers share the limits: auto, host:port")
    add("--retry-failed", action="store_true", help="send again what ended as api_error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
