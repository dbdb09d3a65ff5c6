"""What is wrong with Kubernetes documents: fields and types first, then the rules that no schema holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from packaging.version import InvalidVersion, Version

from tests.infra.documents import Document

KUBERNETES = "1.37"
RAY_KINDS = jsonschema.Draft202012Validator(
    yaml.safe_load((Path(__file__).parent / "ray_kinds.yaml").read_text())
)
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}  # the operator appends to it, within 63 characters


def type_complaints(document: Document) -> list[str]:
    """Unknown fields and wrong types: Ray's kinds and what they hold, or a core kind."""
    if not document["apiVersion"].startswith("ray.io/"):
        return list(_core(document, document["kind"]))
    found = [f"{_at(error.absolute_path)}: {error.message}" for error in RAY_KINDS.iter_errors(document)]
    return found or [complaint for pod, where in _pods(document) for complaint in _core(pod, where)]


def operator_complaints(document: Document) -> list[str]:
    """What KubeRay's operator refuses although its schema allows it; types are right."""
    cluster = ray_cluster(document)
    found = list(_cluster_rules(cluster))
    if document["kind"] == "RayJob":
        found += _job_rules(document["spec"])
    name, longest = document["metadata"]["name"], LONGEST_NAME[document["kind"]]
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append(f"metadata.name: got {name!r}; allowed: a DNS label of at most {longest} characters")
    return found


def ray_cluster(document: Document) -> Document:
    """The specification of the Ray cluster of a RayJob or a RayCluster."""
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def groups(cluster: Document) -> dict[str, Document]:
    """The head's group and each worker group, by name."""
    return {"head": cluster["headGroupSpec"]} | {
        group["groupName"]: group for group in cluster.get("workerGroupSpecs", [])
    }


def pod_spec(group: Document) -> Document:
    return group["template"]["spec"]


def _job_rules(job: Document) -> Iterator[str]:
    mode = job.get("submissionMode", "K8sJobMode")
    if mode not in SUBMISSION_MODES:
        yield f"submissionMode: got {mode!r}; allowed: {', '.join(SUBMISSION_MODES)}"
    shutdown = job.get("shutdownAfterJobFinishes", False)
    if job.get("ttlSecondsAfterFinished", 0) and not shutdown:
        yield "ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    if job.get("deletionStrategy", {}).get("deletionRules") and shutdown:
        yield "deletionStrategy.deletionRules: excludes shutdownAfterJobFinishes"
    for name, least in (("ttlSecondsAfterFinished", 0), ("backoffLimit", 0), ("activeDeadlineSeconds", 1)):
        if job.get(name, least) < least:
            yield f"{name}: got {job[name]}; allowed: from {least}"
    if mode == "SidecarMode" and {"submitterConfig", "submitterPodTemplate"} & set(job):
        yield "SidecarMode: has no submitterConfig or submitterPodTemplate"


def _cluster_rules(cluster: Document) -> Iterator[str]:
    if cluster.get("authOptions", {}).get("mode") == "token" and not _at_least(
        cluster.get("rayVersion"), "2.52.0"
    ):
        yield f"authOptions: token needs rayVersion 2.52.0 or later, got {cluster.get('rayVersion')!r}"
    for name in ("networkPolicy", "tlsOptions"):
        if name in cluster:
            yield f"{name}: needs a feature gate that is off by default"
    autoscaler = cluster.get("autoscalerOptions", {})
    second = bool(cluster.get("enableInTreeAutoscaling")) and autoscaler.get("version") == "v2"
    if autoscaler.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds: must not be negative"
    for name, group in groups(cluster).items():
        if not pod_spec(group).get("containers"):
            yield f"{name}: has no container"
        if second and pod_spec(group).get("restartPolicy", "Never") != "Never":
            yield f"{name}: autoscaler v2 needs restartPolicy Never, or none"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(
            group["rayStartParams"]
        ):
            yield f"{name}: resources are in both rayStartParams and resources"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= most:
            yield f"{name}: got minReplicas {least}, maxReplicas {most}; allowed: 0 <= min <= max"
        if "idleTimeoutSeconds" in group and not second:
            yield f"{name}: idleTimeoutSeconds needs autoscaler v2"


def _pods(document: Document) -> Iterator[tuple[Document, str]]:
    """Every pod and container inside a Ray kind, as a Pod."""
    cluster = ray_cluster(document)
    templates = {f"{name}.template": group["template"] for name, group in groups(cluster).items()}
    if "submitterPodTemplate" in document["spec"]:
        templates["submitterPodTemplate"] = document["spec"]["submitterPodTemplate"]
    for where, template in templates.items():
        yield {"apiVersion": "v1", "kind": "Pod"} | template, where
    options = cluster.get("autoscalerOptions", {})
    container = {name: options[name] for name in ("env", "resources", "securityContext") if name in options}
    spec = {"containers": [{"name": "autoscaler"} | container]}
    yield {"apiVersion": "v1", "kind": "Pod", "spec": spec}, "autoscalerOptions"


def _core(document: Document, where: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{where}: {_at(error.absolute_path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{where}: {document['apiVersion']} is no kind of Kubernetes {KUBERNETES}"


def _at(path: object) -> str:
    return ".".join(str(part) for part in path)  # type: ignore[attr-defined]


def _at_least(version: str | None, least: str) -> bool:
    try:
        return Version(version or "0") >= Version(least)
    except InvalidVersion:
        return False
