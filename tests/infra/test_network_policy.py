"""Who reaches which port of a Ray pod."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.infra.documents import OVERLAYS, Document, of_kind, overlay
from tests.infra.network import Pod, lets_through

GCS, DASHBOARD, CLIENT, METRICS, AGENT = 6379, 8265, 10001, 8080, 52365

HEAD = Pod("p2l", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"})
WORKER = Pod("p2l", {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker"})
OPERATOR = Pod("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
PROMETHEUS = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGERS = [
    None,  # outside of the cluster
    Pod("default", {}),
    Pod("p2l", {"app": "notebook"}),
    Pod("p2l", {"ray.io/originated-from-crd": "RayJob"}),  # a submitter, which this job does without
    Pod("default", dict(WORKER.labels)),  # calls itself a Ray node, elsewhere
    Pod("default", dict(OPERATOR.labels)),
    Pod("kuberay-system", {"app": "other"}),
]


@pytest.fixture(params=OVERLAYS)
def policy(request: pytest.FixtureRequest) -> Document:
    return of_kind(overlay(request.param), "NetworkPolicy")


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("port", [GCS, DASHBOARD, CLIENT, METRICS, AGENT])
def test_a_stranger_reaches_no_port_of_a_ray_pod(policy: Document, stranger: Pod | None, port: int) -> None:
    assert not lets_through(policy, stranger, HEAD, port)
    assert not lets_through(policy, stranger, WORKER, port)


def test_the_cluster_reaches_itself_on_every_port(policy: Document) -> None:
    for port in (GCS, DASHBOARD, AGENT, 31234):
        assert lets_through(policy, WORKER, HEAD, port)
        assert lets_through(policy, HEAD, WORKER, port)


@pytest.mark.parametrize(("friend", "its_port"), [(OPERATOR, DASHBOARD), (PROMETHEUS, METRICS)])
def test_a_friend_reaches_its_port_alone(policy: Document, friend: Pod, its_port: int) -> None:
    ports = (GCS, DASHBOARD, CLIENT, METRICS, AGENT)
    assert [port for port in ports if lets_through(policy, friend, HEAD, port)] == [its_port]


@pytest.mark.parametrize(
    "hole",
    [
        lambda rules: rules[0].pop("from") and rules[0].update({"from": [{"namespaceSelector": {}}]}),
        lambda rules: rules[1]["from"][0].pop("podSelector"),
        lambda rules: rules.append({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
    ],
)
def test_a_hole_is_seen(hole: Callable[[list[Document]], object]) -> None:
    policy = of_kind(overlay("overlays/spot"), "NetworkPolicy")
    hole(policy["spec"]["ingress"])
    assert any(lets_through(policy, stranger, HEAD, DASHBOARD) for stranger in STRANGERS)


def test_a_policy_that_selects_no_ray_pod_is_seen() -> None:
    policy = of_kind(overlay("overlays/spot"), "NetworkPolicy")
    policy["spec"]["podSelector"]["matchLabels"] = {"ray.io/is-ray-node": "true"}
    assert lets_through(policy, None, HEAD, DASHBOARD)
