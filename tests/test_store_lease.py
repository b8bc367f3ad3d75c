"""The lease: one sweep in a run folder, and none kept out by a dead one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from emray.errors import StoreError
from emray.store import Store
from emray.store import lease as leases
from emray.store.lease import NAME, Holder

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def leave(store: Store, holder: Holder) -> None:
    store.write_bytes(NAME, json.dumps(asdict(holder)).encode())


def elsewhere(**changes: float) -> Holder:
    return replace(Holder.me(), token="theirs", host="node7", place="node7 pid:[1]", **changes)


def test_the_second_is_told_who_holds_it_and_since_when(store: Store) -> None:
    with store.take_lease(), pytest.raises(StoreError) as told:
        store.take_lease()
    message = str(told.value)
    assert f"another sweep is running in {store.root}: process {os.getpid()} on " in message
    assert "since 20" in message
    assert "wait for it, or give another --out" in message
    assert "\n" not in message


def test_it_is_given_back(store: Store) -> None:
    for _ in range(2):
        with store.take_lease():
            assert store.exists(NAME)
        assert not store.exists(NAME)


def test_a_killed_holder_keeps_nobody_out(store: Store) -> None:
    code = (
        "import sys, time\n"
        "from emray.store import Store\n"
        "with Store(sys.argv[1]).take_lease():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, store.root], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {holder.pid} on "):
        store.take_lease()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.take_lease():
        assert store.read_json(NAME)["pid"] == os.getpid()


def test_another_process_under_the_same_number_is_not_the_holder(store: Store) -> None:
    leave(store, replace(Holder.me(), token="theirs", started_s=1.0))
    with store.take_lease():
        pass


def test_on_another_machine_a_fresh_one_holds_and_an_old_one_is_over(store: Store) -> None:
    leave(store, elsewhere())
    with pytest.raises(StoreError, match=r"on node7 holds it .* taken over after 180 s"):
        store.take_lease()
    leave(store, elsewhere(renewed_s=time.time() - 200))
    with store.take_lease():
        assert store.read_json(NAME)["host"] != "node7"


def test_one_that_was_cut_short_holds_nobody_out(store: Store) -> None:
    store.write_bytes(NAME, b"")
    with store.take_lease():
        pass


def test_it_is_renewed_while_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    with store.take_lease():
        first = store.read_json(NAME)
        time.sleep(0.5)
        later = store.read_json(NAME)
    assert later["renewed_s"] > first["renewed_s"]
    assert later | {"renewed_s": 0} == first | {"renewed_s": 0}


def test_a_sweep_that_lost_it_stops_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    with pytest.raises(StoreError, match=r"another sweep took .* over"), store.take_lease():
        leave(store, elsewhere())
        for _ in range(200):  # the loss is told between two steps of the main thread, not within one
            time.sleep(0.05)
    assert store.read_json(NAME)["host"] == "node7"
