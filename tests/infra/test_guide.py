"""infra/README.md: programs know its commands, its paths are there, its firewall lets nobody in."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from ray.scripts.scripts import cli as ray_cli

from jobs import configs
from jobs.cli import app
from pipeline.config import load_config
from pipeline.prices import load_prices
from tests.infra.documents import INFRA, KUBERAY, ROOT, of_kind, render, tool

GUIDE = (INFRA / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
NAMES = {
    "PROJECT": "my-project",
    "BUCKET": "my-bucket",
    "REGION": "us-central1",
    "ZONE": "us-central1-a",
    "REGISTRY": "us-central1-docker.pkg.dev",
    "NUMBER": "123456789012",
    "WORKERS": "8",
    "TODAY": "2026-11-25",
    "LATER": "2026-12-25",
    "CLUSTER": "p2l-abcde",
}
PROXY = "35.235.240.0/20"  # Identity-Aware Proxy's, the only addresses that it forwards from


def expanded(line: str) -> str:
    """A command with what the shell would put into it from the guide's own exports."""
    exports = {
        name: value.strip('"')
        for command in COMMANDS
        for name, value in re.findall(
            r'export (NODES|PODS|MY_ADDRESS|ZONES|COME_AND_GO)=("[^"]+"|\S+)', command
        )
    }
    for _ in range(3):  # these hold others
        line = re.sub(r"\$([A-Z_]+)", lambda match: ({**NAMES, **exports})[match[1]], line)
    return line


def calls(program: str) -> list[str]:
    """The guide's calls of a program, also inside of $(...) and (... && ...)."""
    found = [re.search(rf"(?:^|\$\(|&& ){program} (?:\"[^\"]*\"|[^)&|>\"])*", line) for line in COMMANDS]
    return [expanded(match[0].removeprefix("$(").removeprefix("&& ").strip()) for match in found if match]


def gcloud_complaints(commands: list[str], folder: Path) -> list[str]:
    """What gcloud's own parser says of commands; it calls nothing."""
    (folder / "commands.json").write_text(json.dumps([{"command_string": command} for command in commands]))
    gcloud = tool("gcloud")
    assert gcloud
    done = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={folder / 'commands.json'}"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(folder / "gcloud")},
        capture_output=True,
        text=True,
    )
    if "Invalid choice" in done.stderr:
        pytest.skip(
            "this gcloud has no `meta lint-gcloud-commands`, which Google may take away without notice"
        )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == len(commands)
    return [
        f"{result['command_string']}: {result['error_message']}"
        for result in results
        if not result["success"]
    ]


def parse(root: Any, command: str) -> dict[str, Any]:
    """The parameters of a command line, as its program reads them; raises its error on a wrong one."""
    name, *arguments = shlex.split(command)
    at, context = root, root.context_class(root, info_name=name)
    while hasattr(at, "get_command"):
        found = at.get_command(context, arguments[0])
        assert found, f"{command}: there is no {arguments[0]}"
        at, arguments, context = found, arguments[1:], found.context_class(found, parent=context)
    return at.make_parser(context).parse_args(arguments)[0]


def test_the_steps_are_numbered_one_after_another() -> None:
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\. ", GUIDE, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_step_says_what_it_costs() -> None:
    steps = re.split(r"^\*\*\d+\. ", GUIDE, flags=re.MULTILINE)[1:]
    silent = [
        step.splitlines()[0]
        for step in steps
        if not re.search(r"\((.*?\d\.\d\d|free)", step.split("```")[0], re.DOTALL)
    ]
    assert not [
        step for step in silent if not step.startswith(("Tear down", "Take it down", "Everything but"))
    ]


def test_bash_reads_every_command() -> None:
    done = subprocess.run(["bash", "-n"], input="\n".join(COMMANDS), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    tool("gcloud") is None, reason="no gcloud on this machine; it comes with the Google Cloud CLI"
)
def test_gcloud_knows_every_command_and_flag(tmp_path: Path) -> None:
    commands = list(dict.fromkeys(calls("gcloud")))
    assert len(commands) > 40
    mistakes = ["gcloud compute networks create p2l --subnet-modes=custom", "gcloud container cluster list"]
    complaints = gcloud_complaints([*commands, *mistakes], tmp_path)
    assert [complaint.split(":")[0] for complaint in complaints] == mistakes


def test_ray_knows_every_command_and_flag() -> None:
    commands = calls("ray")
    assert {command.split()[1] for command in commands} == {
        "up",
        "down",
        "dashboard",
        "exec",
        "job",
        "get-auth-token",
    }
    for command in commands:
        parse(ray_cli, command)
    with pytest.raises(Exception, match="No such option"):
        parse(ray_cli, "ray up infra/gcp/a100.yaml --yess")


def test_p2l_takes_every_command_and_the_jobs_that_are_sent() -> None:
    root = typer.main.get_command(app)
    sent = [command.split(" -- ")[1] for command in calls("ray") if " -- " in command]
    assert sent
    for command in [*calls("p2l"), *sent]:
        parameters = parse(root, command)
        if command.startswith("p2l restore"):
            job = load_config(configs.locate(parameters["config"]), parameters["settings"])
            assert job.model.device == "cuda" and job.workers == (1, 8)


def test_every_path_that_the_guide_names_is_there() -> None:
    named = set(re.findall(r"\binfra/[\w./-]*\w", "\n".join(COMMANDS)))
    named |= {f"infra/{path}" for path in re.findall(r"\]\(((?!http)[^)]+)\)", GUIDE)}
    assert {"infra/gcp/a100.yaml", "infra/kuberay/overlays/spot"} <= named
    assert not [path for path in named if not (ROOT / path).exists()]
    assert all((KUBERAY / name / "kustomization.yaml").exists() for name in ("overlays/small", "cluster"))


def test_the_number_of_workers_of_the_guide_reaches_every_place(tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    for line in COMMANDS:
        if line.startswith("sed -i") and "$WORKERS" in line:
            subprocess.run(["bash", "-c", line], cwd=tmp_path, env=os.environ | {"WORKERS": "32"}, check=True)
    for name in ("spot", "on-demand"):
        documents = render(tmp_path / "infra/kuberay/overlays" / name)
        job = of_kind(documents, "RayJob")["spec"]["rayClusterSpec"]
        assert job["workerGroupSpecs"][0]["maxReplicas"] == 32
        assert of_kind(documents, "ConfigMap")["data"]["workers"] == "32"
    launcher = yaml.safe_load((tmp_path / "infra/gcp/a100.yaml").read_text())
    kinds = [node_type["max_workers"] for node_type in launcher["available_node_types"].values()]
    assert launcher["max_workers"] == 32 and sorted(set(kinds)) == [0, 32]
    assert not re.search(r"max-nodes=(?!4 |\$WORKERS)|workers=\[1, \d", GUIDE)


def test_gpu_pools_take_machines_from_any_zone_and_no_upgrade_takes_them_away() -> None:
    pools = [call for call in calls("gcloud") if "node-pools create a100" in call]
    assert len(pools) == 2
    for pool in pools:
        zones = re.findall(r"--node-locations=(\S+)", pool)[0].split(",")
        assert len(set(zones)) > 1 and all(zone.startswith(NAMES["REGION"]) for zone in zones)
        assert "--location-policy=ANY" in pool and "--enable-image-streaming" in pool
    (update,) = [call for call in calls("gcloud") if "clusters update" in call]
    assert "--add-maintenance-exclusion-scope=no_minor_or_node_upgrades" in update


def test_the_operator_waits_for_a_head_on_a_new_machine() -> None:
    """Its chart hands `env` on to the operator's container as it is."""
    assert any("helm install" in line and "--values infra/kuberay/operator.yaml" in line for line in COMMANDS)
    values = yaml.safe_load((KUBERAY / "operator.yaml").read_text())
    assert values == {"env": [{"name": "RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS", "value": "1800"}]}


def test_errors_are_tried_again_by_the_guides_command() -> None:
    (line,) = [line for line in COMMANDS if "--retry-errors" in line]
    render_and_change, apply = line.rsplit(" | ", 1)
    assert apply == "kubectl apply -f -"
    kubectl = tool("kubectl")
    assert kubectl
    path = {"PATH": f"{Path(kubectl).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", render_and_change], cwd=ROOT, env=path, capture_output=True, text=True
    )
    documents = list(yaml.safe_load_all(done.stdout))
    assert of_kind(documents, "ConfigMap")["data"]["arguments"] == "--retry-errors"


def test_the_driver_is_new_enough_for_the_cuda_of_torch() -> None:
    """Looked up for each torch: a new one must be looked up as well."""
    pins = (ROOT / "constraints.txt").read_text()
    needed = {"2.13": 580}[re.findall(r"^torch==(\d+\.\d+)", pins, re.MULTILINE)[0]]
    assert f"driver {needed} or newer" in GUIDE
    (family,) = set(re.findall(r"nvidia-(\d+)$", (INFRA / "gcp/a100.yaml").read_text(), re.MULTILINE))
    assert int(family) >= needed
    pools = [call for call in calls("gcloud") if "node-pools create a100" in call]
    assert all("gpu-driver-version=latest" in pool for pool in pools)


def firewall() -> list[argparse.Namespace]:
    parser = argparse.ArgumentParser()
    for flag in ("network", "direction", "action", "rules", "source-ranges", "source-tags", "target-tags"):
        parser.add_argument(f"--{flag}")
    rules = [call for call in calls("gcloud") if "firewall-rules create" in call]
    return [parser.parse_known_args(shlex.split(rule))[0] for rule in rules]


def test_the_firewall_lets_in_the_proxy_to_ssh_and_the_cluster_to_itself_alone() -> None:
    """A network of one's own has no other rules, and GCP refuses what no rule allows."""
    assert "gcloud compute networks create p2l --subnet-mode=custom" in COMMANDS
    outside = [rule for rule in firewall() if rule.source_tags is None]
    inside = [rule for rule in firewall() if rule.source_tags]
    assert [(rule.source_ranges, rule.rules) for rule in outside] == [(PROXY, "tcp:22")]
    assert [(rule.source_tags, rule.target_tags) for rule in inside] == [("p2l-ray", "p2l-ray")]
    assert all(rule.target_tags == "p2l-ray" and rule.network == "p2l" for rule in firewall())


def test_what_the_guide_creates_it_deletes() -> None:
    def named(verb: str) -> set[str]:
        found = set()
        for call in calls("gcloud"):
            if f" {verb} " in call:
                what, rest = call.split(f" {verb} ")
                kind = what.split()[-1]
                names = [word for word in rest.split() if not word.startswith("-")]
                found |= {f"{kind} {name.split('@')[0]}" for name in names}
        return found

    gone_with_others = {
        "nats p2l",
        "node-pools a100-spot",
        "node-pools a100-on-demand",
        "buckets gs://my-bucket",
    }
    assert named("create") - gone_with_others <= named("delete")
    assert "gcloud storage rm gs://$BUCKET --recursive" in COMMANDS


def test_tokens_are_written_to_files_that_only_their_owner_can_read() -> None:
    writing = [line for line in COMMANDS if "get-auth-token" in line or "auth_token}" in line]
    assert len(writing) == 3
    assert all(line.startswith("(umask 077 && ") for line in writing)


def test_ray_writes_the_token_for_its_owner_alone_under_the_guides_umask(tmp_path: Path) -> None:
    (line,) = [line for line in COMMANDS if "get-auth-token" in line]
    ray = tool("ray")
    assert ray
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{Path(ray).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    subprocess.run(["bash", "-c", line], env=environment, check=True, capture_output=True)
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


def test_the_prices_of_machines_are_those_that_the_plan_knows() -> None:
    for name, machine in load_prices(None).machines.items():
        assert f"| {name} " in GUIDE and f"| {machine.spot} / {machine.on_demand} an hour |" in GUIDE
