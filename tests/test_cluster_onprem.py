"""README's section on clusters, word for word: `ray up` over SSH, a sweep as a job, seeds added, `ray down`.

The machines are namespaces of this one (tests/machines.py), at the addresses that clusters/onprem.yaml names; runs go
to an S3 server at the desk.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import machines
from tests.commands import ROOT, write_sweep
from tests.desk import serving_at, tally
from tests.machines import Machine, room

ONPREM = "clusters/onprem.yaml"
CANARY = "canary-4f1d2c9a7b"
SECRETS = (".env", ".env.local", "clusters/node.pem", "id_ed25519", "server.key", "runs/old/plan.json")
UNTIL_IT_ANSWERS = "until curl -s -o /dev/null localhost:8265 || [ $((tries++)) = 60 ]; do sleep 0.5; done"
ASK = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info(timeout=10)))"

pytestmark = pytest.mark.skipif(bool(machines.missing()), reason=f"machines on this machine: {machines.missing()}")


class Desk(NamedTuple):
    """Where a person sits: a clone, a bucket, machines that admit the cluster's key."""

    machine: Machine
    nodes: dict[str, Machine]  # by address
    bucket: dict[str, str]  # the environment that leads to it

    @property
    def clone(self) -> str:
        return f"/home/{machines.USER}/emray"


@pytest.fixture
def desk() -> Iterator[Desk]:
    named = yaml.safe_load((ROOT / ONPREM).read_text())["provider"]
    addresses = [named["head_ip"], *named["worker_ips"]]
    with room() as made:
        nodes = {address: made.add(int(address.rsplit(".", 1)[1])) for address in addresses}
        prepare_desk(made.desk, addresses)
        with serving_at(made.desk) as bucket:
            for node in nodes.values():
                admit(node, made.desk, bucket)
            yield Desk(made.desk, nodes, bucket)


def prepare_desk(desk: Machine, addresses: list[str]) -> None:
    """A clone with secrets in it that are to stay; what the first lines of onprem.yaml say to do."""
    ours = ["--exclude=.git", "--exclude=.venv", "--filter=dir-merge,- .gitignore"]
    subprocess.run(["rsync", "-a", *ours, f"{ROOT}/", f"{desk.home}/emray/"], check=True)
    for name in SECRETS:
        path = desk.home / "emray" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY)
    write_sweep(desk.home / "emray" / "sweeps", domains=["gore_movie_trivia"], arms=["plain"], generate={"samples": 1})
    told = re.findall(r"^#   (\S.*?)(?:  +#.*)?$", (ROOT / ONPREM).read_text(), re.M)
    assert [line.split()[0] for line in told] == ["ssh-keygen", "sh"]
    for line in told:
        desk.run("bash", "-c", line, folder=f"/home/{machines.USER}/emray")


def admit(node: Machine, desk: Machine, bucket: dict[str, str]) -> None:
    """The key of the cluster may come in; the way to the bucket stands for an instance's role."""
    (node.home / ".ssh" / "authorized_keys").write_text((desk.home / ".ssh" / "emray.pub").read_text())
    with (node.home / ".bashrc").open("a") as file:
        file.writelines(f"export {name}={value}\n" for name, value in bucket.items())


def commands() -> list[str]:
    """The lines of README's section, without what is said beside them."""
    section = (ROOT / "README.md").read_text().split("## A cluster\n")[1].split("\n## ")[0]
    lines = re.findall(r"^    (\S.*)$", section, re.M)
    return [re.sub(r" {2,}#.*$", "", line) for line in lines]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_section_on_clusters_does_what_it_says(desk: Desk) -> None:
    lines = commands()
    assert lines[0] == "CLUSTER=cluster.yaml SWEEP=sweeps/paper.yaml OUT=s3://YOUR-BUCKET/runs/paper"
    assert lines[-1] == "ray down --yes $CLUSTER"
    lines[0] = f"CLUSTER={ONPREM} SWEEP=sweeps/small.yaml OUT=s3://bucket/runs/small OPENAI_API_KEY={CANARY}"
    place = next(number for number, line in enumerate(lines) if line.startswith("ray dashboard"))
    lines.insert(place + 1, UNTIL_IT_ANSWERS)
    lines = [line.replace("seeds=10", "seeds=2") for line in lines]
    typed = "\n".join(["set -m", *lines[:-1]])  # jobs are groups, as in a shell that a person types into
    said = desk.machine.run("bash", "-ec", typed, folder=desk.clone, timeout_s=1200)
    assert said.count("succeeded") == 2, said
    left = tally(desk.machine, "s3://bucket/runs/small", desk.bucket)
    assert left == {
        "trained": ["trained"] * 2, "seeds": [0, 1], "answers": 60, "different": 60,
        "verdicts": left["judged"], "judged": left["judged"], "outcomes": left["outcomes"], "report": True,
        "finished": left["finished"],
    }  # fmt: skip
    assert "api_error" not in left["outcomes"]
    check_every_node_has_joined(desk)
    check_what_travelled(desk)
    check_strangers_are_refused(desk)
    desk.machine.run("bash", "-ec", f"CLUSTER={ONPREM}\n{lines[-1]}", folder=desk.clone)
    check_nothing_is_left(desk)


def check_every_node_has_joined(desk: Desk, within_s: float = 120) -> None:
    """`ray up` returns when the head is there; the head then starts the others."""
    end_s = time.monotonic() + within_s
    while not all(any("raylet" in line for line in node.processes()) for node in desk.nodes.values()):
        assert time.monotonic() < end_s, {address: node.processes() for address, node in desk.nodes.items()}
        time.sleep(1)


def check_what_travelled(desk: Desk) -> None:
    for node in desk.nodes.values():
        there = {str(path.relative_to(node.home / "emray")) for path in (node.home / "emray").rglob("*")}
        assert "emray/sweep.py" in there
        assert there.isdisjoint(SECRETS)
        for name in ("auth_token", "keys.sh", "tls/node.secret"):
            assert (node.home / ".ray" / name).stat().st_mode & 0o077 == 0


def check_strangers_are_refused(desk: Desk) -> None:
    """The same question about the cluster, with and without what it takes to be answered."""
    head, *others = desk.nodes
    ask = f"timeout 30 python -c '{ASK}' {head}:6379"
    told = desk.nodes[others[0]].run("bash", "-ec", f". ~/emray/clusters/environment.sh; {ask}")
    assert told.split() == ["3"]
    for missing_or_wrong in ("RAY_AUTH_TOKEN=" + "0" * 64, "RAY_AUTH_MODE=disabled", "RAY_USE_TLS=0"):
        with pytest.raises(AssertionError):
            script = f". ~/emray/clusters/environment.sh; export {missing_or_wrong}; {ask}"
            desk.nodes[others[0]].run("bash", "-ec", script)
    submit = "curl -s -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer 0' -d '{\"entrypoint\": \"true\"}'"
    assert desk.nodes[head].run("bash", "-c", f"{submit} http://localhost:8265/api/jobs/") == "403"
    with pytest.raises(AssertionError):
        desk.machine.run("bash", "-c", f"{submit} --noproxy '*' http://{head}:8265/api/jobs/")


def check_nothing_is_left(desk: Desk, within_s: float = 180) -> None:
    """Of Ray; a worker node ends by itself when its head has gone."""
    end_s, machines_there = time.monotonic() + within_s, {"desk": desk.machine, **desk.nodes}
    while left := {name: there for name, one in machines_there.items() if (there := one.processes())}:
        assert time.monotonic() < end_s, left
        time.sleep(1)


def test_a_machine_shares_nothing_with_another_but_the_network() -> None:
    with room() as made:
        one, other = made.add(10), made.add(11)
        (one.home / "secret").write_text(CANARY)
        one.run("touch", "/tmp/secret")
        assert "secret" not in other.run("ls", f"/home/{machines.USER}", "/tmp")
        assert "ssh-ed25519" in one.run("ssh-keyscan", other.address)
        counted = other.run("sh", "-c", "ls /proc | grep -c '^[0-9]'")
        assert int(counted) < 10
        lost = one.init
        one.lose()
        lost.wait(10)
        assert "secret" not in other.run("ls", "/tmp")
    assert not made.desk.folder.exists()


def test_the_nodes_certificate_is_by_the_clusters_authority_and_names_them(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(["sh", "clusters/certificates.sh", "192.0.2.10", "192.0.2.11"], cwd=ROOT, env=home, check=True)
    folder = tmp_path / ".ray" / "tls"
    checked = subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "authority.crt", "-verify_ip", "192.0.2.11", folder / "node.crt"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    wrong = ["openssl", "verify", "-CAfile", folder / "authority.crt", "-verify_ip", "192.0.2.12", folder / "node.crt"]
    assert subprocess.run(wrong, capture_output=True).returncode != 0
    assert sorted(path.name for path in folder.iterdir()) == ["authority.crt", "node.crt", "node.secret"]
    assert (folder / "node.secret").stat().st_mode & 0o077 == 0
