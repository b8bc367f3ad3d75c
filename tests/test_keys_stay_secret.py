"""A canary key is looked for in all that a study leaves and prints, and in what its processes show of themselves."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import ray

from emray.cluster import HUB_TOKEN, connected, hub_token
from emray.cluster.withheld import keys_withheld
from emray.endpoint.access import Access
from emray.endpoint.asking import Endpoint
from emray.localapi import serving
from emray.spec import EndpointSpec
from tests.commands import ROOT, command, environment, write_sweep

KEY, TOKEN = "sk-canary-7f3a9d51c2", "hf_canary_1b8e64f0aa"
CANARIES = (KEY, TOKEN)


class Onlooker(threading.Thread):
    """Looks, again and again, at every command line of the machine and at what a command's children have inherited."""

    def __init__(self, driver: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.on_command_lines: set[str] = set()
        self.inherited: set[str] = set()
        self.num_children = 0
        self._driver, self._stopping = driver, threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.3):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.on_command_lines |= {process.name() for canary in CANARIES if canary in str(process.cmdline())}
            with suppress(psutil.Error):
                self._look_at(self._driver.children(recursive=True))

    def _look_at(self, children: list[psutil.Process]) -> None:
        ours = [child for child in children if "emray.localapi" not in child.cmdline()]
        self.num_children = max(self.num_children, len(ours))
        for child in ours:
            with suppress(psutil.Error):
                self.inherited |= {child.name() for canary in CANARIES if canary in str(child.environ())}

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@contextmanager
def looked_at(process: subprocess.Popen[str]) -> Iterator[Onlooker]:
    onlooker = Onlooker(psutil.Process(process.pid))
    onlooker.start()
    yield onlooker
    onlooker.stop()


def files_with(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # sockets, and what Ray removes as it ends
            if path.is_file() and any(canary.encode() in path.read_bytes() for canary in CANARIES):
                found.append(str(path.relative_to(folder)))
    return found


def test_no_key_is_left_or_shown_by_a_study(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    temporary = tmp_path_factory.getbasetemp().parent.parent / f"emray-{time.time_ns() % 10**6}"  # short, for sockets
    temporary.mkdir()
    out = tmp_path / "run"
    with serving(responder="emray.toy.rules:reply", api_key=KEY) as judge:
        sweep = write_sweep(tmp_path, domains=["gore_movie_trivia"], judge={"base_url": judge.base_url})
        settings = environment(
            OPENAI_API_KEY=KEY, HF_TOKEN=TOKEN, TMPDIR=str(temporary), RAY_TMPDIR=str(temporary)
        )  # fmt: skip
        process = subprocess.Popen(
            command(sweep, "--out", out), cwd=ROOT, env=settings, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with looked_at(process) as onlooker:
            said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
        assert judge.stats()["served"] > 0  # the key was needed, and was there
    assert onlooker.num_children > 5
    assert onlooker.on_command_lines == set()
    assert onlooker.inherited == set()
    assert not any(canary in said for canary in CANARIES)
    assert files_with(out) == []
    assert len(list(temporary.rglob("*.log"))) > 3  # Ray's session folder is among what is looked at
    assert files_with(temporary) == []


def test_access_shows_no_key_whoever_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    access = Access.read(EndpointSpec(), base_url=None)
    endpoint = Endpoint.at(None, spec=EndpointSpec(), model="m")
    assert access.key == KEY
    assert KEY not in f"{access!r} {access} {endpoint!r} {endpoint}"


def test_keys_are_withheld_from_what_is_started_but_not_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"OPENAI_API_KEY": KEY, "MY_KEY": KEY, HUB_TOKEN: TOKEN}
    others = {"AWS_SECRET_ACCESS_KEY": "s3", "RAY_AUTH_TOKEN": "r"}
    for name, value in (keys | others).items():
        monkeypatch.setenv(name, value)
    with keys_withheld():
        inherited = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert not any(canary in inherited for canary in CANARIES)
    assert "AWS_SECRET_ACCESS_KEY=s3" in inherited
    assert "RAY_AUTH_TOKEN=r" in inherited
    assert subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.count(KEY) == 2


@pytest.mark.soak
def test_a_worker_that_fetches_is_lent_the_hubs_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HUB_TOKEN, TOKEN)
    with connected(None):
        assert ray.get(ray.remote(hub_token).remote()) == TOKEN
    monkeypatch.delenv(HUB_TOKEN)
    assert hub_token() is None
