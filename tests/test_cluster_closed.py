"""A Ray that emray starts is closed to other machines and to whoever has no token, whatever the environment says."""

import ipaddress
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from emray.cluster.closed import keep_token_private

CLUSTER = """
import json, os, subprocess, sys
import psutil
{before}
from emray.cluster import connected

STRANGER = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); ray.get(ray.put(1))"
with connected(None):
    import ray
    address = ray.get_runtime_context().gcs_address
    me = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    environment = os.environ | {{"RAY_AUTH_MODE": "disabled"}}
    command = [sys.executable, "-c", STRANGER, address]
    stranger = subprocess.run(command, env=environment, capture_output=True, timeout=60)
print(json.dumps([listening, stranger.returncode, os.environ.get("RAY_AUTH_MODE")]))
"""


@pytest.mark.parametrize(
    "before", [pytest.param("", marks=pytest.mark.soak), "import ray"], ids=["before-ray", "after-ray"]
)
def test_a_local_ray_listens_on_loopback_alone_and_asks_for_the_token(before: str, tmp_path: Path) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", CLUSTER.format(before=before)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    listening, stranger, mode_afterwards = json.loads(ended.stdout.splitlines()[-1])
    assert len(listening) >= 4
    assert all(ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback for host in listening), listening
    assert stranger != 0
    assert mode_afterwards == "disabled"
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_a_token_that_was_open_to_others_is_closed_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("a token")
    path.chmod(0o644)
    keep_token_private()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "a token"


def test_a_token_of_the_environment_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 64)
    keep_token_private()
    assert not (tmp_path / ".ray").exists()
