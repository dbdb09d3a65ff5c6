"""The cluster launcher's file: Ray's schema, the Compute API's types, and the project's own rules."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.documents import IMAGE, INFRA, REMOVED, Document, changed
from tests.infra.launcher_checks import compute_complaints, ray_complaints

LAUNCHER: Document = yaml.safe_load((INFRA / "gcp/a100.yaml").read_text())
HEAD = "available_node_types head node_config"
SPOT = "available_node_types a100-40gb-spot"


def test_ray_takes_the_file() -> None:
    assert ray_complaints(LAUNCHER) == []


def test_the_compute_api_knows_every_field_of_every_machine() -> None:
    assert compute_complaints(LAUNCHER) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("idle_timeout", 5, "'idle_timeout' was unexpected"),
        ("head_node_type", "heads", "`head_node_type` must be one of"),
        ("docker image", REMOVED, "Must provide a container & image name"),
        ("docker containername", "p2l", "'containername' was unexpected"),
        ("auth ssh_proxy_command", REMOVED, "'ssh_proxy_command' is a required property"),
        (f"{SPOT} resources GPU", 0.5, "0.5 is not of type 'integer'"),
        (f"{SPOT} max_workers", "8", "'8' is not of type 'integer'"),
        (f"{SPOT} idle_timeout_minutes", 5, "'idle_timeout_minutes' was unexpected"),
    ],
)
def test_a_mistake_that_ray_sees_is_named(path: str, value: Any, complaint: str) -> None:
    assert complaint in ray_complaints(changed(LAUNCHER, path, value))[0]


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("scheduling", [{"preemptible": True}], "scheduling: got list; allowed: an object, Scheduling"),
        ("scheduling provisioningmodel", "SPOT", "provisioningmodel: is no field of Scheduling"),
        ("scheduling provisioningModel", "spot", "got 'spot'; allowed: FLEX_START, RESERVATION_BOUND, SPOT"),
        ("scheduling automaticRestart", "false", "automaticRestart: got 'false'; allowed: boolean"),
        ("disks 0 initializeParams diskSizeGB", 200, "diskSizeGB: is no field of AttachedDisk"),
        ("disks 0 initializeParams diskSizeGb", 0.5, "diskSizeGb: got 0.5; allowed: string"),
        ("disks 0 type", "SSD", "disks.0.type: got 'SSD'; allowed: PERSISTENT, SCRATCH"),
        ("networkInterfaces 0 accessConfig", [], "accessConfig: is no field of NetworkInterface"),
        ("serviceAccounts 0 scopes", "devstorage", "scopes: got 'devstorage'; allowed: array"),
        ("tags items", [1], "tags.items.0: got 1; allowed: string"),
        ("labels", {"team": 1}, "labels.team: got 1; allowed: string"),
        ("machinetype", "a2-highgpu-1g", "machinetype: is no field of Instance"),
    ],
)
def test_a_mistake_that_only_the_cloud_would_see_is_named(path: str, value: Any, complaint: str) -> None:
    mistaken = changed(LAUNCHER, f"{SPOT} node_config {path}", value)
    assert ray_complaints(mistaken) == []
    assert any(complaint in found for found in compute_complaints(mistaken))


# The project's own rules.


@pytest.fixture
def launcher() -> Document:
    return LAUNCHER


def workers(launcher: Document) -> dict[str, Document]:
    types = launcher["available_node_types"]
    return {name: node_type for name, node_type in types.items() if name != launcher["head_node_type"]}


def test_the_head_does_no_work_and_stays(launcher: Document) -> None:
    head = launcher["available_node_types"][launcher["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["min_workers"] == head["max_workers"] == 0
    assert head["node_config"].get("scheduling", {}).get("provisioningModel") != "SPOT"
    start = " ".join(launcher["head_start_ray_commands"])
    assert "--num-cpus=0" in start and "--num-gpus=0" in start


def test_workers_are_a100s_that_come_and_go(launcher: Document) -> None:
    types = workers(launcher).values()
    assert {node_type["node_config"]["machineType"] for node_type in types} == {
        "a2-highgpu-1g",
        "a2-ultragpu-1g",
    }
    assert all(node_type["min_workers"] == 0 for node_type in types)
    assert all(node_type["resources"]["GPU"] == 1 for node_type in types)
    assert 0 < sum(node_type["max_workers"] for node_type in types) <= launcher["max_workers"]
    assert launcher["idle_timeout_minutes"] > 0


def test_a_worker_is_spot_when_its_name_says_so(launcher: Document) -> None:
    for name, node_type in workers(launcher).items():
        scheduling = node_type["node_config"]["scheduling"]
        assert scheduling["onHostMaintenance"] == "TERMINATE"
        assert scheduling["provisioningModel"] == ("SPOT" if name.endswith("-spot") else "STANDARD")
        if name.endswith("-spot"):
            assert scheduling["automaticRestart"] is False
            assert scheduling["instanceTerminationAction"] == "DELETE"


def test_no_machine_has_an_external_address(launcher: Document) -> None:
    assert launcher["provider"]["use_internal_ips"] is True
    for node_type in launcher["available_node_types"].values():
        machine = node_type["node_config"]
        (interface,) = machine["networkInterfaces"]
        assert not {"accessConfigs", "ipv6AccessConfigs"} & set(interface)
        assert machine["tags"]["items"] == ["p2l-ray"]  # what the firewall's rules are about


def test_no_machine_has_more_rights_than_it_needs(launcher: Document) -> None:
    for name, node_type in launcher["available_node_types"].items():
        (account,) = node_type["node_config"]["serviceAccounts"]
        role = "head" if name == launcher["head_node_type"] else "worker"
        assert re.fullmatch(rf"p2l-{role}@[\w-]+\.iam\.gserviceaccount\.com", account["email"])
        scopes = {scope.removeprefix("https://www.googleapis.com/auth/") for scope in account["scopes"]}
        assert scopes == {"devstorage.read_write"} | ({"compute"} if role == "head" else set())


def test_every_node_demands_the_token(launcher: Document) -> None:
    assert "-e RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert launcher["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN=" not in str(launcher)


def test_the_dashboard_is_reached_by_tunnel_alone(launcher: Document) -> None:
    assert "--dashboard-host=127.0.0.1" in " ".join(launcher["head_start_ray_commands"])


def test_the_image_is_this_version_of_the_project(launcher: Document) -> None:
    assert re.fullmatch(IMAGE, launcher["docker"]["image"])


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        (test_the_head_does_no_work_and_stays, "available_node_types head resources CPU", 4),
        (test_the_head_does_no_work_and_stays, f"{HEAD} scheduling provisioningModel", "SPOT"),
        (test_the_head_does_no_work_and_stays, "head_start_ray_commands 1", "ray start --head"),
        (test_workers_are_a100s_that_come_and_go, f"{SPOT} min_workers", 1),
        (test_workers_are_a100s_that_come_and_go, f"{SPOT} max_workers", 0),
        (test_a_worker_is_spot_when_its_name_says_so, f"{SPOT} node_config scheduling", {}),
        (
            test_a_worker_is_spot_when_its_name_says_so,
            f"{SPOT} node_config scheduling automaticRestart",
            True,
        ),
        (test_no_machine_has_an_external_address, "provider use_internal_ips", False),
        (test_no_machine_has_an_external_address, f"{HEAD} networkInterfaces 0 accessConfigs", [{}]),
        (test_no_machine_has_an_external_address, f"{HEAD} tags items", ["ssh"]),
        (
            test_no_machine_has_more_rights_than_it_needs,
            f"{HEAD} serviceAccounts 0 scopes 0",
            "cloud-platform",
        ),
        (test_no_machine_has_more_rights_than_it_needs, f"{SPOT} node_config serviceAccounts", REMOVED),
        (test_every_node_demands_the_token, "docker run_options", []),
        (test_every_node_demands_the_token, "docker run_options 0", "-e RAY_AUTH_TOKEN=abc"),
        (test_every_node_demands_the_token, "file_mounts", {}),
        (
            test_the_dashboard_is_reached_by_tunnel_alone,
            "head_start_ray_commands 1",
            "--dashboard-host=0.0.0.0",
        ),
        (test_the_image_is_this_version_of_the_project, "docker image", "us-docker.pkg.dev/a/p2l/p2l:latest"),
    ],
)
def test_a_broken_rule_of_the_project_is_seen(
    rule: Callable[[Document], None], path: str, value: Any
) -> None:
    rule(LAUNCHER)
    with pytest.raises((AssertionError, KeyError)):
        rule(changed(LAUNCHER, path, value))


def test_the_setup_of_a_node_closes_the_token_to_others(tmp_path: Path) -> None:
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir(mode=0o755)
    token.touch(mode=0o644)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for command in LAUNCHER["setup_commands"]:
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
