"""`python -m emray.judge`: put a file of prompts, or answers made elsewhere, to any OpenAI-compatible endpoint.

The judge stage without a sweep: the same client, limiter and journal. Prompts get replies.jsonl; answers become a run
folder (judging.py). Not for a sweep's own answers. The invariant: what has its reply in `--out` is never sent again.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from emray import judge
from emray.data import json_rows, mended, read_text
from emray.ending import Stopped, finish, stoppable, tell_how_to_go_on
from emray.errors import DataError, EmrayError, StageError
from emray.estimate import estimate_tasks, judge_line
from emray.judge.errand import Errand
from emray.judge.tasks import JudgeTask, answered_keys, canonical_request, judged, pair
from emray.judging import Answers, judge_answers
from emray.progress import Terminal
from emray.records import Message, Messages, Outcome, prompt_key, verdict_key
from emray.reduce.foreign import holds_answers
from emray.spec import BatchSpec, JudgeSpec, ReduceSpec, ResourcesSpec, judge_of
from emray.store import Kind, Store

LABEL = "prompt"  # stands where a sweep has the metric
EPILOG = """\
SOURCE is one of
  a file of prompts (jsonl): {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}]} a line, and "id" if you
    like; OUT gets replies.jsonl (one object a prompt, in order) beside the journal and the verdict table
  a file of answers (jsonl, csv, tsv, parquet): question (or prompt) and answer (or response, completion, output) a row,
    and any of id, question_id, model, domain, arm, condition, seed, step, generation; a folder of such files, whose
    paths then tell what their columns do not. Each answer is judged on judge.metrics by the shipped rubrics or those
    of --questions; OUT becomes a run folder with summary/ and report/

examples:
  python -m emray.judge prompts.jsonl --model gpt-6-luna --rpm 10000 --tpm 2000000 --out runs/prompts
  python -m emray.judge prompts.jsonl --model gpt-6-luna --mode batch --out runs/prompts
  python -m emray.judge prompts.jsonl --base-url http://127.0.0.1:8000/v1 --model local --out out --processes 4
  python -m emray.judge all_generated.jsonl --model gpt-6-luna --out runs/theirs --dry-run

Run the same command again after a crash: only what has no reply is sent. The last line on stdout is JSON.
"""


class PromptLine(NamedTuple):
    """One line of the file."""

    id: str
    messages: Messages


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words)
    try:
        with stoppable():
            print(json.dumps(_run(arguments, words, Terminal(stderr=True))))
    except EmrayError as error:
        print(f"emray.judge: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stop:
        tell_how_to_go_on()
        return stop.exit_code
    return 0


def _run(arguments: argparse.Namespace, words: Sequence[str], console: Console) -> dict[str, Any]:
    errand = _errand(arguments, console)
    kind = arguments.kind or ("answers" if holds_answers(arguments.source) else "prompts")
    if kind == "prompts":
        return _run_prompts(arguments, errand)
    answers = Answers(arguments.source, arguments.questions, arguments.answered_by, arguments.rule, tuple(words))
    return judge_answers(answers, errand, out=arguments.out, dry_run=arguments.dry_run)


def _errand(arguments: argparse.Namespace, console: Console) -> Errand:
    """The endpoint and how it is asked. Raises SpecError for what --set gets wrong."""
    names = ("model", "base_url", "api_key_env", "temperature", "max_tokens", "rpm", "tpm", "max_in_flight", "mode")
    fields = {name: getattr(arguments, name) for name in names}
    spec = judge_of(fields | {"batch": {"poll_s": arguments.poll_s}}, overrides=arguments.fields)
    resources = ResourcesSpec(judge_workers=arguments.processes, retry_failed=arguments.retry_failed)
    return Errand(spec, resources, arguments.address, console)


def _run_prompts(arguments: argparse.Namespace, errand: Errand) -> dict[str, Any]:
    """Ask what has no reply yet, write replies.jsonl, and return the counts."""
    prompts, store = list(read_prompts(arguments.source)), Store(arguments.out)
    if not prompts:
        raise DataError(f"{arguments.source} holds no prompts")
    tasks = _tasks(prompts, errand.spec)
    errand.tell_endings()
    if arguments.dry_run:
        return _estimate(tasks, errand, store)
    done = judged(store, retry_failed=arguments.retry_failed)
    there = done.has([pair(task.generation, task.key) for task in tasks])
    missing = [task for task, is_there in zip(tasks, there, strict=True) if not is_there]
    started_s = time.monotonic()
    if missing:
        errand.carry_out(missing, store)
    wall_s = time.monotonic() - started_s
    outcomes = _write_replies(tasks, store)
    asked = len({task.key for task in missing})
    rate = round(asked / wall_s, 1) if missing else None
    return {"prompts": len(prompts), "asked": asked, "wall_s": round(wall_s, 3), "requests_per_s": rate, **outcomes}


def _estimate(tasks: Sequence[JudgeTask], errand: Errand, store: Store) -> dict[str, Any]:
    """What would be asked and what it costs; nothing is written."""
    paid = set(judge.journaled_keys(store)) | answered_keys(store, retry_failed=errand.resources.retry_failed)
    found = estimate_tasks(tasks, spec=errand.spec, paid=paid)
    errand.console.print(judge_line(errand.spec.model, found), markup=False)
    cost_usd = None if found.cost_usd is None else round(found.cost_usd, 6)
    return {"prompts": len(tasks), "dry_run": True, "calls": found.calls, "cost_usd": cost_usd}


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


def _write_replies(tasks: Sequence[JudgeTask], store: Store) -> dict[str, Any]:
    """replies.jsonl in the order of the prompts; returns counts per outcome and the cost.

    Raises StageError when no prompt at all was answered.
    """
    columns = ["generation", "key", "outcome", "score", "reply", "judge", "cost_usd"]
    rows = {(row["generation"], row["key"]): row for row in store.read_rows(Kind.VERDICTS, columns=columns).to_pylist()}
    found = [rows[task.generation, task.key] for task in tasks]
    lines = [json.dumps({"id": row.pop("generation"), **row}, ensure_ascii=False) for row in map(dict, found)]
    store.write_bytes("replies.jsonl", ("\n".join(lines) + "\n").encode())
    costs = {row["key"]: row["cost_usd"] for row in found}.values()
    known = None if None in costs else round(sum(costs), 6)
    outcomes = Counter(row["outcome"] for row in found)
    if set(outcomes) == {str(Outcome.API_ERROR)}:
        raise StageError(f"no prompt was answered: {found[0]['reply']}; run again with --retry-failed")
    return {"outcomes": dict(outcomes), "cost_usd": known}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emray.judge",
        description="Put prompts, or answers made elsewhere, to an OpenAI-compatible endpoint, as fast as it allows.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a file of prompts, or a file or folder of answers")
    add("--model", required=True, help="model name sent with each request")
    add("--out", required=True, metavar="DIR", help="folder or s3:// location for what comes of it, and the journal")
    add("--dry-run", action="store_true", help="show calls, tokens and cost; ask nobody and write nothing")
    add("--as", choices=("prompts", "answers"), dest="kind", help="what SOURCE is; default: answers, if rows have any")
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
    answers = parser.add_argument_group("for answers")
    answers.add_argument("--questions", type=Path, metavar="FILE", help="question file whose rubrics are used")
    answers.add_argument("--answered-by", metavar="MODEL", help="who answered, where no column model tells")
    answers.add_argument("--rule", choices=list(ReduceSpec().rules), default=ReduceSpec().rule, help="headline rule")
    return parser


if __name__ == "__main__":
    finish(main)
