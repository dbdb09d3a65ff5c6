"""What a NetworkPolicy lets through: ingress rules of networking.k8s.io/v1 with label selectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.infra.documents import Document


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]


def lets_through(policy: Document, source: Pod | None, target: Pod, port: int) -> bool:
    """Whether TCP from a pod, or from outside of the cluster (None), reaches a port of `target`."""
    namespace, spec = policy["metadata"]["namespace"], policy["spec"]
    if target.namespace != namespace or not _selects(spec["podSelector"], target.labels):
        return True  # a pod that no policy selects is open
    assert spec["policyTypes"] == ["Ingress"]
    return any(
        any(_is_peer(peer, namespace, source) for peer in rule["from"])
        and ("ports" not in rule or {"protocol": "TCP", "port": port} in rule["ports"])
        for rule in spec["ingress"]
    )


def _is_peer(peer: Document, namespace: str, source: Pod | None) -> bool:
    if source is None:
        return "ipBlock" in peer
    spaces = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": namespace}})
    return _selects(spaces, {"kubernetes.io/metadata.name": source.namespace}) and _selects(
        peer.get("podSelector", {}), source.labels
    )


def _selects(selector: Document, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()
