"""The Kubernetes files as kustomize renders them: types, the operator's rules, and the project's own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load_config
from pipeline.prices import load_prices
from tests.infra.documents import (
    IMAGE,
    KUBERAY,
    LOCKED_RAY,
    OVERLAYS,
    REMOVED,
    Document,
    changed,
    of_kind,
    overlay,
    render,
)
from tests.infra.kubernetes_checks import groups, operator_complaints, pod_spec, ray_cluster, type_complaints

CLUSTER = "spec rayClusterSpec"
HEAD = f"{CLUSTER} headGroupSpec"
WORKER = f"{CLUSTER} workerGroupSpecs 0"
RAY_KINDS = ("RayJob", "RayCluster")
REHEARSAL_SECONDS = 7200
SPOT_GRACE_SECONDS = 15  # what GKE leaves a pod of the 30 s that GCE gives a spot machine


def ray_kind(documents: list[Document]) -> Document:
    (found,) = (document for document in documents if document["kind"] in RAY_KINDS)
    return found


def job_file(documents: list[Document]) -> Document:
    return yaml.safe_load(of_kind(documents, "ConfigMap")["data"]["job.yaml"])


def spot_job() -> Document:
    return ray_kind(overlay("overlays/spot"))


@pytest.fixture(params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return overlay(request.param)


def test_every_document_has_known_fields_of_the_right_types(documents: list[Document]) -> None:
    assert [complaint for document in documents for complaint in type_complaints(document)] == []


def test_the_operator_would_take_every_ray_kind(documents: list[Document]) -> None:
    assert operator_complaints(ray_kind(documents)) == []


def test_the_80_gb_component_goes_on_top_of_an_overlay(tmp_path: Path) -> None:
    top = os.path.relpath(KUBERAY, tmp_path)
    text = yaml.safe_dump({"resources": [f"{top}/overlays/spot"], "components": [f"{top}/a100-80gb"]})
    (tmp_path / "kustomization.yaml").write_text(text)
    job = ray_kind(render(tmp_path))
    worker = pod_spec(groups(ray_cluster(job))["a100"])
    assert type_complaints(job) + operator_complaints(job) == []
    assert worker["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-a100-80gb"
    assert worker["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


def test_the_standing_cluster_is_the_cluster_of_the_spot_job() -> None:
    assert ray_cluster(ray_kind(overlay("cluster"))) == ray_cluster(spot_job())


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("spec shutdownAfterJobFinish", True, "shutdownAfterJobFinish"),
        ("spec backoffLimit", "2", "not of type 'integer'"),
        (f"{CLUSTER} authOptions mode", "tokens", "'tokens' is not one of"),
        (f"{CLUSTER} autoscalerOptions version", 2, "2 is not one of"),
        (f"{CLUSTER} autoscalerOptions resources limits", "1", "autoscalerOptions"),
        (f"{CLUSTER} autoscalerOptions env 0 val", "1", "'val' was unexpected"),
        (f"{HEAD} rayStartParams num-cpus", 0, "0 is not of type 'string'"),
        (f"{HEAD} template", REMOVED, "'template' is a required property"),
        (f"{WORKER} maxReplica", 8, "maxReplica"),
        (f"{WORKER} template spec nodeselector", {}, "'nodeselector' was unexpected"),
        (f"{WORKER} template spec tolerations 0 key", 1, "not of type"),
        (f"{WORKER} template spec containers 0 ports 0 containerPort", "http", "not of type 'integer'"),
        (f"{WORKER} template spec containers 0 securityContext runAsNonRoot", "yes", "not of type"),
        (f"{WORKER} template spec volumes 0 emptyDir size", "20Gi", "'size' was unexpected"),
        ("apiVersion", "ray.io/v1alpha1", "'ray.io/v1' was expected"),
    ],
)
def test_a_wrong_field_or_type_is_named(path: str, value: Any, complaint: str) -> None:
    (found,) = type_complaints(changed(spot_job(), path, value))[:1]
    assert complaint in found


def test_a_wrong_field_of_a_core_kind_is_named() -> None:
    policy = of_kind(overlay("overlays/spot"), "NetworkPolicy")
    assert "'podSelektor' was unexpected" in type_complaints(changed(policy, "spec podSelektor", {}))[0]
    assert (
        "no kind of Kubernetes" in type_complaints(changed(policy, "apiVersion", "networking.k8s.io/v2"))[0]
    )


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("spec submissionMode", "K8sJob", "submissionMode: got 'K8sJob'; allowed: K8sJobMode"),
        ("spec shutdownAfterJobFinishes", False, "needs shutdownAfterJobFinishes"),
        ("spec deletionStrategy deletionRules", [{}], "excludes shutdownAfterJobFinishes"),
        ("spec backoffLimit", -1, "backoffLimit: got -1"),
        ("spec activeDeadlineSeconds", 0, "activeDeadlineSeconds: got 0"),
        (f"{CLUSTER} rayVersion", "2.51.1", "token needs rayVersion 2.52.0 or later, got '2.51.1'"),
        (f"{CLUSTER} rayVersion", REMOVED, "token needs rayVersion 2.52.0 or later, got None"),
        (f"{CLUSTER} networkPolicy", {}, "networkPolicy: needs a feature gate"),
        (f"{CLUSTER} tlsOptions", {}, "tlsOptions: needs a feature gate"),
        (f"{CLUSTER} autoscalerOptions idleTimeoutSeconds", -1, "must not be negative"),
        (f"{HEAD} template spec restartPolicy", "Always", "head: autoscaler v2 needs restartPolicy Never"),
        (
            f"{WORKER} template spec restartPolicy",
            "OnFailure",
            "a100: autoscaler v2 needs restartPolicy Never",
        ),
        (f"{HEAD} resources", {"CPU": "0"}, "head: resources are in both"),
        (f"{HEAD} template spec containers", [], "head: has no container"),
        (f"{WORKER} minReplicas", 9999, "a100: got minReplicas 9999, maxReplicas"),
        ("metadata name", "p2l_job", "metadata.name: got 'p2l_job'"),
        ("metadata name", "p" * 48, "at most 47 characters"),
    ],
)
def test_what_only_the_operator_refuses_is_named(path: str, value: Any, complaint: str) -> None:
    (found,) = operator_complaints(changed(spot_job(), path, value))
    assert complaint in found


def test_a_job_submitted_from_the_heads_own_pod_has_no_submitter() -> None:
    job = changed(spot_job(), "spec submitterConfig", {"backoffLimit": 3})
    (found,) = operator_complaints(changed(job, "spec submissionMode", "SidecarMode"))
    assert "SidecarMode: has no submitterConfig" in found


def test_idle_timeouts_of_groups_need_the_second_autoscaler() -> None:
    job = changed(spot_job(), f"{WORKER} idleTimeoutSeconds", 60)
    assert operator_complaints(job) == []
    first = changed(job, f"{CLUSTER} autoscalerOptions version", "v1")
    assert operator_complaints(first) == ["a100: idleTimeoutSeconds needs autoscaler v2"]


# The project's own rules.


def test_every_cluster_demands_a_token(documents: list[Document]) -> None:
    assert ray_cluster(ray_kind(documents))["authOptions"] == {"mode": "token"}


def test_nothing_is_exposed_and_no_secret_is_in_a_file(documents: list[Document]) -> None:
    allowed = {"Namespace", "ServiceAccount", "NetworkPolicy", "ConfigMap", *RAY_KINDS}
    assert {document["kind"] for document in documents} <= allowed
    for group in groups(ray_cluster(ray_kind(documents))).values():
        for container in pod_spec(group)["containers"]:
            names = [variable["name"] for variable in container.get("env", [])]
            assert not [name for name in names if re.search("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", name)]
            assert not [port for port in container["ports"] if "hostPort" in port]
        assert not pod_spec(group).get("hostNetwork")


def test_every_ray_container_is_confined(documents: list[Document]) -> None:
    cluster = ray_cluster(ray_kind(documents))
    containers = [
        container
        for group in groups(cluster).values()
        for container in pod_spec(group)["containers"] + pod_spec(group)["initContainers"]
    ]
    for settings in [cluster["autoscalerOptions"], *containers]:
        context = settings["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 1000
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_no_work_and_no_spot_machine_for_the_head(documents: list[Document]) -> None:
    head = ray_cluster(ray_kind(documents))["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in pod_spec(head)["containers"][0]["resources"]["limits"]
    terms = pod_spec(head)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    never = {"key": "cloud.google.com/gke-spot", "operator": "DoesNotExist"}
    assert all(never in term["matchExpressions"] for term in terms["nodeSelectorTerms"])


def test_workers_come_and_go_and_drain_inside_the_grace_period(documents: list[Document]) -> None:
    cluster = ray_cluster(ray_kind(documents))
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert {"cpu", "memory"} <= set(cluster["autoscalerOptions"]["resources"]["limits"])
    launches = {variable["name"] for variable in cluster["autoscalerOptions"]["env"]}
    assert "AUTOSCALER_MAX_CONCURRENT_LAUNCHES" in launches
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        environment = {item["name"]: item["value"] for item in pod_spec(group)["containers"][0]["env"]}
        drain = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert 0 < drain < pod_spec(group)["terminationGracePeriodSeconds"] <= SPOT_GRACE_SECONDS


def test_gke_moves_no_ray_pod_to_save_a_machine(documents: list[Document]) -> None:
    for group in groups(ray_cluster(ray_kind(documents))).values():
        annotations = group["template"]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


@pytest.mark.parametrize(("name", "spot"), [("overlays/spot", True), ("overlays/on-demand", False)])
def test_a100_workers_run_on_the_machines_they_are_meant_for(name: str, spot: bool) -> None:
    worker = pod_spec(groups(ray_cluster(ray_kind(overlay(name))))["a100"])
    assert worker["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-tesla-a100"
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert (worker["nodeSelector"].get("cloud.google.com/gke-spot") == "true") is spot
    assert ("affinity" in worker) is not spot
    tolerated = {toleration["key"] for toleration in worker["tolerations"]}
    assert tolerated == {"nvidia.com/gpu"} | ({"cloud.google.com/gke-spot"} if spot else set())


def test_the_job_outlives_log_streams_failures_and_any_number_of_days(documents: list[Document]) -> None:
    kind = ray_kind(documents)
    if kind["kind"] == "RayJob":
        assert kind["spec"]["submissionMode"] == "HTTPMode"
        assert kind["spec"]["backoffLimit"] >= 50
        assert not {"submitterConfig", "submitterPodTemplate"} & set(kind["spec"])
        rehearsal = {"runs/small", "runs/one-gpu"} & {
            job_file(documents)["output"].removeprefix("gs://BUCKET/")
        }
        longest = kind["spec"].get("activeDeadlineSeconds")
        assert (longest is not None and longest <= REHEARSAL_SECONDS) if rehearsal else longest is None


def test_every_pod_waits_for_its_account(documents: list[Document]) -> None:
    """Before anything else, and with the script where the command says it is."""
    for group in groups(ray_cluster(ray_kind(documents))).values():
        first = pod_spec(group)["initContainers"][0]
        assert first["command"] == ["python", "/etc/p2l/wait_for_identity.py"]
        assert {"name": "job", "mountPath": "/etc/p2l", "readOnly": True} in first["volumeMounts"]
        assert {"name": "job", "configMap": {"name": "p2l-job"}} in pod_spec(group)["volumes"]
    assert "wait_for_identity.py" in of_kind(documents, "ConfigMap")["data"]


def test_the_rehearsal_on_a_gpu_looks_at_it_and_then_does_the_job_on_one() -> None:
    documents = overlay("overlays/one-gpu")
    job, spot = job_file(documents), job_file(overlay("overlays/spot"))
    assert {name for name in spot if job[name] != spot[name]} == {"input", "output", "method"}
    assert job["method"] == spot["method"] | {"steps": 250} and set(job) == set(spot)
    group = groups(ray_cluster(ray_kind(documents)))["a100"]
    assert group["maxReplicas"] == 1
    worker, look = pod_spec(group)["containers"][0], pod_spec(group)["initContainers"][1]
    assert look["resources"] == worker["resources"] and look["securityContext"] == worker["securityContext"]
    command = look["command"][2]
    assert "nvidia-smi && p2l plan /etc/p2l/job.yaml --set method.steps=1000 " in command
    (usd,) = re.findall(r"--price here=(\S+)", command)  # which has the plan measured as well as counted
    assert float(usd) == load_prices().of_a_worker()["a2-highgpu-1g-spot"]
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0


def test_the_rehearsal_needs_no_gpu() -> None:
    worker = pod_spec(groups(ray_cluster(ray_kind(overlay("overlays/small"))))["cpu"])
    assert not [name for name in worker["nodeSelector"] if "accelerator" in name or "spot" in name]
    assert "nvidia.com/gpu" not in worker["containers"][0]["resources"]["limits"]


def test_buckets_are_reached_by_accounts_of_their_own(documents: list[Document]) -> None:
    accounts = {
        document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"
    }
    used = {
        name: pod_spec(group)["serviceAccountName"]
        for name, group in groups(ray_cluster(ray_kind(documents))).items()
    }
    assert set(used.values()) == accounts
    assert used.pop("head") not in used.values()
    for group in groups(ray_cluster(ray_kind(documents))).values():
        assert pod_spec(group)["nodeSelector"]["iam.gke.io/gke-metadata-server-enabled"] == "true"


def test_the_image_and_ray_are_the_versions_of_this_project(documents: list[Document]) -> None:
    cluster = ray_cluster(ray_kind(documents))
    assert cluster["rayVersion"] == LOCKED_RAY
    for group in groups(cluster).values():
        containers = pod_spec(group)["containers"] + pod_spec(group)["initContainers"]
        assert all(re.fullmatch(IMAGE, container["image"]) for container in containers)


def test_the_job_is_one_that_p2l_takes_and_fits_its_cluster(documents: list[Document]) -> None:
    most = int(of_kind(documents, "ConfigMap")["data"]["workers"])
    config = load_config(job_file(documents), [f"workers=[1, {most}]"])  # as run.sh says it
    workers = ray_cluster(ray_kind(documents))["workerGroupSpecs"][0]
    gpu = "nvidia.com/gpu" in pod_spec(workers)["containers"][0]["resources"]["limits"]
    assert config.model.device == ("cuda" if gpu else "cpu")
    assert config.output.startswith("gs://")
    assert "workers" not in job_file(documents)
    assert workers["maxReplicas"] == most


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        (test_every_cluster_demands_a_token, f"{CLUSTER} authOptions mode", "disabled"),
        (test_every_cluster_demands_a_token, f"{CLUSTER} authOptions", REMOVED),
        (test_nothing_is_exposed_and_no_secret_is_in_a_file, f"{HEAD} template spec hostNetwork", True),
        (
            test_nothing_is_exposed_and_no_secret_is_in_a_file,
            f"{HEAD} template spec containers 0 ports 1 hostPort",
            8265,
        ),
        (
            test_nothing_is_exposed_and_no_secret_is_in_a_file,
            f"{WORKER} template spec containers 0 env 0 name",
            "RAY_AUTH_TOKEN",
        ),
        (test_every_ray_container_is_confined, f"{CLUSTER} autoscalerOptions securityContext", {}),
        (
            test_every_ray_container_is_confined,
            f"{WORKER} template spec containers 0 securityContext runAsUser",
            0,
        ),
        (test_no_work_and_no_spot_machine_for_the_head, f"{HEAD} rayStartParams num-cpus", "4"),
        (test_no_work_and_no_spot_machine_for_the_head, f"{HEAD} template spec affinity", REMOVED),
        (
            test_workers_come_and_go_and_drain_inside_the_grace_period,
            f"{WORKER} template spec terminationGracePeriodSeconds",
            30,
        ),
        (
            test_workers_come_and_go_and_drain_inside_the_grace_period,
            f"{WORKER} template spec containers 0 env 0 value",
            "15",
        ),
        (test_workers_come_and_go_and_drain_inside_the_grace_period, f"{WORKER} minReplicas", 1),
        (
            test_workers_come_and_go_and_drain_inside_the_grace_period,
            f"{CLUSTER} autoscalerOptions resources",
            REMOVED,
        ),
        (test_gke_moves_no_ray_pod_to_save_a_machine, f"{HEAD} template metadata", REMOVED),
        (
            test_buckets_are_reached_by_accounts_of_their_own,
            f"{WORKER} template spec serviceAccountName",
            "p2l-head",
        ),
        (test_the_image_and_ray_are_the_versions_of_this_project, f"{CLUSTER} rayVersion", "2.59.0"),
        (
            test_the_image_and_ray_are_the_versions_of_this_project,
            f"{WORKER} template spec containers 0 image",
            "us-central1-docker.pkg.dev/a/p2l/p2l:latest",
        ),
        (test_the_job_is_one_that_p2l_takes_and_fits_its_cluster, f"{WORKER} maxReplicas", 9999),
        (
            test_the_job_outlives_log_streams_failures_and_any_number_of_days,
            "spec activeDeadlineSeconds",
            864000,
        ),
        (
            test_the_job_outlives_log_streams_failures_and_any_number_of_days,
            "spec submissionMode",
            "K8sJobMode",
        ),
        (test_the_job_outlives_log_streams_failures_and_any_number_of_days, "spec backoffLimit", 2),
        (test_every_pod_waits_for_its_account, f"{WORKER} template spec initContainers", REMOVED),
        (test_every_pod_waits_for_its_account, f"{HEAD} template spec volumes 0 name", "other"),
    ],
)
def test_a_broken_rule_of_the_project_is_seen(
    rule: Callable[[list[Document]], None], path: str, value: Any
) -> None:
    documents = overlay("overlays/spot")
    rule(documents)
    broken = [changed(each, path, value) if each["kind"] == "RayJob" else each for each in documents]
    with pytest.raises((AssertionError, KeyError)):
        rule(broken)
