"""The journal: replies are on disk soon after they arrive, once, whatever happens to the writer."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emray.endpoint.journal import FOLDER, MERGE_AT, Journal, compact, journaled_keys, read_journal
from emray.endpoint.reply import Reply
from emray.errors import StoreError
from emray.store import Store

ROOT = Path(__file__).parent.parent


def reply(text: str) -> Reply:
    return Reply(text, "stop", "m", 10, 5)


def test_a_reply_is_on_disk_within_a_second_without_being_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal = Journal(store)
    journal.add(
        "k", reply("line\u2028separator \ud83d\ude00 and \\n".encode("utf-16", "surrogatepass").decode("utf-16"))
    )
    end_s = time.monotonic() + 1.0
    while not journaled_keys(store):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    (found,) = read_journal(store, wanted={"k"})
    assert found == ("k", reply("line\u2028separator 😀 and \\n"))
    journal.close()


def test_what_was_added_before_a_flush_is_there_after_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal = Journal(store)
    for round_ in range(3):
        for i in range(100):
            journal.add(f"{round_}/{i}", reply("x"))
        journal.flush()
        assert len(journaled_keys(store)) == 100 * (round_ + 1)
    journal.close()


def test_many_small_segments_become_few_and_lose_nothing(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")  # by address, as a store elsewhere: its files come whole
    journal = Journal(store)
    for i in range(2 * MERGE_AT + 3):
        journal.add(str(i), reply(str(i)))
        journal.flush()
    journal.close()
    assert 1 < len(store.names(FOLDER)) < MERGE_AT
    assert journaled_keys(store) == {str(i) for i in range(2 * MERGE_AT + 3)}


def test_compaction_keeps_every_reply_once_and_can_be_cut_short(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for writer in range(3):
        journal = Journal(store)
        for i in range(50):
            journal.add(str(i + 25 * writer), reply(f"reply {i + 25 * writer}"))
        journal.close()
    segments = {name: store.read_bytes(name) for name in store.names(FOLDER)}
    expected = dict(read_journal(store, wanted={str(i) for i in range(100)}))
    assert len(expected) == 100
    compact(store)
    assert [name.rsplit(".", 1)[1] for name in store.names(FOLDER)] == ["parquet"]
    assert dict(read_journal(store, wanted=set(expected))) == expected
    for name, content in segments.items():  # as if killed between writing the part and deleting the segments
        store.write_bytes(name, content)
    assert sorted(key for key, _ in read_journal(store, wanted=set(expected))) == sorted(expected)
    compact(store)
    assert dict(read_journal(store, wanted=set(expected))) == expected


def test_only_wanted_keys_are_read(tmp_path: Path) -> None:
    journal = Journal(Store(str(tmp_path)))
    journal.add("a", reply("a"))
    journal.add("b", reply("b"))
    journal.close()
    assert [key for key, _ in read_journal(Store(str(tmp_path)), wanted={"b", "c"})] == ["b"]


def test_a_journal_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with pytest.raises(OSError):
        Journal(Store(str(tmp_path)))


def test_a_store_elsewhere_that_cannot_be_written_is_told_to_the_next_caller(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    journal = Journal(Store(f"file://{tmp_path}"))
    journal.add("k", reply("x"))
    with pytest.raises(StoreError, match="cannot write to file://"):
        journal.flush()
    with pytest.raises(StoreError, match="cannot write to file://"):
        journal.add("l", reply("x"))


def test_a_last_line_without_its_end_is_no_reply(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal = Journal(store)
    for key in ("a", "b"):
        journal.add(key, reply(key))
    journal.close()
    (name,) = store.names(FOLDER)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    assert journaled_keys(store) == {"a"}
    compact(store)
    assert journaled_keys(store) == {"a"}


@pytest.mark.parametrize(("address", "lost_s"), [("{}", 0.0), ("file://{}", 1.0)], ids=["folder", "elsewhere"])
def test_a_killed_writer_loses_nothing_in_a_folder_and_less_than_a_second_elsewhere(
    tmp_path: Path, address: str, lost_s: float
) -> None:
    """A key is printed once `add` has returned."""
    code = (
        "import sys, time\n"
        "from emray.endpoint.journal import Journal\n"
        "from emray.judge.parse import Reply\n"
        "from emray.store import Store\n"
        "journal = Journal(Store(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    journal.add(str(i), Reply('x', 'stop', 'm', 1, 1))\n"
        "    print(f'{time.monotonic()} {i}', flush=True)\n"
        "    time.sleep(0.001)\n"
    )
    root = address.format(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None
    arrived = [writer.stdout.readline().split() for _ in range(1500)]
    killed_s = time.monotonic()
    writer.send_signal(signal.SIGKILL)
    arrived += [line.split() for line in writer.stdout.read().splitlines() if len(line.split()) == 2]
    writer.wait()
    kept = journaled_keys(Store(root))
    lost = [float(at_s) for at_s, key in arrived if key not in kept]
    assert kept
    assert len(lost) == 0 if lost_s == 0 else all(at_s > killed_s - lost_s for at_s in lost)
