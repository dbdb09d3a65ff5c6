"""Machines that fail again and again: after the second time Ray starts nothing more on one of them."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

from pipeline.cluster import board

log = logging.getLogger(__name__)

FAULTS = 2  # with nothing restored in between, after which a machine is taken for broken
MOST = 0.25  # of the machines that are there; when more seem broken, it is not the machines
TOPIC, DRAINED = "blamed", "drained"


def blame(run: str, node: str, what: str, message: str) -> None:
    """Notes that a device of the node failed. what: it did so at; the same twice counts once."""
    blamed = {*(board.get(run, TOPIC, node) or []), what}
    board.put(run, TOPIC, node, sorted(blamed))
    drained = board.read(run, DRAINED)
    if len(blamed) >= FAULTS and node not in drained and len(drained) < MOST * len(alive()):
        board.put(run, DRAINED, node, message)
        drain(node, message)


def absolve(run: str, node: str) -> None:
    """The node has done work."""
    board.remove(run, TOPIC, node)


def gpus_here() -> int:
    """How many the machine of this process has, at least 1; outside of Ray, 1."""
    if not ray.is_initialized():
        return 1
    node = ray.get_runtime_context().get_node_id()
    return max([1, *(int(entry["Resources"].get("GPU", 0)) for entry in alive() if entry["NodeID"] == node)])


def drain(node: str, why: str) -> None:
    """Lets Ray start nothing more on a node, unless it is the head, and end it when it is idle."""
    found = [entry for entry in alive() if entry["NodeID"] == node]
    if not found or "node:__internal_head__" in found[0]["Resources"]:
        return
    log.error("machine drained", extra={"drained_node": node, "error": why})
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    with suppress(Exception):  # of Ray's core: what fails again will ask again
        client.drain_node(node, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), why[:200], 0)


def alive() -> list[dict[str, Any]]:
    """Ray's entries of the machines that are there."""
    return [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
