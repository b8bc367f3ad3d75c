"""Machines on this machine: each with a network, processes, a disk and a home of its own, and an SSH server.

Linux namespaces: what runs on a machine sees no other machine's processes or files, so a `ray stop` there stops
nothing else, and a machine that is lost takes all its processes with it at once. They reach each other by a bridge that
only they are on, and nothing outside. The code and its Python are the ones of these tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.commands import ROOT

NETWORK = "192.0.2"  # of documentation (RFC 5737), as clusters/onprem.yaml has it
DESK = 254  # the last number of the machine where a person sits
USER = "ubuntu"
START_S = 20.0
SERVICE = ("sshd", "sleep")
TOOLS = ("unshare", "nsenter", "ip", "ssh", "rsync", "curl", "openssl")
OWN = ["--net", "--pid", "--mount", "--uts", "--ipc"]
SSHD = "/usr/sbin/sshd"
# Own home, users, SSH keys, shared memory and /tmp (what of the code lies below /tmp is put back); then a shell that
# reaps whatever is left behind, as an init does.
BOOT = """
set -e
mount --bind {folder}/home /home; mount --bind {folder}/ssh /etc/ssh; mount --bind {folder}/passwd /etc/passwd
mount -t tmpfs none /dev/shm; mkdir -p /run/sshd; hostname {name}; ip link set lo up
exec 7> {folder}/up 8< {code} 9< {python}
mount --bind {folder}/tmp /tmp
for kept in 8:{code} 9:{python}; do
    [ -d ${{kept#?:}} ] || {{ mkdir -p ${{kept#?:}}; mount -c --bind /proc/self/fd/${{kept%%:*}} ${{kept#?:}}; }}
done
echo yes >&7
exec 7>&- 8<&- 9<&-
{service} &
wait
"""
SSHD_CONFIG = f"""
HostKey /etc/ssh/host_key
AuthorizedKeysFile /home/{USER}/.ssh/authorized_keys
PidFile none
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 100
"""
BASHRC = """
export PYTHONPATH=$HOME/emray HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"""


class Machine(NamedTuple):
    """One of them."""

    number: int
    folder: Path  # its disk, as seen from outside: tmp/, home/
    init: psutil.Process

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def home(self) -> Path:
        return self.folder / "home" / USER

    def command(self, words: Sequence[object], *, folder: Path | str | None = None) -> list[str]:
        """What runs these words there."""
        enter = ["nsenter", "--target", str(self.init.pid), "--all", "sh", "-c", 'cd "$0" && exec "$@"']
        home = f"/home/{USER}"
        return [*enter, str(folder or home), "env", f"HOME={home}", f"USER={USER}", "TMPDIR=/tmp", *map(str, words)]

    def run(self, *words: object, folder: Path | str | None = None, timeout_s: float = 120, **extra: str) -> str:
        """Run to the end; returns what it said. Fails the test when it fails."""
        with tempfile.TemporaryFile("w+") as said:  # a pipe would wait for what goes on in the background, too
            done = subprocess.run(
                self.command(words, folder=folder), stdout=said, stderr=subprocess.STDOUT, timeout=timeout_s,
                env=environment() | extra, check=False,
            )  # fmt: skip
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, f"{words}: {text}"
        return text

    def start(
        self, *words: object, log: Path, folder: Path | str | None = None, **extra: str
    ) -> subprocess.Popen[bytes]:
        """Start it there; what it says goes to a file."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(words, folder=folder), stdout=file, stderr=subprocess.STDOUT, env=environment() | extra
            )

    def processes(self) -> list[str]:
        """Command lines of all that runs there, but for the init, its service and who is logged in."""
        found = []
        for child in self.init.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name() not in SERVICE and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(child.cmdline()))
        return found

    def lose(self) -> None:
        """Every process there is killed at once."""
        self.init.kill()


def environment() -> dict[str, str]:
    """Of what starts something on a machine: nothing of the caller's own settings of Ray or keys."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def missing() -> str | None:
    """Why this machine cannot be several; None: it can."""
    tools = [
        tool for tool in ("unshare", "nsenter", "ip", "ssh", "rsync", "openssl", SSHD) if shutil.which(tool) is None
    ]
    if tools:
        return f"not installed: {', '.join(tools)}"
    made = subprocess.run(["unshare", *OWN, "--fork", "true"], capture_output=True, check=False)
    return None if made.returncode == 0 else "this user may make no namespaces (root may)"


class Room:
    """Machines that reach each other, the desk among them."""

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self._folder, self._resources = folder, resources
        self.desk = self._start(DESK, service="sleep infinity")
        _ip(self.desk, "link add br0 type bridge")
        _ip(self.desk, f"address add {self.desk.address}/24 dev br0")
        _ip(self.desk, "link set br0 up")

    def add(self, number: int) -> Machine:
        """A new one, plugged in, that answers SSH."""
        made = self._start(number, service=f"{SSHD} -D -E /tmp/sshd.log")
        _ip(self.desk, f"link add v{number} master br0 type veth peer name eth0 netns {made.init.pid}")
        _ip(self.desk, f"link set v{number} up")
        _ip(made, f"address add {made.address}/24 dev eth0")
        _ip(made, "link set eth0 up")
        _ip(made, f"route add default via {self.desk.address}")
        return made

    def _start(self, number: int, *, service: str) -> Machine:
        folder = self._folder / str(number)
        _furnish(folder)
        script = BOOT.format(folder=folder, name=f"node{number}", code=ROOT, python=sys.prefix, service=service)
        outer = subprocess.Popen(["unshare", *OWN, "--fork", "--kill-child", "--mount-proc", "bash", "-c", script])
        self._resources.callback(_end, outer)
        return Machine(number, folder, _init_of(outer, up=folder / "up"))


def _ip(machine: Machine, words: str) -> None:
    """In its network, with process ids as they are out here."""
    subprocess.run(["nsenter", "--target", str(machine.init.pid), "--net", "ip", *words.split()], check=True)


def _furnish(folder: Path) -> None:
    """A disk: a home with the code's Python in it, users, the SSH server's keys."""
    for name in ("tmp", "ssh", f"home/{USER}/.ssh", f"home/{USER}/emray/.venv"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    users = [
        line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(("root:", f"{USER}:"))
    ]
    mine = [f"{name}:*:0:0::/home/{USER}:/bin/bash" for name in (USER, "root")]  # the first is the one that 0 is called
    (folder / "passwd").write_text("\n".join([*mine, *users, ""]))
    venv = folder / f"home/{USER}/emray/.venv"
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith(".installed"):
            (venv / entry.name).symlink_to(entry)
    (venv / ".installed-requirements.lock").touch()
    (folder / f"home/{USER}/.bashrc").write_text(BASHRC)
    (folder / "ssh" / "sshd_config").write_text(SSHD_CONFIG)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ssh" / "host_key"], check=True)


def _init_of(outer: subprocess.Popen[bytes], *, up: Path) -> psutil.Process:
    """The first process inside, once its disk is in place."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        assert outer.poll() is None, "the machine did not start"
        inside = psutil.Process(outer.pid).children()
        if inside and up.exists() and up.read_text():
            return inside[0]
        time.sleep(0.02)
    raise TimeoutError("the machine did not start")


def _end(outer: subprocess.Popen[Any]) -> None:
    outer.kill()  # and with it the first process inside, and with that all the others
    outer.wait(timeout=30)


@contextmanager
def room() -> Iterator[Room]:
    """A desk; every machine and its disk are gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="room-") as folder, ExitStack() as resources:
        yield Room(Path(folder), resources)
