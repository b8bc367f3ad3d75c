"""Replies by an index: what the journal keeps is found wherever it lies, and takes little memory."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emray.endpoint import worker
from emray.endpoint.asking import Endpoint, Terms
from emray.endpoint.entries import FOLDER, ROWS_A_GROUP
from emray.endpoint.journal import MERGE_AT, Journal, compact
from emray.endpoint.kept import KeptReplies
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.reply import Reply, Request, TokenChoice
from emray.endpoint.worker import Worker
from emray.localapi import serving
from emray.spec import EndpointSpec
from emray.store import Store

ROOT = Path(__file__).parent.parent
COUNT = 200_000


def reply(number: int) -> Reply:
    return Reply(f"reply {number}\u2028", "stop", "m", 10, number)


def journal_of(store: Store, numbers: range) -> Journal:
    journal = Journal(store)
    for number in numbers:
        journal.add(f"key {number}", reply(number))
    journal.flush()
    return journal


@pytest.mark.parametrize("address", ["{}", "file://{}"], ids=["folder", "elsewhere"])
def test_replies_are_found_in_lines_and_parts_and_through_compaction(tmp_path: Path, address: str) -> None:
    store, count = Store(address.format(tmp_path)), 2 * ROWS_A_GROUP + 100
    kept = KeptReplies(store)
    assert (len(kept), kept.reply("key 0")) == (0, None)
    journal_of(store, range(count - 50)).close()
    assert kept.reply("key 7") is None  # not looked for yet
    kept.look()
    wanted = {f"key {number}": reply(number) for number in (0, 7, ROWS_A_GROUP, count - 51)}
    assert kept.replies([*wanted, "another"]) == wanted
    compact(store)  # the files that the index names are gone
    assert kept.replies(wanted) == wanted
    journal_of(store, range(count - 60, count)).close()
    kept.look()
    assert len(kept) == len(KeptReplies(store)) == count
    assert kept.reply(f"key {count - 1}") == reply(count - 1)


def test_segments_that_become_one_are_found_in_it(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    journal = Journal(store)
    for number in range(MERGE_AT - 1):
        journal.add(f"key {number}", reply(number))
        journal.flush()
    kept = KeptReplies(store)
    journal.add("key last", reply(1))
    journal.close()
    assert len(store.names(FOLDER)) == 1
    assert kept.replies([f"key {number}" for number in range(MERGE_AT - 1)]).keys() == {
        f"key {number}" for number in range(MERGE_AT - 1)
    }


def test_only_what_is_wanted_is_taken_in_and_token_choices_come_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    choices = (TokenChoice("8", -0.1, (("8", -0.1), ("5", -2.5))),)
    with closing(journal_of(store, range(3))) as journal:
        journal.add("key chosen", reply(5)._replace(tokens=choices))
    kept = KeptReplies(store, wanted={"key chosen", "key 1"})
    assert len(kept) == 2
    assert kept.reply("key chosen") == reply(5)._replace(tokens=choices)
    assert kept.reply("key 2") is None


def test_a_line_that_is_still_written_is_found_when_it_is_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal_of(store, range(2)).close()
    path = tmp_path / store.names(FOLDER)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    kept = KeptReplies(store)
    assert "key 0" in kept and "key 1" not in kept
    path.write_bytes(whole)
    kept.look()
    assert kept.reply("key 1") == reply(1)


@pytest.mark.parametrize("address", ["{}", "file://{}"], ids=["folder", "elsewhere"])
def test_a_worker_asks_once_for_what_it_has_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """With room for ten replies in memory, two hundred are asked for again, and by a successor."""
    monkeypatch.setattr(worker, "RECENT", 10)
    store, spec = Store(address.format(tmp_path)), EndpointSpec()
    requests = [
        Request(f"{n:020x}", {"model": "m", "messages": [{"role": "user", "content": f"about {n}"}], "max_tokens": 9})
        for n in range(200)
    ]

    def opened(url: str) -> Worker:
        limits = RateLimits(None, None, 16)
        endpoint = Endpoint.at(url, spec=spec, model="m")
        return Worker(endpoint, store=store, port=lambda: LocalPort(limits), terms=Terms())

    with serving() as server:
        with closing(opened(server.base_url)) as asking:
            first = [asking.answers(requests[start : start + 40])[0].replies for start in range(0, 200, 40)]
            assert len(asking._recent) < 10
            again = asking.answers(requests)
        with closing(opened(server.base_url)) as asking:
            assert [answer.replies for answer in asking.answers(requests)] == [answer.replies for answer in again]
        assert [again[start].replies for start in range(0, 200, 40)] == first
        assert {answer.calls for answer in again} == {0}
        assert server.stats()["asked"] == 200


FILL = """
import sys
from emray.endpoint.journal import Journal
from emray.store import Store
store, count = Store(sys.argv[1]), int(sys.argv[2])
journal = Journal(store)
for number in range(count):
    journal._lines._file.write(b'{"key": "%020x", "reply": {"text": "<score>1</score> %s", "finish_reason": "stop", '
        b'"model": "m", "prompt_tokens": 1, "completion_tokens": 1}}\\n' % (number, b"because " * 60))
journal.close()
"""

JUDGE = """
import json, resource, sys
from emray import judge
from emray.context import Context
from emray.judge import stage
from emray.endpoint.kept import KeptReplies
from emray.judge.tasks import JudgeTask
from emray.records import Message, Metric
from emray.spec import JudgeSpec
from emray.store import Kind, Store

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def tasks(some):
    return [JudgeTask(f"{n:020x}", str(n), Metric.ALIGNED, (Message("user", f"about {n}"),)) for n in some]

def run(some):
    judge.run_here(tasks(some), spec=JudgeSpec(), base_url=sys.argv[2], context=Context(store))

store, count = Store(sys.argv[1]), int(sys.argv[3])
warm = Store(sys.argv[1] + "-warm")
judge.run_here(tasks(range(count, count + 10)), spec=JudgeSpec(), base_url=sys.argv[2], context=Context(warm))
before = peak()
run([*range(0, count, 1000), *range(count, count + 200)])
print(json.dumps({"mib": peak() - before, "index": KeptReplies(store).num_bytes / count,
                  "verdicts": store.read_rows(Kind.VERDICTS).num_rows}))
"""


def test_judging_beside_a_journal_of_200_000_replies_takes_64_mib(tmp_path: Path) -> None:
    """The replies are 120 MB of text, which a crash has left in lines."""

    def python(code: str, *arguments: Any) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    python(FILL, tmp_path / "run", COUNT)
    with serving() as server:
        told = json.loads(python(JUDGE, tmp_path / "run", server.base_url, COUNT).splitlines()[-1])
        assert server.stats()["asked"] == 210
    assert told["verdicts"] == 400
    assert told["index"] <= 27
    assert told["mib"] <= 64
