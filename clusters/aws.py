"""What cluster.yaml names in an AWS account: who may come in, what nodes may do, which image they start from.

    python clusters/aws.py --bucket NAME [--ssh-from ADDRESS] [--file cluster.yaml]

It makes, or brings back to what is written here, a security group (SSH from one address, everything among the nodes,
nothing else), the roles emray-head (starts and ends nodes of this cluster, hands them emray-worker, uses the bucket)
and emray-worker (uses the bucket), and a private bucket; then it writes the group's id and the newest image's into the
file.
Run it again when your address has changed or the image is to be renewed. Not for starting anything: that is `ray up`.
It takes credentials as boto3 finds them, which must be allowed EC2, IAM and S3 administration.
"""

import argparse
import ipaddress
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

FILE = Path(__file__).resolve().parent.parent / "cluster.yaml"
GROUP, HEAD, WORKER = "emray-nodes", "emray-head", "emray-worker"
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
OWN_ADDRESS = "https://checkip.amazonaws.com"
SPREAD_S = 10.0  # until a new role is known everywhere
ASSUMED_BY_NODES = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python clusters/aws.py", description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", required=True, help="where runs go; made when there is none of the name")
    parser.add_argument("--ssh-from", type=ipaddress.ip_address, help="who may come in by SSH; default: you")
    parser.add_argument("--image", default=IMAGE, help="public parameter that names the image (default: %(default)s)")
    parser.add_argument("--file", type=Path, default=FILE, help="the cluster file that gets the ids")
    arguments = parser.parse_args(argv)
    cluster = yaml.safe_load(arguments.file.read_text())
    session = boto3.Session(region_name=cluster["provider"]["region"])
    private_bucket(session, arguments.bucket)
    role(session, WORKER, [uses(arguments.bucket)])
    role(session, HEAD, [uses(arguments.bucket), *starts_nodes(account(session), cluster["cluster_name"])])
    group = security_group(session, ssh_from=str(arguments.ssh_from or own_address()))
    image = session.client("ssm").get_parameter(Name=arguments.image)["Parameter"]["Value"]
    arguments.file.write_text(with_ids(arguments.file.read_text(), image=image, group=group))
    print(f"{arguments.file}: image {image}, security group {group}; nodes write to s3://{arguments.bucket}")


def private_bucket(session: Any, name: str) -> None:
    """A bucket that is nobody else's, without public access."""
    s3, region = session.client("s3"), session.region_name
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with allowed("BucketAlreadyOwnedByYou"):
        s3.create_bucket(Bucket=name, **where)
    closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))


def role(session: Any, name: str, statements: list[dict[str, Any]]) -> None:
    """A role, in an instance profile of the same name, that may do this and nothing else."""
    iam = session.client("iam")
    with allowed("EntityAlreadyExists"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(ASSUMED_BY_NODES))
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    with allowed("EntityAlreadyExists"):
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        time.sleep(SPREAD_S)


def uses(bucket: str) -> dict[str, Any]:
    """Reading, writing and listing one bucket."""
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"]
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}


def starts_nodes(account_id: str, cluster: str) -> list[dict[str, Any]]:
    """What Ray's autoscaler does on the head; it ends nothing but nodes of this cluster."""
    own = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster}}
    worker = f"arn:aws:iam::{account_id}:role/{WORKER}"
    return [
        {"Effect": "Allow", "Action": ["ec2:RunInstances", "ec2:Describe*"], "Resource": "*"},
        {
            "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*",
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {"Effect": "Allow", "Action": ["ec2:TerminateInstances", "ec2:CreateTags"], "Resource": "*", "Condition": own},
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker},
    ]  # fmt: skip


def account(session: Any) -> str:
    return str(session.client("sts").get_caller_identity()["Account"])


def own_address() -> str:
    """As the world sees this machine."""
    with urllib.request.urlopen(OWN_ADDRESS, timeout=10) as reply:
        return str(ipaddress.ip_address(reply.read(64).decode().strip()))


def security_group(session: Any, *, ssh_from: str) -> str:
    """The id of a group in the default network whose doors are these two, whatever they were before."""
    ec2 = session.resource("ec2")
    network = next(iter(ec2.vpcs.filter(Filters=[{"Name": "is-default", "Values": ["true"]}])))
    there = list(network.security_groups.filter(Filters=[{"Name": "group-name", "Values": [GROUP]}]))
    about = "Nodes of emray: SSH from one address, everything among themselves"
    group = there[0] if there else network.create_security_group(GroupName=GROUP, Description=about)
    if group.ip_permissions:
        group.revoke_ingress(IpPermissions=group.ip_permissions)
    address = ipaddress.ip_address(ssh_from)
    kind, field = ("IpRanges", "CidrIp") if address.version == 4 else ("Ipv6Ranges", "CidrIpv6")
    one = f"{address}/{address.max_prefixlen}"
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, kind: [{field: one}]}
    group.authorize_ingress(IpPermissions=[among, ssh])
    return str(group.id)


def with_ids(text: str, *, image: str, group: str) -> str:
    """A cluster file that names this image and this group."""
    text = re.sub(r"(?<=ImageId: )ami-[0-9a-f]+", image, text)
    return re.sub(r"(?<=SecurityGroupIds: \[)sg-[0-9a-f]+", group, text)


@contextmanager
def allowed(code: str) -> Iterator[None]:
    """AWS may say that something is there already."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise


if __name__ == "__main__":
    main()
