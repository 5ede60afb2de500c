"""What the playbooks for AWS make and take away, against moto's server: a stand-in, and not AWS itself."""

import json
from contextlib import suppress
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.exceptions import ClientError

from account import KEY, NEWEST, REGION, Account, Run

FRONT = ["app", "celery", "flower", "mailbox", "nginx", "ngrok"]
HOSTS = [
    {"name": "front-1", "groups": FRONT},
    {"name": "queue-1", "groups": ["rabbitmq", "redis"], "type": "t3.medium"},
]
SERVICE_PORTS = {2525, 4369, 5671, 6379, 8000, 25672}


class Step(NamedTuple):
    """What a run has said, and what was there after it."""

    run: Run
    there: dict[str, set[str]]


class Story(NamedTuple):
    """One account, from what somebody else has in it to the end: told once for all tests."""

    strangers: dict[str, set[str]]
    steps: dict[str, Step]
    # What the first run has made, as AWS describes it
    made: dict[str, list[Any]]
    inventory: dict[str, Any]


def _make_strangers(account: Account) -> None:
    """Things that look like ours, and are not: the names and the network are the same."""
    name = [{"Key": "Name", "Value": "messaging-system"}]
    network = account.ec2.create_vpc(
        CidrBlock="10.77.0.0/24", TagSpecifications=[{"ResourceType": "vpc", "Tags": name}]
    )["Vpc"]["VpcId"]
    subnet = account.ec2.create_subnet(VpcId=network, CidrBlock="10.77.0.0/24")["Subnet"]["SubnetId"]
    account.ec2.create_security_group(GroupName="messaging-system", Description="another", VpcId=network)
    account.ec2.import_key_pair(KeyName="somebody", PublicKeyMaterial=KEY.encode())
    for tags in ({"Name": "front-1"}, {"Name": "queue-1", "messaging-system": "another"}):
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        account.ec2.run_instances(
            ImageId=NEWEST,
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
        )


@pytest.fixture(scope="module")
def story(account: Account) -> Story:
    account.forget()
    _make_strangers(account)
    strangers = account.everything()
    steps: dict[str, Step] = {}

    def tell(step: str, *command: str, **values: Any) -> None:
        run = account.play(*command, **values)
        steps[step] = Step(run, account.everything())

    tell("checked", "provision", "--check")
    tell("first", "provision", aws_hosts=HOSTS)
    made = account.ours()
    tell("second", "provision", "--diff", aws_hosts=HOSTS)

    queues = [each["InstanceId"] for each in made["instances"] if _tags(each)["Name"] == "queue-1"]
    account.ec2.stop_instances(InstanceIds=queues)
    listed = account.run("ansible-inventory", "--inventory", "inventories/aws_ec2.yml", "--list")
    inventory = json.loads(listed.stdout) if listed.ok else {"said": listed.output}

    tell("removed", "deprovision", remove_confirm="yes")

    # One that was left is told by its test
    with suppress(ClientError):
        account.ec2.import_key_pair(KeyName="messaging-system", PublicKeyMaterial=KEY.encode())
    tell("again", "deprovision")
    return Story(strangers, steps, made, inventory)


def _host(made: dict[str, list[Any]], name: str) -> Any:
    return next(each for each in made["instances"] if _tags(each)["Name"] == name)


def _tags(thing: Any) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}


def test_check_mode_says_what_would_be_made_and_makes_nothing(story: Story) -> None:
    run, there = story.steps["checked"]
    assert run.ok, run.output
    assert run.changed == 7, run.output
    assert there == story.strangers


def test_the_first_run_makes_a_network_of_its_own(story: Story) -> None:
    run, _ = story.steps["first"]
    assert run.ok, run.output
    (network,) = story.made["networks"]
    (subnet,) = story.made["subnets"]
    (gateway,) = story.made["gateways"]
    (table,) = story.made["tables"]
    assert network["VpcId"] not in story.strangers["networks"]
    assert network["CidrBlock"] == subnet["CidrBlock"] == "10.77.0.0/24"
    assert [each["VpcId"] for each in gateway["Attachments"]] == [network["VpcId"]]
    assert {each["SubnetId"] for each in table["Associations"]} == {subnet["SubnetId"]}
    assert {each["DestinationCidrBlock"]: each["GatewayId"] for each in table["Routes"]} == {
        "10.77.0.0/24": "local",
        "0.0.0.0/0": gateway["InternetGatewayId"],
    }


def test_only_the_web_is_open_to_all(story: Story) -> None:
    ours = {group["GroupName"]: group for group in story.made["groups"]}
    assert set(ours) == {"messaging-system", "messaging-system-web"}
    rules = {
        name: {(each["FromPort"], each["ToPort"]) for each in group["IpPermissions"]} for name, group in ours.items()
    }
    assert rules["messaging-system-web"] == {(80, 80), (443, 443)}
    assert rules["messaging-system"] == {(port, port) for port in SERVICE_PORTS | {22}}
    for name, group in ours.items():
        for rule in group["IpPermissions"]:
            sources = [each["CidrIp"] for each in rule["IpRanges"]]
            groups = [each["GroupId"] for each in rule["UserIdGroupPairs"]]
            assert rule["IpProtocol"] == "tcp"
            assert rule["Ipv6Ranges"] == []
            assert rule["PrefixListIds"] == []
            if name == "messaging-system-web":
                assert (sources, groups) == (["0.0.0.0/0"], [])
            elif rule["FromPort"] == 22:
                assert (sources, groups) == (["203.0.113.7/32"], [])
            else:
                assert (sources, groups) == ([], [group["GroupId"]])


def test_hosts_are_what_was_asked_for(story: Story) -> None:
    front, queue = _host(story.made, "front-1"), _host(story.made, "queue-1")
    assert len(story.made["instances"]) == 2
    assert [front["InstanceType"], queue["InstanceType"]] == ["t3.small", "t3.medium"]
    assert {each["GroupName"] for each in front["SecurityGroups"]} == {"messaging-system", "messaging-system-web"}
    assert {each["GroupName"] for each in queue["SecurityGroups"]} == {"messaging-system"}
    for host in (front, queue):
        assert host["State"]["Name"] == "running"
        assert host["ImageId"] == NEWEST
        assert host["KeyName"] == "messaging-system"
        assert host["PublicIpAddress"]
        # IMDSv2 only, and not from a container
        assert host["MetadataOptions"]["HttpTokens"] == "required"
        assert host["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        (disk,) = host["BlockDeviceMappings"]
        assert disk["DeviceName"] == "/dev/sda1"
        assert disk["Ebs"]["DeleteOnTermination"] is True
    assert {(each["VolumeType"], each["Size"], each["Encrypted"]) for each in story.made["volumes"]} == {
        ("gp3", 20, True)
    }


def test_the_key_is_the_operators(story: Story) -> None:
    (key,) = story.made["keys"]
    assert key["KeyName"] == "messaging-system"
    assert key["PublicKey"].split()[:2] == KEY.split()[:2]


def test_everything_that_was_made_carries_the_tag(story: Story) -> None:
    # what is there with a network, or with an instance, and goes with it
    given = {"tables": 1, "groups": 1}
    _, there = story.steps["first"]
    for kind, ids in there.items():
        assert len(ids - story.strangers[kind]) == len(story.made[kind]) + given.get(kind, 0), kind


def test_the_second_run_changes_nothing(story: Story) -> None:
    run, there = story.steps["second"]
    assert run.ok, run.output
    assert run.changed == 0, run.output
    assert there == story.steps["first"].there


def test_the_inventory_has_the_groups_and_the_addresses(story: Story) -> None:
    listed = {group: set(value.get("hosts", [])) for group, value in story.inventory.items() if group != "_meta"}
    assert {group: hosts for group, hosts in listed.items() if hosts} == {
        "aws_ec2": {"front-1", "queue-1"},
        **{service: {"front-1"} for service in FRONT},
        "rabbitmq": {"queue-1"},
        "redis": {"queue-1"},
    }
    front = story.inventory["_meta"]["hostvars"]["front-1"]
    host = _host(story.made, "front-1")
    assert _text(front["ansible_host"]) == host["PublicIpAddress"]
    assert _text(front["cluster_address"]) == host["PrivateIpAddress"]
    assert _text(front["ansible_user"]) == "ubuntu"


def _text(value: Any) -> Any:
    """As ansible-inventory writes what came from outside."""
    return value["__ansible_unsafe"] if isinstance(value, dict) else value


def test_a_stopped_host_is_missed_and_not_forgotten(story: Story) -> None:
    # One that an inventory forgets counts as taken out of the system, and the brokers go on without it for good
    assert story.inventory["rabbitmq"]["hosts"] == ["queue-1"]


def test_deprovision_takes_away_all_of_it_and_nothing_else(story: Story) -> None:
    run, there = story.steps["removed"]
    assert run.ok, run.output
    assert there == story.strangers


def test_deprovision_without_anything_of_ours_is_quiet(story: Story) -> None:
    run, there = story.steps["again"]
    assert run.ok, run.output
    assert run.changed == 0
    assert "There is nothing of messaging-system in eu-central-1." in run.output
    # A key that has our name, and is not ours
    assert len(there["keys"]) == len(story.strangers["keys"]) + 1
    assert there | {"keys": set()} == story.strangers | {"keys": set()}


def test_wrong_settings_stop_it_before_anything_is_asked(account: Account) -> None:
    account.forget()
    before = account.everything()
    run = account.play(
        "provision",
        environment={"AWS_REGION": "", "AWS_URL": "http://127.0.0.1:9"},
        aws_operator_cidr="",
        aws_hosts=[{"name": "one", "groups": ["web"]}],
    )
    assert not run.ok
    for said in ("Nothing was made", "export AWS_REGION=", "aws_operator_cidr is ''", "'web' of 'one' is no group"):
        assert said in run.output
    assert "Look for" not in run.output
    assert account.everything() == before


def test_missing_credentials_are_said_in_words(account: Account) -> None:
    run = account.play("provision", environment={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
    assert not run.ok
    assert "Unable to locate credentials" in run.output
    assert "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in run.output
    assert "Traceback" not in run.output


def test_missing_permissions_are_said_in_words(account: Account) -> None:
    iam = boto3.client(
        "iam",
        region_name=REGION,
        endpoint_url=account.url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    credentials = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    with account.guarded():
        run = account.play("deprovision", environment=credentials)
    assert not run.ok
    assert "is not authorized to perform: ec2:DescribeInstances" in run.output
    assert "ask for the permissions that docs/aws.md lists" in run.output
    assert credentials["AWS_SECRET_ACCESS_KEY"] not in run.output


def test_an_inventory_that_cannot_ask_says_why(account: Account) -> None:
    run = account.run("mk/hosts.sh", "deploy", "inventories/aws_ec2.yml", environment={"AWS_REGION": ""})
    assert not run.ok
    assert "AWS_REGION is not set: export AWS_REGION=" in run.output
