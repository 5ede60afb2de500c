"""An account at AWS that is none: moto's server on loopback is a stand-in for it, in this process."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
CANONICAL = "099720109477"
REGION = "eu-central-1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOfeDEiWTS0U6m/wB2gTGvV+0xw+DUOdrd8qGox2mLYU me@laptop"


def image(number: int, name: str, owner: str, created: str) -> dict[str, Any]:
    return {
        "ami_id": f"ami-0000000000000000{number}",
        "name": name,
        "owner_id": owner,
        "creation_date": f"{created}T00:00:00.000Z",
        "architecture": "x86_64",
        "description": name,
        "hypervisor": "xen",
        "image_location": name,
        "image_type": "machine",
        "platform": None,
        "public": True,
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "sriov": "simple",
        "state": "available",
        "virtualization_type": "hvm",
    }


NOBLE = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-"
# The newest of Canonical's, between what must not be taken
IMAGES = [
    image(1, NOBLE + "20260101", CANONICAL, "2026-01-01"),
    image(2, NOBLE + "20260301", CANONICAL, "2026-03-01"),
    image(3, NOBLE + "20260201", CANONICAL, "2026-02-01"),
    image(4, NOBLE + "20260401", "123456789012", "2026-04-01"),
    image(5, "ubuntu/images/hvm-ssd-gp3/ubuntu-jammy-22.04-amd64-server-20260501", CANONICAL, "2026-05-01"),
]
NEWEST = "ami-00000000000000002"


class Run:
    """What a command has said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.ok = done.returncode == 0
        self.stdout = done.stdout
        self.output = done.stdout + done.stderr

    @property
    def changed(self) -> int:
        recap = re.search(r"^localhost .*changed=(\d+)", self.output, re.MULTILINE)
        assert recap, self.output
        return int(recap.group(1))


class Account:
    """The stand-in, and commands that take it for AWS."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        key = folder / "key.pub"
        key.write_text(KEY + "\n")
        self.settings = {"aws_operator_cidr": "203.0.113.7/32", "aws_public_key_file": str(key)}
        # Nothing of who runs the tests. Bytecode is kept: a module begins twice as fast with it
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environment = kept | {
            "AWS_URL": url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "ANSIBLE_NOCOLOR": "1",
        }
        self.ec2 = boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def forget(self) -> None:
        """Begin with an account that has nothing but what AWS gives to everybody."""
        self._tell("reset")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Ask for credentials that are known, and for permissions, as AWS does."""
        self._tell("reset-auth", b"0")
        try:
            yield
        finally:
            self._tell("reset-auth", b"inf")

    def _tell(self, what: str, body: bytes = b"") -> None:
        request = urllib.request.Request(f"{self.url}/moto-api/{what}", body, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()

    def play(self, playbook: str, *options: str, environment: dict[str, str] | None = None, **values: Any) -> Run:
        extra = json.dumps(self.settings | values)
        command = ["ansible-playbook", "--inventory", "localhost,", f"playbooks/{playbook}_aws.yml"]
        return self.run(*command, "--extra-vars", extra, *options, environment=environment)

    def run(self, *command: str, environment: dict[str, str] | None = None) -> Run:
        """Run it in the project's folder; what is empty in `environment` is not set."""
        merged = self.environment | (environment or {})
        return Run(
            subprocess.run(
                command,
                cwd=ROOT,
                env={name: value for name, value in merged.items() if value},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        )

    def _all(self) -> dict[str, tuple[str, list[Any]]]:
        return {
            "instances": ("InstanceId", self.instances()),
            "volumes": ("VolumeId", self.ec2.describe_volumes()["Volumes"]),
            "networks": ("VpcId", self.ec2.describe_vpcs()["Vpcs"]),
            "subnets": ("SubnetId", self.ec2.describe_subnets()["Subnets"]),
            "gateways": ("InternetGatewayId", self.ec2.describe_internet_gateways()["InternetGateways"]),
            "tables": ("RouteTableId", self.ec2.describe_route_tables()["RouteTables"]),
            "groups": ("GroupId", self.ec2.describe_security_groups()["SecurityGroups"]),
            "keys": ("KeyPairId", self.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]),
        }

    def everything(self) -> dict[str, set[str]]:
        """The IDs of all that is there, by kind."""
        return {kind: {each[key] for each in things} for kind, (key, things) in self._all().items()}

    def ours(self) -> dict[str, list[Any]]:
        """What carries our tag, by kind, as AWS describes it."""
        tag = {"Key": "messaging-system", "Value": "messaging-system"}
        return {
            kind: [each for each in things if tag in each.get("Tags", [])] for kind, (_, things) in self._all().items()
        }

    def instances(self) -> list[Any]:
        found = self.ec2.describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        )
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


@contextmanager
def stand_in(folder: Path) -> Iterator[Account]:
    """Moto's server on a free port, as long as it is needed."""
    (folder / "images.json").write_text(json.dumps(IMAGES))
    # It is read when the first request comes in
    os.environ["MOTO_AMIS_PATH"] = str(folder / "images.json")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Account(f"http://{host}:{port}", folder)
    finally:
        server.stop()
        del os.environ["MOTO_AMIS_PATH"]
